package broker

import (
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A will is the message that is published when a client goes without
// DISCONNECT.
type will struct {
	message *Message
	delay   time.Duration
	timer   *time.Timer // while it waits for its delay [MQTT-3.1.3-9]
}

// newWill returns the will of a CONNECT, nil without one.
func newWill(pk *packets.Packet, from Principal) *will {
	p := &pk.Connect
	if !p.WillFlag {
		return nil
	}
	header := packets.FixedHeader{Qos: p.WillQos, Retain: p.WillRetain}
	return &will{
		message: newMessage(p.WillTopic, p.WillPayload, header, p.WillProperties, from),
		delay:   time.Duration(p.WillProperties.WillDelayInterval) * time.Second,
	}
}

// publishWill publishes the will of a connection that has ended, after its
// delay; a session that ends earlier ends the delay too.
func (b *Broker) publishWill(c *Conn) {
	if c.will == nil || !c.established.Load() || c.withoutWill.Load() {
		return
	}
	w, clientID := c.will, c.principal.ClientID
	delay := min(w.delay, c.session.expiry)
	if delay == 0 {
		b.Publish(w.message)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return // nothing waits for it any more
	}
	b.wills[clientID] = w
	b.work.Add(1)
	w.timer = time.AfterFunc(delay, func() {
		defer b.work.Done()
		b.mu.Lock()
		due := b.wills[clientID] == w
		if due {
			delete(b.wills, clientID)
		}
		b.mu.Unlock()
		if due {
			b.Publish(w.message)
		}
	})
}

// takeWill removes and returns the delayed will of a client, nil without one.
func (b *Broker) takeWill(clientID string) *Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.wills[clientID]
	if w == nil {
		return nil
	}
	delete(b.wills, clientID)
	if w.timer.Stop() {
		b.work.Done()
	}
	return w.message
}
