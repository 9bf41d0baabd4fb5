package broker

import (
	"fmt"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/event"
)

// failure begins the reason codes that reject.
var failure = packets.ErrUnspecifiedError.Code

// subscribe deals with a SUBSCRIBE. An error ends the connection.
func (b *Broker) subscribe(c *Conn, pk *packets.Packet) error {
	if code := pk.SubscribeValidate(); code != packets.CodeSuccess {
		return b.violation(c, event.Subscribe, code)
	}
	for _, sub := range pk.Filters {
		if sub.Qos > 1 {
			return b.rejectQoS2(c, event.Subscribe, sub.Filter)
		}
		if sub.RetainHandling > 2 { // [MQTT-3.8.3-5]
			return b.violation(c, event.Subscribe, packets.ErrProtocolViolation)
		}
		if sub.Identifier > 0 {
			return b.violation(c, event.Subscribe, packets.ErrSubscriptionIdentifiersNotSupported)
		}
	}
	existing := c.session.subscribed()
	codes, denied := b.authorizeFilters(c, pk.Filters, existing)
	if denied && !c.v5() {
		c.end(reasonForbidden, errNotAuthorized)
		return errClosed // no SUBACK
	}
	b.addSubscriptions(c, pk.Filters, codes)
	answer := codes
	if !c.v5() { // which has one code for every failure
		answer = make([]byte, len(codes))
		for i, code := range codes {
			answer[i] = min(code, failure)
		}
	}
	suback := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Suback}, PacketID: pk.PacketID, ReasonCodes: answer}
	if delay := b.config.subackDelay(); delay > 0 && !denied {
		c.delayed.Add(1)
		time.AfterFunc(delay, func() {
			c.delayed.Add(-1)
			_ = c.send(suback) // the client may be gone
		})
	} else if err := c.queue(suback); err != nil {
		return err
	}
	if denied && !b.config.KeepOpenOnDeny {
		c.end(reasonForbidden, errNotAuthorized)
		return errClosed
	}
	// AWS sends the retained message of an exact filter, none for a wildcard and
	// none to shared subscriptions.
	// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
	for i, sub := range pk.Filters {
		_, existed := existing[sub.Filter]
		asked := sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed
		if codes[i] >= failure || !asked {
			continue
		}
		if m, ok := b.Retained(sub.Filter); ok && b.mayReceive(c, sub.Filter) {
			b.enqueue(c.session, &delivery{message: m, qos: min(m.QoS, codes[i]), retain: true})
		}
	}
	return nil
}

func (c *Config) subackDelay() time.Duration {
	if c.DelaySuback == nil {
		return 0
	}
	return c.DelaySuback()
}

// authorizeFilters returns the SUBACK code of each filter, and whether a policy
// denied one.
func (b *Broker) authorizeFilters(c *Conn, filters packets.Subscriptions, existing map[string]subscription) (codes []byte, denied bool) {
	codes = make([]byte, len(filters))
	throttled := b.config.EnforceRates && !b.allSubscribes.AllowN(b.config.Now(), 1)
	room := maxSubscriptions - len(existing)
	for i, sub := range filters {
		code, reason := checkFilter(sub)
		_, known := existing[sub.Filter]
		switch {
		case throttled:
			code, reason = errQuotaExceeded, fmt.Sprintf("more than %d SUBSCRIBEs per second in this account", accountSubscribes)
		case len(filters) > maxFiltersPerSubscribe:
			code, reason = errQuotaExceeded, fmt.Sprintf("a SUBSCRIBE with %d filters; %d are allowed", len(filters), maxFiltersPerSubscribe)
		case reason == "" && !known && room <= 0:
			code, reason = errQuotaExceeded, fmt.Sprintf("the connection has %d subscriptions, all that are allowed", maxSubscriptions)
		case reason == "":
			var allowed bool
			if allowed, reason = c.authorize("iot:Subscribe", "topicfilter/"+sub.Filter); allowed {
				reason = ""
			} else {
				code, denied = errNotAuthorized, true
			}
		}
		if reason != "" {
			b.reject(c, event.Subscribe, sub.Filter, reason)
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

// checkFilter finds what is wrong with a filter, whichever client sends it.
func checkFilter(sub packets.Subscription) (code packets.Code, reason string) {
	_, filter := splitShare(sub.Filter)
	switch {
	case !validFilter(sub.Filter):
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

// addSubscriptions adds those that were granted.
func (b *Broker) addSubscriptions(c *Conn, filters packets.Subscriptions, codes []byte) {
	var added []subscription
	var topics []string
	s := c.session
	for i, f := range filters {
		if codes[i] >= failure {
			continue
		}
		sub := subscription{f.Filter, f.Qos, f.NoLocal, f.RetainAsPublished}
		b.topics.add(s, sub)
		s.mu.Lock()
		if s.subscriptions == nil {
			s.subscriptions = map[string]subscription{}
		}
		s.subscriptions[sub.Filter] = sub
		s.mu.Unlock()
		added, topics = append(added, sub), append(topics, sub.Filter)
		e := c.Event(event.Subscribed)
		e.Topic = sub.Filter
		b.config.Record(e)
	}
	if len(added) == 0 {
		return
	}
	if s.store != nil {
		if err := s.store.subscribe(s.clientID, added); err != nil {
			b.config.Log.Error("keeping subscriptions", "client", s.clientID, "error", err)
		}
	}
	b.lifecycle(c, "subscriptions", lifecycleEvent{EventType: "subscribed", Topics: topics})
}

// unsubscribe deals with an UNSUBSCRIBE.
func (b *Broker) unsubscribe(c *Conn, pk *packets.Packet) error {
	if code := pk.UnsubscribeValidate(); code != packets.CodeSuccess {
		return b.violation(c, event.Subscribe, code)
	}
	s := c.session
	codes := make([]byte, len(pk.Filters))
	var topics []string
	for i, sub := range pk.Filters {
		if code, reason := checkFilter(sub); reason != "" {
			b.reject(c, event.Subscribe, sub.Filter, reason)
			codes[i] = code.Code
			continue
		}
		codes[i] = packets.CodeSuccess.Code // AWS lists no code for a filter that was not there (B8)
		s.mu.Lock()
		_, existed := s.subscriptions[sub.Filter]
		delete(s.subscriptions, sub.Filter)
		s.mu.Unlock()
		if !existed {
			continue
		}
		b.topics.remove(s, sub.Filter)
		topics = append(topics, sub.Filter)
		e := c.Event(event.Unsubscribed)
		e.Topic = sub.Filter
		b.config.Record(e)
	}
	if len(topics) > 0 {
		if s.store != nil {
			if err := s.store.unsubscribe(s.clientID, topics); err != nil {
				b.config.Log.Error("removing subscriptions", "client", s.clientID, "error", err)
			}
		}
		b.lifecycle(c, "subscriptions", lifecycleEvent{EventType: "unsubscribed", Topics: topics})
	}
	return c.queue(&packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Unsuback}, PacketID: pk.PacketID, ReasonCodes: codes,
	})
}
