package localcore

import (
	"fmt"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/policy"
)

// published deals with a PUBLISH of a client: checks, policies, then the
// provisioning API or the topic tree, and PUBACK. An error closes the connection.
func (b *broker) published(c *connection, pk packets.Packet) error {
	if code := pk.PublishValidate(maxTopicAliases); code != packets.CodeSuccess {
		return b.refusePublish(c, pk, code, reasonClientError, code.Reason)
	}
	pk = resolveAlias(c, pk)
	if pk.TopicName == "" {
		return b.breach(c, ActionPublish, packets.ErrProtocolViolationNoTopic) // an alias that stands for nothing
	}
	if pk.FixedHeader.Qos > 1 {
		return b.refuseQoS2(c, ActionPublish, pk.TopicName)
	}
	if code, reason := checkPublication(pk.TopicName, pk.Payload, pk.FixedHeader.Retain); reason != "" {
		return b.refusePublish(c, pk, code, reasonClientError, reason)
	}
	if reason := checkProperties(pk.Properties); reason != "" {
		return b.refusePublish(c, pk, packets.ErrQuotaExceeded, reasonClientError, reason)
	}
	if b.config.Quotas == QuotasAWS && !c.publishes.allow(b.config.Now(), publishesPerSecond) {
		b.refuse(c, ActionPublish, pk.TopicName, "more than 100 messages in a second; this one is discarded")
		return nil
	}
	if d := b.judgePublish(c, pk.TopicName, pk.FixedHeader.Retain); !d.Allowed {
		return b.refusePublish(c, pk, packets.ErrNotAuthorized, reasonForbidden, d.Explain())
	}
	e := c.event(Published)
	e.Topic = pk.TopicName
	b.journal.record(e)
	return b.accept(c, pk)
}

// accept passes a message on and acknowledges it. A provisioning request is
// acknowledged first: its answer may take long.
func (b *broker) accept(c *connection, pk packets.Packet) error {
	if topic, ok := awsiot.ParseTopic(pk.TopicName); ok {
		if err := b.acknowledge(c, pk); err != nil {
			return err
		}
		b.provision.enqueue(c, topic, pk.Payload)
		return nil
	}
	if strings.HasPrefix(pk.TopicName, "$aws/rules/") {
		return b.acknowledge(c, pk) // Basic Ingest goes to rules, never to subscribers
	}
	b.route(c.session.ClientID, c.client.Properties.ProtocolVersion, pk)
	return b.acknowledge(c, pk)
}

// acknowledge sends the PUBACK of a message of QoS 1. The next packet is read
// after it, so that no client has more than one unacknowledged here, where AWS
// allows 100.
func (b *broker) acknowledge(c *connection, pk packets.Packet) error {
	if pk.FixedHeader.Qos == 0 {
		return nil
	}
	if err := c.client.WritePacket(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Puback},
		PacketID:    pk.PacketID,
	}); err != nil {
		return packets.ErrRejectPacket // the connection is gone
	}
	return nil
}

// acknowledged follows a PUBACK of the client.
func (b *broker) acknowledged(c *connection, pk packets.Packet) error {
	if err := c.outbox.acknowledge(pk.PacketID); err != nil {
		b.config.Log.Error("removing a message of a session", "client", c.session.ClientID, "error", err)
	}
	return nil
}

// resolveAlias puts the topic of an MQTT 5 topic alias into the packet.
func resolveAlias(c *connection, pk packets.Packet) packets.Packet {
	if pk.Properties.TopicAlias > 0 {
		pk.TopicName = c.client.State.TopicAliases.Inbound.Set(pk.Properties.TopicAlias, pk.TopicName)
		pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 0, false
	}
	return pk
}

// checkPublication finds what is wrong with a message, whoever sends it. Wills
// are judged alike.
func checkPublication(topic string, payload []byte, retain bool) (code packets.Code, reason string) {
	switch {
	case topic == "" || strings.ContainsAny(topic, "+#\x00"):
		return packets.ErrTopicNameInvalid, "the topic is empty or holds a wildcard"
	case len(topic) > maxTopic:
		return packets.ErrTopicNameInvalid, fmt.Sprintf("the topic has %d bytes; %d are allowed", len(topic), maxTopic)
	case countedSlashes(topic) > maxTopicSlashes:
		return packets.ErrTopicNameInvalid, fmt.Sprintf("the topic has more than %d slashes", maxTopicSlashes)
	case len(payload) > maxPayload:
		return packets.ErrQuotaExceeded, fmt.Sprintf("the payload has %d bytes; %d are allowed", len(payload), maxPayload)
	case retain && strings.HasPrefix(topic, "$"):
		return packets.ErrTopicNameInvalid, "a reserved topic takes no retained messages"
	case !mayPublishReserved(topic):
		return packets.ErrTopicNameInvalid, "the topic is reserved, and AWS IoT offers nothing under it to publish to"
	}
	return packets.CodeSuccess, ""
}

// checkProperties finds what is too large in the properties of MQTT 5.
func checkProperties(p packets.Properties) string {
	user := 0
	for _, u := range p.User {
		user += len(u.Key) + len(u.Val)
	}
	switch {
	case len(p.ContentType) > maxContentType:
		return fmt.Sprintf("the content type has %d bytes; %d are allowed", len(p.ContentType), maxContentType)
	case len(p.CorrelationData) > propertyByteLimit:
		return fmt.Sprintf("the correlation data has %d bytes; %d are allowed", len(p.CorrelationData), propertyByteLimit)
	case user > propertyByteLimit:
		return fmt.Sprintf("the user properties have %d bytes in sum; %d are allowed", user, propertyByteLimit)
	}
	return ""
}

// countedSlashes counts a topic's slashes, the first three of
// $aws/rules/NAME/ not among them.
func countedSlashes(topic string) int {
	n := strings.Count(topic, "/")
	if strings.HasPrefix(topic, "$aws/rules/") {
		n -= 3
	}
	return n
}

// reservedPrefixes are the reserved topics that devices may publish to, by
// prefix. Of the services behind them only provisioning is here; messages to
// the others go to subscribers alone.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/reserved-topics.html
var reservedPrefixes = []string{
	"$aws/certificates/", "$aws/provisioning-templates/", "$aws/things/", "$aws/rules/", "$aws/commands/",
}

func mayPublishReserved(topic string) bool {
	if !strings.HasPrefix(topic, "$") {
		return true
	}
	for _, prefix := range reservedPrefixes {
		if strings.HasPrefix(topic, prefix) {
			return true
		}
	}
	return false
}

// judgePublish asks for iot:Publish and, for a retained message, for
// iot:RetainPublish besides.
func (b *broker) judgePublish(c *connection, topic string, retain bool) policy.Decision {
	resource := b.config.arn("topic/" + topic)
	d := b.judge(c, &policy.Request{Action: "iot:Publish", Resource: resource})
	if d.Allowed && retain {
		return b.judge(c, &policy.Request{Action: "iot:RetainPublish", Resource: resource})
	}
	return d
}

// refusePublish answers a PUBLISH that is not accepted: MQTT 3.1.1 by closing
// without PUBACK, MQTT 5 with the reason code in PUBACK and DISCONNECT.
func (b *broker) refusePublish(c *connection, pk packets.Packet, code packets.Code, reason, why string) error {
	b.refuse(c, ActionPublish, pk.TopicName, why)
	if c.v5() && pk.FixedHeader.Qos == 1 {
		_ = c.client.WritePacket(packets.Packet{ // the reader sees that the connection is gone
			FixedHeader: packets.FixedHeader{Type: packets.Puback},
			PacketID:    pk.PacketID,
			ReasonCode:  code.Code,
		})
		if b.config.Choices.KeepOpenOnDeny {
			return nil
		}
	}
	c.end(reason, code)
	return packets.ErrRejectPacket
}

// refuseQoS2 leaves MQTT 3.1.1 without an answer and closes MQTT 5 with 0x9B.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
func (b *broker) refuseQoS2(c *connection, a Action, topic string) error {
	b.refuse(c, a, topic, "QoS 2 is not supported; use 0 or 1")
	if !c.v5() {
		return nil
	}
	c.end(reasonClientError, packets.ErrQosNotSupported)
	return packets.ErrRejectPacket
}
