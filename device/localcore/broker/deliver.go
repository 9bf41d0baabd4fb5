package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/event"
)

// Publish sends a message of the service itself to all who subscribed, as far
// as they may receive it.
func (b *Broker) Publish(m *Message) {
	b.stamp(m)
	b.route(m)
}

// stamp sets the time of a message and shows it to Config.Observe.
func (b *Broker) stamp(m *Message) {
	m.Time = b.config.Now()
	m.Expiry = min(m.Expiry, maxMessageExpiry)
	if b.config.Observe != nil {
		b.config.Observe(m)
	}
}

// route retains a message if it asks for that, and sends it to all who
// subscribed.
func (b *Broker) route(m *Message) {
	if m.Retain {
		b.retain(m)
	}
	for s, sub := range b.topics.match(m.Topic) {
		b.deliverTo(s, sub, m)
	}
}

// deliverTo leaves a message with the session of a subscriber. A client that is
// away gets QoS 1 only, and needs the right to receive when it comes back.
func (b *Broker) deliverTo(s *session, sub subscription, m *Message) {
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	d := &delivery{
		message: m,
		qos:     min(m.QoS, sub.Qos),
		retain:  m.Retain && s.version == 5 && sub.RetainAsPublished, // [MQTT-3.3.1-12]
	}
	switch {
	case sub.NoLocal && m.ClientID == s.clientID: // [MQTT-3.8.3-3]
	case c == nil && d.qos == 0:
	case c != nil && !b.mayReceive(c, m.Topic):
	default:
		b.enqueue(s, d)
	}
}

// mayReceive decides whether a connected client gets a message. What is denied
// is not delivered, and the client does not learn of it.
func (b *Broker) mayReceive(c *Conn, topic string) bool {
	if c.overRate(b.config.Now()) {
		b.reject(c, event.Receive, topic, fmt.Sprintf("more than %d messages per second; this one is discarded", publishesPerSecond))
		return false
	}
	allowed, reason := c.authorize("iot:Receive", "topic/"+topic)
	if !allowed {
		b.reject(c, event.Receive, topic, reason)
	}
	return allowed
}

// enqueue lets a message wait, on disk first if the session is kept there, and
// sees to it that it is sent.
func (b *Broker) enqueue(s *session, d *delivery) {
	if !s.reserve(d) {
		b.config.Record(event.Event{
			Type: event.Rejected, Action: event.Receive, ClientID: s.clientID, Topic: d.message.Topic,
			Reason: "too many messages wait for this client; this one is discarded",
		})
		return
	}
	if s.store != nil && d.qos > 0 {
		var err error
		if d.number, err = s.store.add(s.clientID, d); err != nil {
			b.config.Log.Error("keeping a message of a session", "client", s.clientID, "error", err)
		}
	}
	s.mu.Lock()
	d.waited = s.conn == nil
	s.waiting = append(s.waiting, d)
	if d.qos == 0 {
		s.waitingQoS0++
	}
	s.mu.Unlock()
	b.startDelivery(s)
}

// reserve takes room for a message and reports whether there was any.
func (s *session) reserve(d *delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := d.message.size()
	if s.bytes+size > maxQueuedBytes || s.allBytes.Load()+int64(size) > maxAllQueuedBytes || (!s.persistent || d.qos == 0) && len(s.waiting) >= maxQueued {
		return false
	}
	s.count(size)
	return true
}

// Reply sends a message to this connection alone, subscribed or not, and ahead
// of what waits. Its QoS is that of a subscription that matches, else 0 (U4).
// The error says that the message is lost.
func (c *Conn) Reply(topic string, payload []byte) error {
	b, s := c.broker, c.session
	if b.config.CheckReceiveOnReplies && !b.mayReceive(c, topic) {
		return ErrReceiveDenied
	}
	return c.sendDirect(&delivery{
		message: &Message{Topic: topic, Payload: payload, Time: b.config.Now()},
		qos:     b.topics.match(topic)[s].Qos,
	})
}

// Reasons why a direct message does not arrive.
var (
	ErrNotConnected    = errors.New("the client is not connected")
	ErrReceiveDenied   = errors.New("the client's policies do not allow it to receive the message")
	ErrNotAcknowledged = errors.New("the client has not acknowledged the message")
)

// SendDirect sends a message to one client, subscribed or not. With confirm it
// has QoS 1, and SendDirect returns when the client has acknowledged it, or with
// ErrNotAcknowledged at the end of ctx.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/direct-messaging.html
func (b *Broker) SendDirect(ctx context.Context, clientID string, m *Message, confirm bool) error {
	c := b.connection(clientID)
	if c == nil || !c.established.Load() {
		return ErrNotConnected
	}
	if !b.mayReceive(c, m.Topic) {
		return ErrReceiveDenied
	}
	m.Time = b.config.Now()
	d := &delivery{message: m}
	if !confirm {
		return c.sendDirect(d)
	}
	d.qos, d.acked = 1, make(chan struct{})
	if err := c.sendDirect(d); err != nil {
		return err
	}
	select {
	case <-d.acked:
		return nil
	case <-c.ended:
		return ErrNotConnected
	case <-ctx.Done():
		return ErrNotAcknowledged
	}
}

// sendDirect sends a message to this connection alone, ahead of what waits.
func (c *Conn) sendDirect(d *delivery) error {
	s := c.session
	d.direct = true
	if !s.reserve(d) {
		return errors.New("too many messages wait for the client")
	}
	s.mu.Lock()
	if s.conn != c {
		s.uncount(d)
		s.mu.Unlock()
		return ErrNotConnected
	}
	at := slices.IndexFunc(s.waiting, func(d *delivery) bool { return !d.direct })
	if at < 0 {
		at = len(s.waiting)
	}
	s.waiting = slices.Insert(s.waiting, at, d)
	if d.qos == 0 {
		s.waitingQoS0++
	}
	s.mu.Unlock()
	c.broker.startDelivery(s)
	return nil
}

// startDelivery starts a goroutine that sends what waits, unless one is at it.
// An idle connection has none.
func (b *Broker) startDelivery(s *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delivering || len(s.waiting) == 0 || s.conn == nil || !s.conn.established.Load() {
		return
	}
	s.delivering = true
	b.work.Go(func() { b.deliver(s) }) // the connection's own goroutine runs yet: it needs mu to leave
}

// deliver sends all that may be sent now.
func (b *Broker) deliver(s *session) {
	for {
		d, c := s.next(b.config.Now())
		if d == nil {
			if c != nil {
				_ = c.flush() // the reader sees that the connection is gone
			}
			return
		}
		b.deliverOne(c, s, d)
	}
}

func (b *Broker) deliverOne(c *Conn, s *session, d *delivery) {
	now := b.config.Now()
	if d.message.expiredAt(now) {
		b.discard(c, s, d, "the message expired before it could be sent")
		return
	}
	if d.waited && !d.direct {
		if !b.mayReceive(c, d.message.Topic) {
			b.discard(c, s, d, "")
			return
		}
		if b.config.EnforceRates {
			_ = c.flush()
			select {
			case <-time.After(storedInterval):
			case <-c.ended:
			}
		}
	}
	pk := &packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: d.qos, Retain: d.retain},
		TopicName:   d.message.Topic, Payload: d.message.Payload, PacketID: d.id,
	}
	if c.v5() {
		pk.Properties = d.message.properties()
		if m := d.message; m.Expiry > 0 {
			pk.Properties.MessageExpiryInterval = uint32(max(m.Expiry-now.Sub(m.Time).Truncate(time.Second), time.Second) / time.Second) // [MQTT-3.3.2-6]
		}
	}
	if err := c.queue(pk); errors.Is(err, packets.ErrPacketTooLarge) {
		b.discard(c, s, d, "the message is larger than the client's Maximum Packet Size") // [MQTT-3.1.2-25]
	}
}

// next returns the message to send now and the connection for it. A client that
// has as many unacknowledged messages as it may have gets those of QoS 0 only.
// When there is nothing to send, delivery is over.
func (s *session) next(now time.Time) (*delivery, *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, full := 0, len(s.unacked) >= s.limit
	if s.conn == nil || !s.conn.established.Load() || len(s.waiting) == 0 || full && s.waitingQoS0 == 0 {
		s.delivering = false
		return nil, s.conn
	}
	if full {
		i = slices.IndexFunc(s.waiting, func(d *delivery) bool { return d.qos == 0 })
	}
	d := s.waiting[i]
	if i == 0 {
		s.waiting[0] = nil
		s.waiting = s.waiting[1:] // in no time, however many wait
	} else {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	}
	if d.qos == 0 {
		s.waitingQoS0--
		s.uncount(d)
		return d, s.conn
	}
	for {
		s.lastID++
		if _, used := s.unacked[s.lastID]; !used && s.lastID != 0 {
			break
		}
	}
	if d.first.IsZero() {
		d.first = now
	}
	d.id, d.latest = s.lastID, now
	if s.unacked == nil {
		s.unacked = map[uint16]*delivery{}
	}
	s.unacked[d.id] = d
	return d, s.conn
}
