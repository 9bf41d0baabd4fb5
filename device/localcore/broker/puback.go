package broker

import (
	"fmt"
	"time"

	"example.com/fleety/device/localcore/event"
)

// retry sends messages again whose PUBACK is overdue, and gives up those that
// AWS would not send any more.
func (b *Broker) retry(s *session, now time.Time) {
	s.mu.Lock()
	c := s.conn
	if c == nil || len(s.unacked) == 0 {
		s.mu.Unlock()
		return
	}
	window := retryWindow(s.version)
	lost := s.takeUnacked(func(d *delivery) bool { return now.Sub(d.first) >= window && s.uncount(d) })
	overdue := s.takeUnacked(func(d *delivery) bool { return now.Sub(d.latest) >= retryInterval })
	s.waiting = append(overdue, s.waiting...)
	s.mu.Unlock()
	for _, d := range lost {
		b.reject(c, event.Receive, d.message.Topic, fmt.Sprintf("not acknowledged within %s; it is given up", window))
		b.forget(s, d)
	}
	b.startDelivery(s)
}

// acknowledged follows a PUBACK of the client. A packet id that is not in use is
// no error.
func (b *Broker) acknowledged(c *Conn, id uint16) error {
	if d := c.session.takeID(id); d != nil {
		b.forget(c.session, d)
		if d.acked != nil {
			close(d.acked)
		}
		b.startDelivery(c.session)
	}
	return nil
}

// takeID removes and returns the unacknowledged message with a packet id, nil
// without one.
func (s *session) takeID(id uint16) *delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.unacked[id]
	if d != nil {
		delete(s.unacked, id)
		s.uncount(d)
	}
	return d
}

// discard gives up a message that next returned, and says why if there is a
// reason that the emulator's user should know.
func (b *Broker) discard(c *Conn, s *session, d *delivery, reason string) {
	if reason != "" {
		b.reject(c, event.Receive, d.message.Topic, reason)
	}
	if d.qos > 0 && s.takeID(d.id) != nil {
		b.forget(s, d)
	}
}

// forget removes a message from the disk: it was acknowledged or is given up.
func (b *Broker) forget(s *session, d *delivery) {
	if s.store == nil || d.number == 0 {
		return
	}
	if err := s.store.remove(s.clientID, d.number); err != nil {
		b.config.Log.Error("removing a message of a session", "client", s.clientID, "error", err)
	}
}
