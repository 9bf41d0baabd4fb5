package broker

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A session holds what a client subscribed to and what it has to get: messages that wait to be
// sent, and those of QoS 1 that it has not acknowledged. It outlives the connection if it has an
// expiry. It is safe for concurrent use.
type session struct {
	clientID string
	version  byte
	store    *store               // nil if nothing is kept on disk
	expiry   time.Duration        // after the connection; for its goroutine only
	will     *will                // that waits for its delay, or did; nil without one; under the broker's mu
	conn     atomic.Pointer[Conn] // nil while the client is away; set under mu

	mu            sync.Mutex
	expires       time.Time // when the session ends; zero while the client is connected
	subscriptions map[string]subscription
	delivering    bool          // a goroutine sends what waits
	limit         int           // unacknowledged messages at most
	bytes         int           // of all messages here
	allBytes      *atomic.Int64 // of all sessions
	waiting       []*delivery
	waitingQoS0   int
	held          []held               // in the order of until
	entered       int                  // messages since the session began
	unacked       map[uint16]*delivery // by packet id
	lastID        uint16
	lastNumber    uint64 // of a message in the store
}

// A will is the message that is published when a client goes without DISCONNECT.
type will struct {
	message *Message
	delay   time.Duration
	timer   *time.Timer // while it waits for its delay [MQTT-3.1.3-9]
}

// grantExpiry returns the expiry of a session for what an MQTT 5 client asks.
func (b *Broker) grantExpiry(seconds uint32) time.Duration {
	return min(time.Duration(seconds)*time.Second, b.config.SessionExpiry)
}

func (b *Broker) session(clientID string) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[clientID]
}

// openSession gives a connection the session that it resumes, or a new one, and the will of its
// CONNECT. What was sent before and not acknowledged waits to be sent again, under another packet
// id. The error says that the session cannot be kept.
func (b *Broker) openSession(c *Conn, pk *packets.Packet) (present bool, err error) {
	b.opening.Lock()
	defer b.opening.Unlock()
	clientID, expiry := c.principal.ClientID, b.config.SessionExpiry
	if c.v5() {
		expiry = b.grantExpiry(pk.Properties.SessionExpiryInterval)
	} else if pk.Connect.Clean {
		expiry = 0
	}
	s := b.session(clientID)
	if present = s != nil && !pk.Connect.Clean && s.version == c.version && !s.expired(b.config.Now()); !present {
		b.dropSession(clientID)
		s = &session{clientID: clientID, version: c.version, allBytes: &b.queued}
		if expiry > 0 {
			s.store = b.store
		}
	}
	s.expiry = expiry
	if err := s.store.keepSession(s, time.Time{}); err != nil {
		return false, err
	}
	s.mu.Lock()
	s.conn.Store(c)
	s.expires, s.limit = time.Time{}, min(maxUnacknowledged, int(pk.Properties.ReceiveMaximum))
	s.waiting = append(s.takeUnacked(func(*delivery) bool { return true }), s.waiting...)
	for i, d := range s.waiting {
		again := *d // the delivery to the last connection may still read its own
		again.first, again.waited = time.Time{}, true
		s.waiting[i] = &again
	}
	s.mu.Unlock()
	c.session, c.expiry = s, expiry
	if p := &pk.Connect; p.WillFlag {
		header := packets.FixedHeader{Qos: p.WillQos, Retain: p.WillRetain}
		m := newMessage(p.WillTopic, p.WillPayload, header, &p.WillProperties, &c.principal)
		c.will = &will{message: m, delay: time.Duration(p.WillProperties.WillDelayInterval) * time.Second}
	}
	b.takeWill(s)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions[clientID] = s
	if last, ok := b.past[clientID]; ok {
		c.number = last.number + 1
	}
	return present, nil
}

// closeSession follows the end of a connection: its will is published, or waits; its session ends
// too, or begins to expire. What waits for the connection alone goes with it: replies, and messages
// of QoS 0.
func (b *Broker) closeSession(c *Conn) {
	now, s := b.config.Now(), c.session
	if c.will != nil && c.established.Load() && !c.withoutWill.Load() {
		b.publishWill(c.will, s)
	}
	s.mu.Lock()
	s.conn.Store(nil)
	s.expires = now.Add(s.expiry)
	ofConnection := func(d *delivery) bool { return d.to != nil || d.qos == 0 }
	s.uncount(s.takeUnacked(ofConnection)...)
	s.waiting = slices.DeleteFunc(s.waiting, func(d *delivery) bool {
		if ofConnection(d) {
			s.uncount(d)
		}
		return ofConnection(d)
	})
	s.waitingQoS0 = 0
	s.release()
	s.mu.Unlock()
	if s.expiry > 0 {
		_ = s.store.keepSession(s, now) // expires later then
	} else {
		b.dropSession(s.clientID)
	}
}

// A held is a publisher that waits until so many messages have left a session since its begin.
type held struct {
	until int
	done  chan struct{} // closed then
}

// hold returns nil, or, if more messages than underway are on their way to a connected client, a
// channel that is closed when all but so many of them have left. So publishers go on one after the
// other, in the order in which they came.
func (s *session) hold(underway int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.Load() == nil || len(s.waiting)+len(s.unacked) <= underway {
		return nil
	}
	until := s.entered - underway
	if n := len(s.held); n == 0 || s.held[n-1].until < until {
		s.held = append(s.held, held{until, make(chan struct{})})
	}
	return s.held[len(s.held)-1].done
}

// release lets publishers go on after messages have left, or the client has. The caller holds mu.
func (s *session) release() {
	left := s.entered - len(s.waiting) - len(s.unacked)
	for len(s.held) > 0 && (s.held[0].until <= left || s.conn.Load() == nil) {
		close(s.held[0].done)
		s.held = s.held[1:]
	}
}

// dropSession ends the session of a client that is away, if there is one. A will that waits for its
// delay is published then [MQTT-3.1.2.5].
func (b *Broker) dropSession(clientID string) {
	b.mu.Lock()
	s := b.sessions[clientID]
	delete(b.sessions, clientID)
	b.mu.Unlock()
	if s == nil {
		return
	}
	for filter := range s.subscribed() {
		b.topics.remove(s, filter)
	}
	s.mu.Lock()
	s.allBytes.Add(-int64(s.bytes))
	s.allBytes = new(atomic.Int64) // for what is still under way to it
	s.mu.Unlock()
	if w := b.takeWill(s); w != nil {
		_ = b.Publish(w.message)
	}
	s.store.dropSession(clientID)
}

// expireSession ends a session unless its client has come back meanwhile.
func (b *Broker) expireSession(s *session, now time.Time) {
	b.opening.Lock()
	defer b.opening.Unlock()
	if b.session(s.clientID) == s && s.expired(now) {
		b.dropSession(s.clientID)
	}
}

// publishWill publishes a will after its delay; a session that ends earlier ends the delay too.
func (b *Broker) publishWill(w *will, s *session) {
	delay := min(w.delay, s.expiry)
	if delay == 0 {
		_ = b.Publish(w.message)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return // nothing waits for it any more
	}
	s.will = w
	b.work.Add(1)
	w.timer = time.AfterFunc(delay, func() {
		defer b.work.Done()
		_ = b.Publish(w.message)
	})
}

// takeWill returns the will of a session that still waits for its delay, and ends the wait; nil
// without one.
func (b *Broker) takeWill(s *session) *will {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := s.will
	if s.will = nil; w == nil || !w.timer.Stop() { // the timer publishes it, or has
		return nil
	}
	b.work.Done()
	return w
}

// uncount takes messages that leave from the bytes. The caller holds mu.
func (s *session) uncount(left ...*delivery) {
	for _, d := range left {
		s.count(-d.message.size())
	}
}

// count adds to the bytes of the session and of all. The caller holds mu.
func (s *session) count(bytes int) {
	s.bytes += bytes
	s.allBytes.Add(int64(bytes))
}

// expired reports whether the session has ended while the client was away.
func (s *session) expired(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.expires.IsZero() && !now.Before(s.expires)
}

// subscribed returns a copy of the subscriptions, by filter.
func (s *session) subscribed() map[string]subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.subscriptions)
}

// takeUnacked removes and returns the unacknowledged messages that match, in the order of their
// sending. The caller holds mu.
func (s *session) takeUnacked(match func(*delivery) bool) (taken []*delivery) {
	for id, d := range s.unacked {
		if match(d) {
			taken = append(taken, d)
			delete(s.unacked, id)
		}
	}
	slices.SortFunc(taken, func(a, b *delivery) int { return int(int16(a.id - b.id)) })
	return taken
}
