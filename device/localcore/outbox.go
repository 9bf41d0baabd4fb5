package localcore

import (
	"slices"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// retryInterval is how long a PUBACK is awaited before the message is sent
// again. AWS documents the window only, see retryWindow.
const retryInterval = 30 * time.Second

// retryWindow is how long AWS resends a message of QoS 1 on one connection
// before it gives the message up.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
func retryWindow(version byte) time.Duration {
	if version == 5 {
		return 960 * time.Second
	}
	return time.Hour
}

// A message is on its way to one client.
type message struct {
	packet packets.Packet
	number uint64 // in the store; 0 if it is not there
	waited bool   // it came while the client was away: policies are asked when it is sent
	first  time.Time
	latest time.Time
}

// An outbox holds what a client has to get: messages that wait to be sent, and
// those of QoS 1 that it has not acknowledged. With a persistent session it
// outlives the connection. It is safe for concurrent use.
type outbox struct {
	clientID   string
	version    byte
	persistent bool
	store      *store        // nil if nothing is kept on disk
	wake       chan struct{} // of size 1: there is something to send

	mu      sync.Mutex
	conn    *connection // nil while the client is away
	lapses  time.Time   // when the session ends; zero while the client is connected
	limit   int         // unacknowledged messages at most
	waiting []*message
	unacked map[uint16]*message // by packet id
	lastID  uint16
}

func newOutbox(clientID string, version byte, persistent bool, s *store) *outbox {
	if !persistent {
		s = nil
	}
	return &outbox{
		clientID: clientID, version: version, persistent: persistent, store: s,
		wake: make(chan struct{}, 1), limit: maxUnacknowledged, unacked: map[uint16]*message{},
	}
}

// enter lets a connection take what is there. What was sent before and not
// acknowledged waits to be sent again, under another packet id.
func (o *outbox) enter(c *connection, receiveMaximum uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conn, o.lapses, o.limit = c, time.Time{}, maxUnacknowledged
	if receiveMaximum > 0 {
		o.limit = min(o.limit, int(receiveMaximum))
	}
	o.waiting = append(o.takeUnacked(func(*message) bool { return true }), o.waiting...)
	for _, m := range o.waiting {
		m.first, m.waited = time.Time{}, true
	}
	o.ring()
}

// leave notes that the connection has gone, and when the session ends.
func (o *outbox) leave(c *connection, lapses time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn == c {
		o.conn, o.lapses = nil, lapses
	}
}

// connection returns the client's connection, nil while it is away.
func (o *outbox) connection() *connection {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.conn
}

// hasLapsed tells whether the session has ended while the client was away.
func (o *outbox) hasLapsed(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.lapses.IsZero() && !now.Before(o.lapses)
}

// add appends a message, on disk first if the session is kept there. It tells
// whether there was room.
func (o *outbox) add(pk packets.Packet) (ok bool, err error) {
	m := &message{packet: pk}
	if !o.hasRoom(pk) {
		return false, nil
	}
	if o.store != nil && pk.FixedHeader.Qos > 0 {
		if m.number, err = o.store.add(o.clientID, pk); err != nil {
			return false, err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	m.waited = o.conn == nil
	o.waiting = append(o.waiting, m)
	o.ring()
	return true, nil
}

// hasRoom tells whether one more message may wait. Publishers that ask at the
// same time may each add one.
func (o *outbox) hasRoom(pk packets.Packet) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.persistent && pk.FixedHeader.Qos > 0 {
		return len(o.waiting) < maxStoredMessages
	}
	return len(o.waiting) < outboundQueue
}

// ring wakes the writer. The caller holds mu.
func (o *outbox) ring() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// next returns the message to send now, with a packet id if it is of QoS 1;
// nil if there is none. A client that has as many unacknowledged messages as
// it may have gets those of QoS 0 only.
func (o *outbox) next(now time.Time) *message {
	o.mu.Lock()
	defer o.mu.Unlock()
	full := len(o.unacked) >= o.limit
	i := slices.IndexFunc(o.waiting, func(m *message) bool { return !full || m.packet.FixedHeader.Qos == 0 })
	if i < 0 {
		return nil
	}
	m := o.waiting[i]
	o.waiting = slices.Delete(o.waiting, i, i+1)
	if m.packet.FixedHeader.Qos > 0 {
		o.track(m, now)
	}
	return m
}

// begin gives a message that is sent past those that wait its packet id.
func (o *outbox) begin(m *message, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.track(m, now)
}

// track notes that a message of QoS 1 is being sent. The caller holds mu.
func (o *outbox) track(m *message, now time.Time) {
	for {
		o.lastID++
		if _, used := o.unacked[o.lastID]; !used && o.lastID != 0 {
			break
		}
	}
	if m.first.IsZero() {
		m.first = now
	}
	m.packet.PacketID, m.latest = o.lastID, now
	o.unacked[o.lastID] = m
}

// retry lets messages wait again whose PUBACK is overdue, and returns those
// that are given up.
func (o *outbox) retry(now time.Time) (lost []*message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	window := retryWindow(o.version)
	lost = o.takeUnacked(func(m *message) bool { return now.Sub(m.first) >= window })
	overdue := o.takeUnacked(func(m *message) bool { return now.Sub(m.latest) >= retryInterval })
	o.waiting = append(overdue, o.waiting...)
	return lost
}

// takeUnacked removes and returns the unacknowledged messages that match, in
// the order of their sending. The caller holds mu.
func (o *outbox) takeUnacked(match func(*message) bool) (taken []*message) {
	for id, m := range o.unacked {
		if match(m) {
			taken = append(taken, m)
			delete(o.unacked, id)
		}
	}
	slices.SortFunc(taken, func(a, b *message) int { return int(int16(a.packet.PacketID - b.packet.PacketID)) })
	return taken
}

// acknowledge removes the message with this packet id; others are no error.
func (o *outbox) acknowledge(packetID uint16) error {
	o.mu.Lock()
	m := o.unacked[packetID]
	delete(o.unacked, packetID)
	o.ring()
	o.mu.Unlock()
	if m == nil {
		return nil
	}
	return o.forget(m)
}

// discard removes a message that next returned and that is not sent.
func (o *outbox) discard(m *message) error {
	o.mu.Lock()
	if o.unacked[m.packet.PacketID] == m {
		delete(o.unacked, m.packet.PacketID)
	}
	o.mu.Unlock()
	return o.forget(m)
}

// forget removes a message from the disk.
func (o *outbox) forget(m *message) error {
	if o.store == nil || m.number == 0 {
		return nil
	}
	return o.store.remove(o.clientID, m.number)
}
