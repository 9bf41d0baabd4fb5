package localcore

import (
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// A delayedWill waits for its time [MQTT-3.1.3-9].
type delayedWill struct{ timer *time.Timer }

// publishWill publishes the will of a client that went without DISCONNECT,
// after its delay; in MQTT 5 a session that ends earlier ends the delay too.
func (b *broker) publishWill(c *connection, will mqtt.Will) {
	pk := packets.Packet{TopicName: will.TopicName, Payload: will.Payload, Properties: packets.Properties{User: will.User}}
	pk.FixedHeader.Qos, pk.FixedHeader.Retain = will.Qos, will.Retain
	publish := func() { b.route(c.session.ClientID, c.client.Properties.ProtocolVersion, pk) }
	delay := min(will.WillDelayInterval, c.client.Properties.Props.SessionExpiryInterval)
	if delay == 0 {
		publish()
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	w := new(delayedWill)
	b.wills[c.session.ClientID] = w
	b.delayed.Add(1)
	w.timer = time.AfterFunc(time.Duration(delay)*time.Second, func() {
		defer b.delayed.Done()
		if b.takeWill(c.session.ClientID, w) {
			publish()
		}
	})
}

// takeWill removes a delayed will and tells whether it was still to be sent.
func (b *broker) takeWill(clientID string, w *delayedWill) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wills[clientID] != w {
		return false
	}
	delete(b.wills, clientID)
	return true
}

// cancelWill drops the delayed will of a client that is back. The caller holds mu.
func (b *broker) cancelWill(clientID string) {
	if w := b.wills[clientID]; w != nil {
		delete(b.wills, clientID)
		if w.timer.Stop() {
			b.delayed.Done()
		}
	}
}

// cancelWills drops all delayed wills and waits for those under way.
func (b *broker) cancelWills() {
	b.mu.Lock()
	for clientID := range b.wills {
		b.cancelWill(clientID)
	}
	b.mu.Unlock()
	b.delayed.Wait()
}
