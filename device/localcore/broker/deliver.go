package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/event"
)

// A delivery is a message on its way to one client.
type delivery struct {
	message *Message
	qos     byte
	retain  bool
	number  uint64        // in the store; 0 if it is not there
	to      *Conn         // that a direct message is for, which ends with it; nil otherwise
	acked   chan struct{} // closed by PUBACK; nil if nobody waits for it
	waited  bool          // the client was away when it came: policies are evaluated when it is sent
	id      uint16        // packet id
	first   time.Time
	latest  time.Time
}

// Reasons why a message does not arrive.
var (
	ErrNotConnected    = errors.New("the client is not connected")
	ErrReceiveDenied   = errors.New("the client's policies do not allow it to receive the message")
	ErrNotAcknowledged = errors.New("the client has not acknowledged the message")
	errTooManyWait     = errors.New("too many messages wait for this client; this one is discarded")
	errNotStored       = errors.New("it cannot be stored")
)

// Publish sends a message of the service itself to all who subscribed, as far as they may receive
// it; one for Basic Ingest to Config.Observe alone. The error, which is recorded too, says that the
// message could not be retained, or not be kept for one of them.
func (b *Broker) Publish(m *Message) error {
	b.stamp(m)
	if strings.HasPrefix(m.Topic, awsiot.IngestPrefix) {
		return nil
	}
	routed, err := b.route(m, nil)
	for _, s := range routed {
		b.startDelivery(s)
	}
	if err != nil {
		b.config.Record(event.Event{
			Type: event.Rejected, Action: event.Publish, ClientID: m.ClientID, CertificateID: m.CertificateID, Topic: m.Topic, Reason: err.Error(),
		})
	}
	return err
}

// stamp sets the time of a message and shows it to Config.Observe.
func (b *Broker) stamp(m *Message) {
	m.Time = b.config.Now()
	m.Expiry = min(m.Expiry, maxMessageExpiry)
	if b.config.Observe != nil {
		b.config.Observe(m)
	}
}

// route retains a message if it asks for that, and leaves it with the sessions of all who
// subscribed. It appends those whose delivery the caller has to start. The error says that the
// message must not be acknowledged: it is not kept as it should be.
func (b *Broker) route(m *Message, routed []*session) (_ []*session, err error) {
	if m.Retain {
		err = b.retain(m)
	}
	for _, sub := range b.topics.match(m.Topic) {
		s := sub.session
		if !sub.NoLocal || m.ClientID != s.clientID { // [MQTT-3.8.3-3]
			retain := m.Retain && s.version == 5 && sub.RetainAsPublished // [MQTT-3.3.1-12]
			if e := b.offer(s, &delivery{message: m, qos: min(m.QoS, sub.Qos), retain: retain}); errors.Is(e, errNotStored) {
				err = e
			}
			if routed = append(routed, s); s.store != nil {
				b.startDelivery(s) // the next message of a batch waits for the disk
			}
		}
	}
	return routed, err
}

// finishBatch follows what was read together: it starts the delivery of what the client published,
// writes what was queued for the client, such as PUBACKs, and slows a client down that publishes
// too fast.
func (c *Conn) finishBatch() error {
	for _, s := range c.routed {
		c.broker.startDelivery(s)
	}
	c.broker.startDelivery(c.session) // which PUBACKs of the client made room for
	if c.queued {
		c.queued = false
		if err := c.flush(); err != nil {
			return err
		}
	}
	c.slow()
	clear(c.routed)
	c.routed, c.published = c.routed[:0], 0
	return nil
}

// slow keeps a client that publishes faster than its subscribers take messages at their speed, but
// not below AWS's rate for a connection. The more subscribers share the time, the fewer messages may
// be on their way to each.
func (c *Conn) slow() {
	var rooms []<-chan struct{}
	for _, s := range c.routed {
		if s == c.session { // this goroutine reads its PUBACKs
			continue
		}
		if room := s.hold(max(minUnderway, maxUnderway*c.published/len(c.routed))); room != nil {
			rooms = append(rooms, room)
		}
	}
	if rooms == nil {
		return
	}
	batch := min(c.published, maxUnacknowledged) // a client with more at once must not delay its own end
	enough := time.After(time.Duration(batch) * time.Second / publishesPerSecond)
	for _, room := range rooms {
		select {
		case <-room:
		case <-enough:
			return
		}
	}
}

// offer leaves a message with the session of a subscriber, for startDelivery. A client that is away
// gets QoS 1 only, and needs the right to receive when it comes back. The error, which is recorded,
// says that it does not get the message.
func (b *Broker) offer(s *session, d *delivery) error {
	c := s.conn.Load()
	if c == nil && d.qos == 0 || c != nil && !b.mayReceive(c, d.message.Topic) {
		return nil
	}
	err := b.enqueue(s, d)
	if err != nil {
		b.config.Record(event.Event{
			Type: event.Rejected, Action: event.Receive, ClientID: s.clientID, Topic: d.message.Topic, Reason: err.Error(),
		})
	}
	return err
}

// mayReceive decides whether a connected client gets a message. What is denied is not delivered,
// and the client does not learn of it.
func (b *Broker) mayReceive(c *Conn, topic string) bool {
	if c.overRate() {
		b.reject(c, event.Receive, topic, overRateReason)
		return false
	}
	allowed, reason := c.auth.Authorize(AuthRequest{Action: "iot:Receive", Resource: "topic/" + topic})
	if !allowed {
		b.reject(c, event.Receive, topic, reason)
	}
	return allowed
}

// Reply sends a message to this connection alone, subscribed or not, and ahead of what waits. Its
// QoS is that of a subscription that matches, else 0 (U4). The error says that the message is lost.
func (c *Conn) Reply(topic string, payload []byte) error {
	b := c.broker
	m := &Message{Topic: topic, Payload: payload, Time: b.config.Now()}
	qos := byte(0)
	for _, sub := range b.topics.match(topic) {
		if sub.session == c.session {
			qos = sub.Qos
		}
	}
	err := b.enqueue(c.session, &delivery{message: m, qos: qos, to: c})
	b.startDelivery(c.session)
	return err
}

// SendDirect sends a message to one client, subscribed or not. With confirm it has QoS 1, and
// SendDirect returns when the client has acknowledged it, or with ErrNotAcknowledged at the end of
// ctx.
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
	d := &delivery{message: m, to: c}
	if confirm {
		d.qos, d.acked = 1, make(chan struct{})
	}
	err := b.enqueue(c.session, d)
	b.startDelivery(c.session)
	if err != nil || !confirm {
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

// enqueue lets a message wait for startDelivery, on disk first if the session is kept there; a
// direct one ahead of others. The error says that it is lost.
func (b *Broker) enqueue(s *session, d *delivery) error {
	size := d.message.size()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes+size > maxQueuedBytes || s.allBytes.Load()+int64(size) > maxAllQueuedBytes || d.qos == 0 && s.waitingQoS0 >= maxQueuedQoS0 {
		return errTooManyWait
	}
	s.count(size)
	if s.store != nil && d.qos > 0 && d.to == nil {
		s.lastNumber++
		d.number = s.lastNumber
		stored := *d.message
		stored.QoS, stored.Retain = d.qos, d.retain
		s.mu.Unlock() // others need not wait for the disk
		err := s.store.updateSession(s.clientID, messagesBucket, map[string][]byte{messageKey(d.number): awsiot.EncodeJSON(stored)})
		if s.mu.Lock(); err != nil {
			s.uncount(d)
			return err
		}
	}
	at, c := len(s.waiting), s.conn.Load()
	if d.to != nil {
		if c != d.to {
			s.uncount(d)
			return ErrNotConnected
		}
		if i := slices.IndexFunc(s.waiting, func(d *delivery) bool { return d.to == nil }); i >= 0 {
			at = i
		}
	}
	d.waited = c == nil
	s.waiting = slices.Insert(s.waiting, at, d)
	s.entered++
	if d.qos == 0 {
		s.waitingQoS0++
	}
	return nil
}

// startDelivery starts a goroutine that sends what waits, unless one is at it. An idle connection
// has none.
func (b *Broker) startDelivery(s *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delivering || !s.sendable() {
		return
	}
	s.delivering = true
	b.work.Go(func() { b.deliver(s) }) // the connection's own goroutine runs yet: it needs mu to leave
}

// deliver sends all that may be sent now.
func (b *Broker) deliver(s *session) {
	now, queued := b.config.Now(), 0 // bytes since the latest flush
	for {
		d, c := s.next(now)
		size := 0 // of the packet, or a little more; without properties
		if d != nil {
			size = 16 + len(d.message.Topic) + len(d.message.Payload)
		}
		if c != nil && (d == nil || queued > 0 && queued+size > flushAt) {
			_ = c.flush() // the reader sees that the connection is gone
			now, queued = b.config.Now(), 0
		}
		if d == nil {
			return
		}
		if d.message.expiredAt(now) {
			b.discard(c, d, "the message expired before it could be sent")
			continue
		}
		if d.waited {
			if !b.mayReceive(c, d.message.Topic) {
				b.discard(c, d, "")
				continue
			}
			if b.config.EnforceRates {
				_ = c.flush()
				select {
				case <-time.After(storedInterval):
				case <-c.ended:
				}
				now = b.config.Now()
			}
		}
		if err := c.queueMessage(d, now); err != nil && errors.Is(err, packets.ErrPacketTooLarge) {
			b.discard(c, d, "the message is larger than the client's Maximum Packet Size") // [MQTT-3.1.2-25]
		}
		queued += size
	}
}

// queueMessage queues a PUBLISH. It does without mochi's packets, which have 1 kB.
func (c *Conn) queueMessage(d *delivery, now time.Time) error {
	m, properties := d.message, []byte(nil)
	length := 2 + len(m.Topic) + 2*int(d.qos) + len(m.Payload)
	if c.v5() {
		p, encoded := m.properties(), new(bytes.Buffer)
		if m.Expiry > 0 {
			p.MessageExpiryInterval = uint32(max(m.Expiry-now.Sub(m.Time).Truncate(time.Second), time.Second) / time.Second) // [MQTT-3.3.2-6]
		}
		p.Encode(packets.Publish, packets.Mods{MaxSize: c.maxPacketSize, AllowResponseInfo: true}, encoded, length)
		properties = encoded.Bytes()
		length += len(properties)
	}
	head := append(make([]byte, 0, 5+2+awsiot.MaxTopic+2), packets.Publish<<4|d.qos<<1)
	if d.retain {
		head[0] |= 1
	}
	head = binary.AppendUvarint(head, uint64(length))
	if uint32(len(head)+length) > c.maxPacketSize {
		return packets.ErrPacketTooLarge // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
	}
	head = append(binary.BigEndian.AppendUint16(head, uint16(len(m.Topic))), m.Topic...)
	if d.qos > 0 {
		head = binary.BigEndian.AppendUint16(head, d.id)
	}
	return c.queueBytes(head, properties, m.Payload)
}

// sendable reports whether something may be sent now. A client that has as many unacknowledged
// messages as it may have gets those of QoS 0 only. The caller holds mu.
func (s *session) sendable() bool {
	c := s.conn.Load()
	return c != nil && c.established.Load() && len(s.waiting) > 0 && (len(s.unacked) < s.limit || s.waitingQoS0 > 0)
}

// next returns the message to send now and the connection for it. When there is nothing to send,
// delivery is over.
func (s *session) next(now time.Time) (*delivery, *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, c := 0, s.conn.Load()
	if !s.sendable() {
		s.delivering = false
		return nil, c
	}
	if len(s.unacked) >= s.limit {
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
		s.release()
		return d, c
	}
	for s.lastID++; s.lastID == 0 || s.unacked[s.lastID] != nil; {
		s.lastID++
	}
	if d.first.IsZero() {
		d.first = now
	}
	d.id, d.latest = s.lastID, now
	if s.unacked == nil {
		s.unacked = map[uint16]*delivery{}
	}
	s.unacked[d.id] = d
	return d, c
}

// retry sends messages again whose PUBACK is overdue, and gives up those that AWS would not send
// any more.
func (b *Broker) retry(s *session, now time.Time) {
	s.mu.Lock()
	c := s.conn.Load()
	if c == nil || len(s.unacked) == 0 {
		s.mu.Unlock()
		return
	}
	window := retryWindow
	if s.version == 5 {
		window = retryWindow5
	}
	lost := s.takeUnacked(func(d *delivery) bool { return now.Sub(d.first) >= window })
	s.uncount(lost...)
	overdue := s.takeUnacked(func(d *delivery) bool { return now.Sub(d.latest) >= retryInterval })
	s.waiting = append(overdue, s.waiting...)
	s.release()
	s.mu.Unlock()
	for _, d := range lost {
		b.reject(c, event.Receive, d.message.Topic, fmt.Sprintf("not acknowledged within %s; it is given up", window))
		s.forget(d)
	}
	b.startDelivery(s)
}

// discard gives up a message that next returned, and says why if there is a reason that the
// emulator's user should know.
func (b *Broker) discard(c *Conn, d *delivery, reason string) {
	if reason != "" {
		b.reject(c, event.Receive, d.message.Topic, reason)
	}
	if d.qos > 0 {
		c.session.takeID(d.id)
	}
}

// takeID forgets and returns the unacknowledged message with a packet id, nil without one.
func (s *session) takeID(id uint16) *delivery {
	s.mu.Lock()
	d := s.unacked[id]
	if d != nil {
		delete(s.unacked, id)
		s.uncount(d)
		s.release()
	}
	s.mu.Unlock()
	if d != nil {
		s.forget(d)
	}
	return d
}

// forget removes a message from the disk: it was acknowledged or is given up.
func (s *session) forget(d *delivery) {
	if d.number > 0 {
		_ = s.store.updateSession(s.clientID, messagesBucket, map[string][]byte{messageKey(d.number): nil}) // it comes again
	}
}
