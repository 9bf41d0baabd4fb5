package broker

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/awsiot"
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
		switch {
		case sub.Qos > 1:
			return b.rejectQoS2(c, event.Subscribe, sub.Filter)
		case sub.RetainHandling > 2: // [MQTT-3.8.3-5]
			return b.violation(c, event.Subscribe, packets.ErrProtocolViolation)
		case len(pk.Properties.SubscriptionIdentifier) > 0:
			return b.violation(c, event.Subscribe, packets.ErrSubscriptionIdentifiersNotSupported)
		}
	}
	existing := c.session.subscribed()
	codes, denied := b.authorizeFilters(c, pk.Filters, existing)
	if denied && !c.v5() {
		c.end(reasonForbidden, packets.ErrNotAuthorized)
		return errClosed // no SUBACK
	}
	var topics []string
	added := map[string][]byte{}
	suback := newPacket(packets.Suback, pk.PacketID)
	for i, f := range pk.Filters {
		if codes[i] < failure {
			sub := subscription{f.Filter, f.Qos, f.NoLocal, f.RetainAsPublished}
			b.addSubscription(c.session, sub)
			topics, added[sub.Filter] = append(topics, sub.Filter), awsiot.EncodeJSON(sub)
			c.record(event.Subscribed, sub.Filter)
		}
		if suback.ReasonCodes = append(suback.ReasonCodes, codes[i]); !c.v5() {
			suback.ReasonCodes[i] = min(codes[i], failure) // the one code for every failure
		}
	}
	if err := b.subscriptionsChanged(c, "subscribed", topics, added); err != nil {
		return err
	}
	var delay time.Duration
	if b.config.DelaySuback != nil {
		delay = b.config.DelaySuback()
	}
	if delay > 0 && !denied {
		c.delayed.Add(1)
		time.AfterFunc(delay, func() {
			c.delayed.Add(-1)
			_ = c.send(suback) // the client may be gone
		})
	} else if err := c.queue(suback); err != nil {
		return err
	}
	if denied && !b.config.KeepOpenOnDeny {
		c.end(reasonForbidden, packets.ErrNotAuthorized)
		return errClosed
	}
	// AWS sends the retained message of an exact filter, none for a wildcard and none to shared
	// subscriptions.
	// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
	for i, sub := range pk.Filters {
		_, existed := existing[sub.Filter]
		asked := sub.RetainHandling == 0 || sub.RetainHandling == 1 && !existed
		if m, ok := b.Retained(sub.Filter); ok && asked && codes[i] < failure {
			b.offer(c.session, &delivery{message: m, qos: min(m.QoS, codes[i]), retain: true})
		}
	}
	return nil
}

// authorizeFilters returns the SUBACK code of each filter, and whether a policy denied one.
func (b *Broker) authorizeFilters(c *Conn, filters packets.Subscriptions, existing map[string]subscription) (codes []byte, denied bool) {
	throttled := b.config.EnforceRates && !b.allSubscribes.AllowN(b.config.Now(), 1)
	room := maxSubscriptions - len(existing)
	for i, sub := range filters {
		code, reason := checkFilter(sub)
		_, known := existing[sub.Filter]
		known = known || slices.ContainsFunc(filters[:i], func(s packets.Subscription) bool { return s.Filter == sub.Filter })
		switch {
		case throttled:
			code, reason = packets.ErrQuotaExceeded, fmt.Sprintf("more than %d SUBSCRIBEs per second in this account", accountSubscribes)
		case len(filters) > maxFiltersPerSubscribe:
			code, reason = packets.ErrQuotaExceeded, fmt.Sprintf("a SUBSCRIBE with %d filters; %d are allowed", len(filters), maxFiltersPerSubscribe)
		case reason == "" && !known && room <= 0:
			code, reason = packets.ErrQuotaExceeded, fmt.Sprintf("the connection has %d subscriptions, all that are allowed", maxSubscriptions)
		case reason == "":
			allowed, why := c.auth.Authorize(AuthRequest{Action: "iot:Subscribe", Resource: "topicfilter/" + sub.Filter})
			if !allowed {
				code, reason, denied = packets.ErrNotAuthorized, why, true
			}
		}
		if reason != "" {
			b.reject(c, event.Subscribe, sub.Filter, reason)
			codes = append(codes, code.Code)
			continue
		}
		if !known {
			room--
		}
		codes = append(codes, sub.Qos)
	}
	return codes, denied
}

// checkFilter finds what is wrong with a filter, whichever client sends it.
func checkFilter(sub packets.Subscription) (code packets.Code, reason string) {
	_, filter := splitShare(sub.Filter)
	switch {
	case !validFilter(sub.Filter):
		return packets.ErrTopicFilterInvalid, "the filter breaks the rules for wildcards"
	case len(filter) > awsiot.MaxTopic:
		return packets.ErrTopicFilterInvalid, fmt.Sprintf("the filter has %d bytes; %d are allowed", len(filter), awsiot.MaxTopic)
	case strings.Count(filter, "/") > awsiot.MaxTopicSlashes:
		return packets.ErrTopicFilterInvalid, fmt.Sprintf("the filter has more than %d slashes", awsiot.MaxTopicSlashes)
	case strings.HasPrefix(filter, "$") && !strings.HasPrefix(filter, "$aws/") || strings.HasPrefix(filter, awsiot.IngestPrefix):
		return packets.ErrTopicFilterInvalid, "the filter is reserved, and AWS IoT offers nothing under it"
	case sub.NoLocal && filter != sub.Filter:
		return packets.ErrTopicFilterInvalid, "a shared subscription cannot be No Local"
	}
	return packets.CodeSuccess, ""
}

// addSubscription adds or replaces a subscription.
func (b *Broker) addSubscription(s *session, sub subscription) {
	b.topics.add(s, sub)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subscriptions == nil {
		s.subscriptions = map[string]subscription{}
	}
	s.subscriptions[sub.Filter] = sub
}

// subscriptionsChanged stores changed subscriptions and publishes the lifecycle event. What cannot be
// stored ends the connection, without SUBACK or UNSUBACK.
func (b *Broker) subscriptionsChanged(c *Conn, what string, topics []string, changed map[string][]byte) error {
	if len(topics) == 0 {
		return nil
	}
	if err := c.session.store.updateSession(c.session.clientID, subscriptionsBucket, changed); err != nil {
		b.reject(c, event.Subscribe, topics[0], err.Error())
		c.end(reasonServerError, packets.ErrUnspecifiedError)
		return errClosed
	}
	b.lifecycle(c, "subscriptions", lifecycleEvent{EventType: what, Topics: topics})
	return nil
}

// unsubscribe deals with an UNSUBSCRIBE.
func (b *Broker) unsubscribe(c *Conn, pk *packets.Packet) error {
	if code := pk.UnsubscribeValidate(); code != packets.CodeSuccess {
		return b.violation(c, event.Subscribe, code)
	}
	s := c.session
	var topics []string
	removed := map[string][]byte{}
	unsuback := newPacket(packets.Unsuback, pk.PacketID)
	for _, sub := range pk.Filters {
		code, reason := checkFilter(sub) // AWS lists no code for a filter that was not there (B8)
		unsuback.ReasonCodes = append(unsuback.ReasonCodes, code.Code)
		if reason != "" {
			b.reject(c, event.Subscribe, sub.Filter, reason)
			continue
		}
		s.mu.Lock()
		_, existed := s.subscriptions[sub.Filter]
		delete(s.subscriptions, sub.Filter)
		s.mu.Unlock()
		if existed {
			b.topics.remove(s, sub.Filter)
			topics, removed[sub.Filter] = append(topics, sub.Filter), nil
			c.record(event.Unsubscribed, sub.Filter)
		}
	}
	if err := b.subscriptionsChanged(c, "unsubscribed", topics, removed); err != nil {
		return err
	}
	return c.queue(unsuback)
}
