package broker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A session holds what a client subscribed to and what it has to get: messages
// that wait to be sent, and those of QoS 1 that it has not acknowledged. A
// persistent session outlives the connection. It is safe for concurrent use.
type session struct {
	clientID   string
	version    byte
	persistent bool
	store      *store        // nil if nothing is kept on disk
	expiry     time.Duration // after the connection; for its goroutine only

	mu            sync.Mutex
	conn          *Conn     // nil while the client is away
	expires       time.Time // when the session ends; zero while the client is connected
	subscriptions map[string]subscription
	delivering    bool          // a goroutine sends what waits
	limit         int           // unacknowledged messages at most
	bytes         int           // of all messages here
	allBytes      *atomic.Int64 // of all sessions
	waiting       []*delivery
	waitingQoS0   int
	unacked       map[uint16]*delivery // by packet id
	lastID        uint16
}

// A delivery is a message on its way to one client.
type delivery struct {
	message *Message
	qos     byte
	retain  bool
	number  uint64        // in the store; 0 if it is not there
	direct  bool          // to the connection, which it ends with
	acked   chan struct{} // closed by PUBACK; nil if nobody waits for it
	waited  bool          // the client was away when it came: policies are evaluated when it is sent
	id      uint16        // packet id
	first   time.Time
	latest  time.Time
}

// grantExpiry returns the expiry of a session for what an MQTT 5 client asks.
func (b *Broker) grantExpiry(seconds uint32) time.Duration {
	return min(time.Duration(seconds)*time.Second, b.config.SessionExpiry)
}

func (b *Broker) newSession(clientID string, version byte, persistent bool) *session {
	s := &session{clientID: clientID, version: version, persistent: persistent, limit: maxUnacknowledged, allBytes: &b.queued}
	if persistent {
		s.store = b.store
	}
	return s
}

func (b *Broker) session(clientID string) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[clientID]
}

// openSession gives a connection the session that it resumes, or a new one.
func (b *Broker) openSession(c *Conn, clean bool, expiry time.Duration, receiveMaximum uint16) (present bool) {
	b.opening.Lock()
	defer b.opening.Unlock()
	clientID := c.principal.ClientID
	s := b.session(clientID)
	present = s != nil && s.persistent && !clean && s.version == c.version && !s.expired(b.config.Now())
	if !present {
		b.dropSession(clientID)
		s = b.newSession(clientID, c.version, expiry > 0)
	}
	s.expiry = expiry
	s.enter(c, receiveMaximum)
	c.session = s
	b.keepSession(s, time.Time{})
	b.takeWill(clientID)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sessions[clientID] = s
	return present
}

// closeSession follows the end of a connection: its session ends too, or begins
// to expire.
func (b *Broker) closeSession(c *Conn) {
	now := b.config.Now()
	c.session.leave(now.Add(c.session.expiry))
	if c.session.expiry > 0 {
		b.keepSession(c.session, now)
	} else {
		b.dropSession(c.principal.ClientID)
	}
}

// dropSession ends the session of a client that is away, if there is one. A will
// that waits for its delay is published then [MQTT-3.1.2.5].
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
	s.release()
	if m := b.takeWill(clientID); m != nil {
		b.Publish(m)
	}
	if s.store == nil {
		return
	}
	if err := s.store.dropSession(clientID); err != nil {
		b.config.Log.Error("dropping a session", "client", clientID, "error", err)
	}
}

// expireSession ends a session unless its client has come back meanwhile.
func (b *Broker) expireSession(s *session, now time.Time) {
	b.opening.Lock()
	defer b.opening.Unlock()
	if b.session(s.clientID) == s && s.expired(now) {
		b.dropSession(s.clientID)
	}
}

// keepSession stores the record of a session. left is zero while its client is
// connected.
func (b *Broker) keepSession(s *session, left time.Time) {
	if s.store == nil {
		return
	}
	if err := s.store.keepSession(s.clientID, sessionRecord{s.version, s.expiry, left}); err != nil {
		b.config.Log.Error("keeping a session", "client", s.clientID, "error", err)
	}
}

// restoreSessions brings back the sessions of an earlier run. Their clients
// left when they did, or else when that run ended without closing them.
func (b *Broker) restoreSessions() error {
	stored, err := b.store.sessions()
	if err != nil {
		return err
	}
	now := b.config.Now()
	for _, r := range stored {
		s := b.newSession(r.clientID, r.ProtocolVersion, true)
		s.expiry = r.Expiry
		if r.Left.IsZero() {
			r.Left = now
			b.keepSession(s, now)
		}
		s.expires = r.Left.Add(r.Expiry)
		s.subscriptions = map[string]subscription{}
		for _, sub := range r.subscriptions {
			s.subscriptions[sub.Filter] = sub
			b.topics.add(s, sub)
		}
		for _, d := range r.messages {
			s.count(d.message.size())
		}
		s.waiting = r.messages
		b.sessions[r.clientID] = s
		b.expireSession(s, now)
	}
	return nil
}

// enter lets a connection take what is there. What was sent before and not
// acknowledged waits to be sent again, under another packet id.
func (s *session) enter(c *Conn, receiveMaximum uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.expires, s.limit = c, time.Time{}, min(maxUnacknowledged, int(receiveMaximum))
	s.waiting = append(s.takeUnacked(func(*delivery) bool { return true }), s.waiting...)
	for _, d := range s.waiting {
		d.first, d.waited = time.Time{}, true
	}
}

// leave notes that the connection has gone, and when the session ends. What waits
// for it alone goes with it: replies, and messages of QoS 0.
func (s *session) leave(expires time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.expires = nil, expires
	s.takeUnacked(func(d *delivery) bool { return d.direct && s.uncount(d) })
	s.waiting = slices.DeleteFunc(s.waiting, func(d *delivery) bool { return (d.direct || d.qos == 0) && s.uncount(d) })
	s.waitingQoS0 = 0
}

// uncount takes a message that leaves from the bytes. It is true, for use in
// conditions. The caller holds mu.
func (s *session) uncount(d *delivery) bool {
	s.count(-d.message.size())
	return true
}

// count adds to the bytes of the session and of all. The caller holds mu.
func (s *session) count(bytes int) {
	s.bytes += bytes
	s.allBytes.Add(int64(bytes))
}

// release takes the messages of a session that has ended from the bytes of all.
func (s *session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allBytes.Add(-int64(s.bytes))
	s.allBytes = new(atomic.Int64) // for what is still under way to it
}

// connected reports whether the client is there.
func (s *session) connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil
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
	all := make(map[string]subscription, len(s.subscriptions))
	for filter, sub := range s.subscriptions {
		all[filter] = sub
	}
	return all
}

// takeUnacked removes and returns the unacknowledged messages that match, in
// the order of their sending. The caller holds mu.
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
