package localcore

import (
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// sessionExpiry returns how long a client's session outlives its connection;
// zero if it does not.
func (b *broker) sessionExpiry(cl *mqtt.Client) time.Duration {
	switch {
	case cl.Properties.ProtocolVersion == 5:
		return min(time.Duration(cl.Properties.Props.SessionExpiryInterval)*time.Second, b.config.SessionExpiry)
	case cl.Properties.Clean:
		return 0
	default:
		return b.config.SessionExpiry
	}
}

// grantExpiry clamps what an MQTT 5 client asks for, and keeps mochi from
// counting too: it would drop a session whose client comes back at that moment.
func (b *broker) grantExpiry(cl *mqtt.Client) time.Duration {
	expiry := b.sessionExpiry(cl)
	if cl.Properties.ProtocolVersion == 5 {
		cl.Properties.Props.SessionExpiryInterval = uint32(expiry / time.Second)
		cl.Properties.Props.SessionExpiryIntervalFlag = false
	}
	return expiry
}

// openSession gives a connection its outbox: that of the session which it
// resumes, or a new one. mochi finds the same session by the same rule.
func (b *broker) openSession(c *connection) {
	b.lapsing.Lock()
	defer b.lapsing.Unlock()
	cl := c.client
	old := b.outboxOf(cl.ID)
	expiry := b.grantExpiry(cl)
	resumed := old != nil && old.persistent && !cl.Properties.Clean &&
		old.version == cl.Properties.ProtocolVersion && !old.hasLapsed(b.config.Now())
	if resumed {
		c.outbox = old
	} else {
		b.dropSession(cl.ID)
		c.outbox = newOutbox(cl.ID, cl.Properties.ProtocolVersion, expiry > 0, b.store)
	}
	c.outbox.enter(c, cl.Properties.Props.ReceiveMaximum)
	b.keepSession(c.outbox, expiry, time.Time{})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancelWill(cl.ID)
	b.outboxes[cl.ID] = c.outbox
}

// closeSession follows the end of a connection that was established: the
// session ends too, or begins to lapse.
func (b *broker) closeSession(c *connection) {
	expiry := b.sessionExpiry(c.client)
	if expiry == 0 {
		b.forgetSession(c.session.ClientID)
		return
	}
	now := b.config.Now()
	c.outbox.leave(c, now.Add(expiry))
	b.keepSession(c.outbox, expiry, now)
}

func (b *broker) keepSession(o *outbox, expiry time.Duration, left time.Time) {
	if o.store == nil {
		return
	}
	if err := o.store.keepSession(o.clientID, sessionRecord{o.version, expiry, left}); err != nil {
		b.config.Log.Error("keeping a session", "client", o.clientID, "error", err)
	}
}

// dropSession ends the session of a client that is away.
func (b *broker) dropSession(clientID string) {
	if stored, ok := b.mochi.Clients.Get(clientID); ok && stored.Closed() {
		b.mochi.UnsubscribeClient(stored)
		b.mochi.Clients.Delete(clientID)
	}
	b.forgetSession(clientID)
}

// forgetSession drops what is ours of a session.
func (b *broker) forgetSession(clientID string) {
	b.mu.Lock()
	delete(b.outboxes, clientID)
	b.mu.Unlock()
	if b.store == nil {
		return
	}
	if err := b.store.dropSession(clientID); err != nil {
		b.config.Log.Error("dropping a session", "client", clientID, "error", err)
	}
}

// dropLapsed ends the sessions whose time is over.
func (b *broker) dropLapsed(now time.Time) {
	b.mu.Lock()
	var lapsed []string
	for clientID, o := range b.outboxes {
		if o.hasLapsed(now) {
			lapsed = append(lapsed, clientID)
		}
	}
	b.mu.Unlock()
	for _, clientID := range lapsed {
		b.endLapsed(clientID, now)
	}
}

// endLapsed ends a session unless its client has come back meanwhile.
func (b *broker) endLapsed(clientID string, now time.Time) {
	b.lapsing.Lock()
	defer b.lapsing.Unlock()
	if o := b.outboxOf(clientID); o != nil && o.hasLapsed(now) {
		b.dropSession(clientID)
	}
}

// restoreSessions brings the sessions of an earlier run back. Their clients
// left when they did, or else when that run ended without a word.
func (b *broker) restoreSessions() error {
	sessions, err := b.store.sessions()
	if err != nil {
		return err
	}
	now := b.config.Now()
	for _, s := range sessions {
		if s.Left.IsZero() {
			s.Left = now
			if err := b.store.keepSession(s.clientID, s.sessionRecord); err != nil {
				return err
			}
		}
		b.restoreSession(s)
	}
	b.dropLapsed(now)
	return nil
}

func (b *broker) restoreSession(s storedSession) {
	cl := b.mochi.NewClient(nil, localListener, s.clientID, false)
	cl.Properties.ProtocolVersion = s.ProtocolVersion
	cl.Properties.Props.SessionExpiryInterval = uint32(s.Expiry / time.Second)
	cl.Stop(packets.ErrServerShuttingDown)
	for _, sub := range s.subscriptions {
		b.mochi.Topics.Subscribe(s.clientID, sub)
		cl.State.Subscriptions.Add(sub.Filter, sub)
	}
	b.mochi.Clients.Add(cl)
	o := newOutbox(s.clientID, s.ProtocolVersion, true, b.store)
	o.waiting, o.lapses = s.messages, s.Left.Add(s.Expiry)
	b.outboxes[s.clientID] = o
}

// keepSubscriptions stores what a persistent session has subscribed to.
func (b *broker) keepSubscriptions(c *connection, filters []string) {
	if c.outbox.store == nil {
		return
	}
	var subscriptions []packets.Subscription
	for _, filter := range filters {
		if sub, ok := c.client.State.Subscriptions.Get(filter); ok {
			subscriptions = append(subscriptions, sub)
		}
	}
	if err := c.outbox.store.subscribe(c.session.ClientID, subscriptions); err != nil {
		b.config.Log.Error("keeping subscriptions", "client", c.session.ClientID, "error", err)
	}
}

// keepUnsubscribed removes subscriptions from what is stored.
func (b *broker) keepUnsubscribed(c *connection, filters []string) {
	if c.outbox.store == nil {
		return
	}
	if err := c.outbox.store.unsubscribe(c.session.ClientID, filters); err != nil {
		b.config.Log.Error("removing subscriptions", "client", c.session.ClientID, "error", err)
	}
}
