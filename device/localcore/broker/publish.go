package broker

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/event"
)

// published deals with a PUBLISH of a client: checks, policies, then the service behind a reserved
// topic or the subscribers, and PUBACK. An error ends the connection.
func (b *Broker) published(ctx context.Context, c *Conn, pk *packets.Packet) error {
	if code := pk.PublishValidate(maxTopicAliases); code != packets.CodeSuccess {
		return b.rejectPublish(c, pk, code, reasonClientError, code.Reason)
	}
	if alias := pk.Properties.TopicAlias; alias > 0 && pk.TopicName == "" {
		pk.TopicName = c.aliases[alias]
	} else if alias > 0 {
		if c.aliases == nil {
			c.aliases = map[uint16]string{}
		}
		c.aliases[alias] = pk.TopicName
	}
	if pk.TopicName == "" {
		return b.violation(c, event.Publish, packets.ErrProtocolViolationNoTopic) // an alias that stands for nothing
	}
	if pk.FixedHeader.Qos > 1 {
		return b.rejectQoS2(c, event.Publish, pk.TopicName)
	}
	if code, reason := checkMessage(pk.TopicName, pk.Payload, pk.FixedHeader.Retain, &pk.Properties); reason != "" {
		return b.rejectPublish(c, pk, code, reasonClientError, reason)
	}
	if c.overRate() {
		b.reject(c, event.Publish, pk.TopicName, overRateReason)
		return nil
	}
	if allowed, reason := c.authorizePublish(pk.TopicName, pk.FixedHeader.Retain); !allowed {
		return b.rejectPublish(c, pk, packets.ErrNotAuthorized, reasonForbidden, reason)
	}
	c.record(event.Published, pk.TopicName)

	m := newMessage(pk.TopicName, pk.Payload, pk.FixedHeader, &pk.Properties, &c.principal)
	var handler Handler
	direct := strings.HasPrefix(m.Topic, awsiot.IngestPrefix) // to rules, never to subscribers
	reserved := strings.HasPrefix(m.Topic, "$aws/")
	if reserved && !direct && b.config.Reserved != nil {
		handler, direct = b.config.Reserved(m.Topic)
		c.mu.Lock()
		m.Early, m.Ahead = c.delayed.Load() > 0, len(c.requests)
		c.mu.Unlock()
	}
	b.stamp(m)
	if !direct {
		routed, err := b.route(m, c.routed)
		if c.routed, c.published = routed, c.published+1; err != nil {
			return b.rejectPublish(c, pk, packets.ErrQuotaExceeded, reasonServerError, err.Error())
		}
	}
	// Before the reply of a handler. Each message is dealt with before the next one is read, so that
	// no client has more than one unacknowledged here, where AWS allows 100.
	if m.QoS > 0 {
		c.queued = true
		if err := c.queueBytes([]byte{packets.Puback << 4, 2, byte(pk.PacketID >> 8), byte(pk.PacketID)}); err != nil {
			return err
		}
	}
	if handler != nil {
		b.handOver(c, m.Topic, func() { handler(ctx, c, m) })
	} else if reserved && (!direct || b.config.Observe == nil) {
		b.warnSilent(m)
	}
	return nil
}

// A Handler answers a message that a client published to a reserved topic. The broker calls it for
// one message of a connection after the other, each after its PUBACK, so that it may take its time.
// ctx ends when the broker closes.
type Handler func(ctx context.Context, c *Conn, m *Message)

// handOver runs a handler when those of the messages before it have ended.
func (b *Broker) handOver(c *Conn, topic string, handle func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests) > maxRequests {
		b.config.Log.Warn("discarded a message to a reserved topic: too many wait", "client", c.principal.ClientID, "topic", topic)
		return
	}
	if c.requests = append(c.requests, handle); len(c.requests) > 1 {
		return // the goroutine of the first one goes on with it
	}
	b.work.Go(func() {
		growStack()
		for more := true; more; {
			func() {
				defer b.recoverPanic(c)
				handle()
			}()
			c.mu.Lock()
			c.requests = slices.Delete(c.requests, 0, 1)
			if more = len(c.requests) > 0; more {
				handle = c.requests[0]
			}
			c.mu.Unlock()
		}
	})
}

// warnSilent says once for each topic that no answer will come.
func (b *Broker) warnSilent(m *Message) {
	b.mu.Lock()
	news := !b.silent[m.Topic] && len(b.silent) < maxSilentTopics
	if news {
		b.silent[m.Topic] = true
	}
	b.mu.Unlock()
	if news {
		b.config.Log.Warn("nothing answers on this reserved topic: the emulator has no such service", "topic", m.Topic, "client", m.ClientID)
	}
}

// CheckMessage returns an error that says what is wrong with a message, whichever client sends it,
// and whether over MQTT or HTTPS.
func CheckMessage(m *Message) error {
	if _, reason := checkMessage(m.Topic, m.Payload, m.Retain, new(m.properties())); reason != "" {
		return fmt.Errorf("cannot publish: %s", reason)
	}
	return nil
}

// checkMessage finds what is wrong with a message. Wills are checked alike.
func checkMessage(topic string, payload []byte, retain bool, p *packets.Properties) (code packets.Code, reason string) {
	user, texts := 0, topic+p.ResponseTopic+p.ContentType
	for _, u := range p.User {
		user += len(u.Key) + len(u.Val)
		texts += u.Key + u.Val
	}
	switch {
	case topic == "" || strings.ContainsAny(topic, "+#"):
		return packets.ErrTopicNameInvalid, "the topic is empty or holds a wildcard"
	case strings.Contains(texts, "\x00"):
		return packets.ErrTopicNameInvalid, "the topic or a property holds the character U+0000" // [MQTT-1.5.4-2]
	case len(counted(topic)) > awsiot.MaxTopic:
		return packets.ErrTopicNameInvalid, fmt.Sprintf("the topic has %d bytes; %d are allowed", len(counted(topic)), awsiot.MaxTopic)
	case strings.Count(counted(topic), "/") > awsiot.MaxTopicSlashes:
		return packets.ErrTopicNameInvalid, fmt.Sprintf("the topic has more than %d slashes", awsiot.MaxTopicSlashes)
	case len(payload) > MaxPayload:
		return packets.ErrQuotaExceeded, fmt.Sprintf("the payload has %d bytes; %d are allowed", len(payload), MaxPayload)
	case retain && strings.HasPrefix(topic, "$"):
		return packets.ErrTopicNameInvalid, "a reserved topic takes no retained messages"
	case strings.HasPrefix(topic, "$") && !slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(topic, p) }):
		return packets.ErrTopicNameInvalid, "the topic is reserved, and AWS IoT offers nothing under it to publish to"
	case p.PayloadFormat > 1:
		return packets.ErrProtocolViolation, "the Payload Format Indicator is neither 0 nor 1" // [MQTT-3.3.2.3.2]
	case strings.ContainsAny(p.ResponseTopic, "+#") || len(p.ResponseTopic) > math.MaxUint16:
		return packets.ErrProtocolViolation, "the response topic holds a wildcard or is too long" // [MQTT-3.3.2-14]
	case len(p.ContentType) > maxContentType:
		return packets.ErrQuotaExceeded, fmt.Sprintf("the content type has %d bytes; %d are allowed", len(p.ContentType), maxContentType)
	case len(p.CorrelationData) > propertyByteLimit:
		return packets.ErrQuotaExceeded, fmt.Sprintf("the correlation data has %d bytes; %d are allowed", len(p.CorrelationData), propertyByteLimit)
	case user > propertyByteLimit:
		return packets.ErrQuotaExceeded, fmt.Sprintf("the user properties have %d bytes in sum; %d are allowed", user, propertyByteLimit)
	}
	return packets.CodeSuccess, ""
}

// counted returns the part of a topic that its limits are of: what follows $aws/rules/NAME/.
func counted(topic string) string {
	if ingested, ok := strings.CutPrefix(topic, awsiot.IngestPrefix); ok {
		_, topic, _ = strings.Cut(ingested, "/")
	}
	return topic
}

// reservedPrefixes are the reserved topics that devices may publish to, by prefix.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/reserved-topics.html
var reservedPrefixes = []string{
	"$aws/certificates/", "$aws/provisioning-templates/", "$aws/things/", awsiot.IngestPrefix, "$aws/commands/",
}

// pubackCodes are the reason codes that AWS rejects with in PUBACK; others stand in DISCONNECT
// alone.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
var pubackCodes = []byte{0x80, 0x87, 0x90, 0x91, 0x97}

// rejectPublish answers a PUBLISH that is not accepted: MQTT 3.1.1 by closing without PUBACK, MQTT
// 5 with the reason code in PUBACK and DISCONNECT.
func (b *Broker) rejectPublish(c *Conn, pk *packets.Packet, code packets.Code, reason, why string) error {
	b.reject(c, event.Publish, pk.TopicName, why)
	if c.v5() && pk.FixedHeader.Qos == 1 && slices.Contains(pubackCodes, code.Code) {
		puback := newPacket(packets.Puback, pk.PacketID)
		puback.ReasonCode = code.Code
		if err := c.queue(puback); err != nil || b.config.KeepOpenOnDeny {
			return err
		}
	}
	_ = c.finishBatch()
	c.end(reason, code)
	return errClosed
}

// rejectQoS2 leaves MQTT 3.1.1 without an answer and closes MQTT 5 with 0x9B.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
func (b *Broker) rejectQoS2(c *Conn, a event.Action, topic string) error {
	b.reject(c, a, topic, "QoS 2 is not supported; use 0 or 1")
	if !c.v5() {
		return nil
	}
	c.end(reasonClientError, packets.ErrQosNotSupported)
	return errClosed
}
