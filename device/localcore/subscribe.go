package localcore

import (
	"fmt"
	"slices"
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/policy"
)

const sharePrefix = "$share/"

// subscribe deals with a SUBSCRIBE. An error closes the connection.
func (b *broker) subscribe(c *connection, pk packets.Packet) error {
	if code := pk.SubscribeValidate(); code != packets.CodeSuccess {
		return b.breach(c, ActionSubscribe, code)
	}
	for _, sub := range pk.Filters {
		if sub.Qos > 1 {
			return b.refuseQoS2(c, ActionSubscribe, sub.Filter)
		}
		if sub.Identifier > 0 {
			return b.breach(c, ActionSubscribe, packets.ErrSubscriptionIdentifiersNotSupported)
		}
	}
	codes, denied := b.judgeFilters(c, pk.Filters)
	if denied && !c.v5() {
		c.end(reasonForbidden, packets.ErrNotAuthorized)
		return packets.ErrRejectPacket // no SUBACK
	}
	existed := b.addSubscriptions(c, pk.Filters, codes)
	if err := c.client.WritePacket(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Suback},
		PacketID:    pk.PacketID,
		ReasonCodes: forVersion(c, codes),
	}); err != nil {
		return packets.ErrRejectPacket // the connection is gone
	}
	if denied && !b.config.Choices.KeepOpenOnDeny {
		c.end(reasonForbidden, packets.ErrNotAuthorized)
		return packets.ErrRejectPacket
	}
	b.deliverRetained(c, pk.Filters, codes, existed)
	return nil
}

// forVersion returns the SUBACK codes as the client's version knows them:
// MQTT 3.1.1 has one code for every failure.
func forVersion(c *connection, codes []byte) []byte {
	if c.v5() {
		return codes
	}
	out := slices.Clone(codes)
	for i, code := range out {
		if code >= packets.ErrUnspecifiedError.Code {
			out[i] = packets.ErrUnspecifiedError.Code
		}
	}
	return out
}

// judgeFilters returns the SUBACK code of each filter, and whether a policy
// denied one.
func (b *broker) judgeFilters(c *connection, filters packets.Subscriptions) (codes []byte, denied bool) {
	codes = make([]byte, len(filters))
	throttled := b.config.Quotas == QuotasAWS && !b.allSubscribes.allow(b.config.Now(), accountSubscribes)
	room := maxSubscriptions - c.client.State.Subscriptions.Len()
	for i, sub := range filters {
		code, reason := checkFilter(sub)
		_, known := c.client.State.Subscriptions.Get(sub.Filter)
		switch {
		case throttled:
			code, reason = packets.ErrQuotaExceeded, fmt.Sprintf("more than %d SUBSCRIBEs in a second in this account", accountSubscribes)
		case len(filters) > maxFiltersPerSubscribe:
			code, reason = packets.ErrQuotaExceeded, fmt.Sprintf("a SUBSCRIBE with %d filters; %d are allowed", len(filters), maxFiltersPerSubscribe)
		case reason == "" && !known && room <= 0:
			code, reason = packets.ErrQuotaExceeded, fmt.Sprintf("the connection has %d subscriptions, all that are allowed", maxSubscriptions)
		case reason == "":
			d := b.judge(c, &policy.Request{Action: "iot:Subscribe", Resource: b.config.arn("topicfilter/" + sub.Filter)})
			if !d.Allowed {
				code, reason, denied = packets.ErrNotAuthorized, d.Explain(), true
			}
		}
		if reason != "" {
			b.refuse(c, ActionSubscribe, sub.Filter, reason)
			codes[i] = code.Code
			continue
		}
		if !known {
			room--
		}
		codes[i] = sub.Qos
	}
	return codes, denied
}

// checkFilter finds what is wrong with a filter, whoever sends it.
func checkFilter(sub packets.Subscription) (code packets.Code, reason string) {
	filter := sub.Filter
	if rest, shared := strings.CutPrefix(filter, sharePrefix); shared {
		_, filter, _ = strings.Cut(rest, "/")
	}
	switch {
	case !mqtt.IsValidFilter(sub.Filter, false) || !wholeLevels(filter):
		return packets.ErrTopicFilterInvalid, "the filter breaks the rules for wildcards"
	case len(filter) > maxTopic:
		return packets.ErrTopicFilterInvalid, fmt.Sprintf("the filter has %d bytes; %d are allowed", len(filter), maxTopic)
	case countedSlashes(filter) > maxTopicSlashes:
		return packets.ErrTopicFilterInvalid, fmt.Sprintf("the filter has more than %d slashes", maxTopicSlashes)
	case strings.HasPrefix(filter, "$") && !strings.HasPrefix(filter, "$aws/"):
		return packets.ErrTopicFilterInvalid, "the filter is reserved, and AWS IoT offers nothing under it"
	case sub.NoLocal && filter != sub.Filter:
		return packets.ErrTopicFilterInvalid, "a shared subscription cannot be No Local"
	}
	return packets.CodeSuccess, ""
}

// wholeLevels tells whether each wildcard of a filter is a level of its own.
func wholeLevels(filter string) bool {
	if filter == "" {
		return false
	}
	for level := range strings.SplitSeq(filter, "/") {
		if len(level) > 1 && strings.ContainsAny(level, "+#") {
			return false
		}
	}
	return true
}

// addSubscriptions adds those that were granted, and tells which were there.
func (b *broker) addSubscriptions(c *connection, filters packets.Subscriptions, codes []byte) (existed []bool) {
	existed = make([]bool, len(filters))
	var topics []string
	for i, sub := range filters {
		if codes[i] >= packets.ErrUnspecifiedError.Code {
			continue
		}
		existed[i] = !b.mochi.Topics.Subscribe(c.session.ClientID, sub)
		c.client.State.Subscriptions.Add(sub.Filter, sub)
		topics = append(topics, sub.Filter)
	}
	if len(topics) == 0 {
		return existed
	}
	c.noteFilters()
	b.keepSubscriptions(c, topics)
	for _, topic := range topics {
		e := c.event(Subscribed)
		e.Topic = topic
		b.journal.record(e)
	}
	b.lifecycleSubscription(c, "subscribed", topics)
	return existed
}

// deliverRetained sends the retained messages of exact filters: AWS sends none
// for a wildcard, and none to shared subscriptions.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
func (b *broker) deliverRetained(c *connection, filters packets.Subscriptions, codes []byte, existed []bool) {
	for i, sub := range filters {
		asked := sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed[i]
		if codes[i] >= packets.ErrUnspecifiedError.Code || !asked {
			continue
		}
		m, ok := b.mochi.Topics.Retained.Get(sub.Filter)
		if !ok || !b.mayReceive(c, sub.Filter) {
			continue
		}
		m = m.Copy(false)
		m.FixedHeader.Retain = true
		m.FixedHeader.Qos = min(m.FixedHeader.Qos, codes[i])
		b.post(c.outbox, m)
	}
}

// unsubscribe deals with an UNSUBSCRIBE.
func (b *broker) unsubscribe(c *connection, pk packets.Packet) error {
	if code := pk.UnsubscribeValidate(); code != packets.CodeSuccess {
		return b.breach(c, ActionSubscribe, code)
	}
	codes := make([]byte, len(pk.Filters))
	var topics []string
	for i, sub := range pk.Filters {
		if code, reason := checkFilter(sub); reason != "" {
			b.refuse(c, ActionSubscribe, sub.Filter, reason)
			codes[i] = code.Code
			continue
		}
		if b.mochi.Topics.Unsubscribe(sub.Filter, c.session.ClientID) {
			topics = append(topics, sub.Filter)
			e := c.event(Unsubscribed)
			e.Topic = sub.Filter
			b.journal.record(e)
		}
		codes[i] = packets.CodeSuccess.Code // AWS lists no code for a filter that was not there
		c.client.State.Subscriptions.Delete(sub.Filter)
	}
	c.noteFilters()
	if len(topics) > 0 {
		b.keepUnsubscribed(c, topics)
		b.lifecycleSubscription(c, "unsubscribed", topics)
	}
	if err := c.client.WritePacket(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Unsuback},
		PacketID:    pk.PacketID,
		ReasonCodes: codes,
	}); err != nil {
		return packets.ErrRejectPacket // the connection is gone
	}
	return nil
}

// noteFilters looks whether mayReceive must compare filters.
func (c *connection) noteFilters() {
	for filter := range c.client.State.Subscriptions.GetAll() {
		if strings.HasSuffix(filter, "/#") {
			c.hasMultiLevel.Store(true)
			return
		}
	}
	c.hasMultiLevel.Store(false)
}

// mayReceive judges the delivery of a message. A denied one is not delivered,
// and the client is not told.
func (b *broker) mayReceive(c *connection, topic string) bool {
	if c.hasMultiLevel.Load() && c.grantedQoS(topic) < 0 {
		return false // only mochi thinks that a/# matches a
	}
	if b.config.Quotas == QuotasAWS && !c.publishes.allow(b.config.Now(), publishesPerSecond) {
		b.refuse(c, ActionReceive, topic, "more than 100 messages in a second; this one is discarded")
		return false
	}
	d := b.judge(c, &policy.Request{Action: "iot:Receive", Resource: b.config.arn("topic/" + topic)})
	if !d.Allowed {
		b.refuse(c, ActionReceive, topic, d.Explain())
	}
	return d.Allowed
}

// grantedQoS returns the highest QoS of the client's subscriptions that match
// the topic, -1 if none does.
func (c *connection) grantedQoS(topic string) int {
	granted := -1
	for filter, sub := range c.client.State.Subscriptions.GetAll() {
		if matches(filter, topic) {
			granted = max(granted, int(sub.Qos))
		}
	}
	return granted
}

// matches tells whether a filter matches a topic by AWS's rules: as MQTT says,
// but that a/# does not match a.
func matches(filter, topic string) bool {
	if rest, shared := strings.CutPrefix(filter, sharePrefix); shared {
		_, filter, _ = strings.Cut(rest, "/")
	}
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	for {
		level, restFilter, moreFilter := strings.Cut(filter, "/")
		if level == "#" {
			return true
		}
		name, restTopic, moreTopic := strings.Cut(topic, "/")
		if level != "+" && level != name || moreFilter != moreTopic {
			return false
		}
		if !moreFilter {
			return true
		}
		filter, topic = restFilter, restTopic
	}
}
