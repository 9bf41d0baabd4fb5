package localcore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// storedInterval is the distance of messages that waited for the client: AWS
// delivers 10 a second.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
const storedInterval = time.Second / 10

// route sends a message to all who subscribed. Of the publisher only the
// client id counts from here on; the service itself has none.
func (b *broker) route(origin string, version byte, pk packets.Packet) {
	pk.FixedHeader.Type = packets.Publish
	pk.Origin, pk.ProtocolVersion = origin, version
	pk.PacketID, pk.FixedHeader.Dup = 0, false
	pk.Created = b.config.Now().Unix()
	if expiry := min(pk.Properties.MessageExpiryInterval, maxMessageExpiry); expiry > 0 {
		pk.Expiry = pk.Created + int64(expiry)
	}
	if pk.FixedHeader.Retain {
		b.retain(pk)
	}
	subscribers := b.mochi.Topics.Subscribers(pk.TopicName)
	if len(subscribers.Shared) > 0 {
		subscribers.SelectShared()
		subscribers.MergeSharedSelected()
	}
	for clientID, sub := range subscribers.Subscriptions {
		if o := b.outboxOf(clientID); o != nil {
			b.send(o, sub, pk)
		}
	}
}

// retain keeps a message for later subscribers, or removes it.
func (b *broker) retain(pk packets.Packet) {
	b.mochi.Topics.RetainMessage(pk.Copy(false))
	b.keepRetained(pk)
}

func (b *broker) keepRetained(pk packets.Packet) {
	if b.store == nil {
		return
	}
	if err := b.store.retain(pk); err != nil {
		b.config.Log.Error("keeping a retained message", "topic", pk.TopicName, "error", err)
	}
}

func (b *broker) outboxOf(clientID string) *outbox {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.outboxes[clientID]
}

// send leaves a message in the outbox of a subscriber. One who is away gets
// QoS 1 only, and is asked for its right to receive when it comes back.
func (b *broker) send(o *outbox, sub packets.Subscription, pk packets.Packet) {
	c := o.connection()
	qos := min(pk.FixedHeader.Qos, sub.Qos)
	switch {
	case sub.NoLocal && pk.Origin == o.clientID:
		return // [MQTT-3.8.3-3]
	case c == nil && qos == 0:
		return
	case c != nil && !b.mayReceive(c, pk.TopicName):
		return
	}
	m := pk.Copy(false)
	m.FixedHeader.Qos = qos
	m.FixedHeader.Retain = pk.FixedHeader.Retain && o.version == 5 && sub.RetainAsPublished // [MQTT-3.3.1-12]
	b.post(o, m)
}

func (b *broker) post(o *outbox, m packets.Packet) {
	ok, err := o.add(m)
	if err != nil {
		b.config.Log.Error("keeping a message of a session", "client", o.clientID, "error", err)
	} else if !ok {
		e := Event{Type: Refused, Action: ActionReceive, ClientID: o.clientID, Topic: m.TopicName,
			Reason: "too many messages wait for this client; this one is discarded"}
		b.journal.record(e)
	}
}

// deliver sends a message to one connection at once, past the topic tree and
// past the messages that wait.
func (b *broker) deliver(c *connection, pk packets.Packet) error {
	pk.FixedHeader.Type = packets.Publish
	m := &message{packet: pk}
	if pk.FixedHeader.Qos > 0 {
		c.outbox.begin(m, b.config.Now())
	}
	return c.client.WritePacket(m.packet)
}

// write sends what is in the connection's outbox until ctx ends.
func (b *broker) write(ctx context.Context, c *connection) {
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for {
		b.flush(ctx, c)
		select {
		case <-c.outbox.wake:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
	}
}

// flush sends all that may be sent now.
func (b *broker) flush(ctx context.Context, c *connection) {
	for _, m := range c.outbox.retry(b.config.Now()) {
		b.discard(c, m, fmt.Sprintf("not acknowledged within %s; it is given up", retryWindow(c.outbox.version)))
	}
	for ctx.Err() == nil {
		m := c.outbox.next(b.config.Now())
		if m == nil {
			return
		}
		if m.packet.Expiry > 0 && m.packet.Expiry < b.config.Now().Unix() {
			b.discard(c, m, "the message expired before it could be sent")
			continue
		}
		if m.waited {
			if !b.mayReceive(c, m.packet.TopicName) {
				b.forget(c, m)
				continue
			}
			b.pace(ctx)
		}
		if err := c.client.WritePacket(m.packet); errors.Is(err, packets.ErrPacketTooLarge) {
			b.discard(c, m, "the message is larger than the client's Maximum Packet Size") // [MQTT-3.1.2-25]
		}
	}
}

// pace keeps the distance between two messages that waited for their client.
func (b *broker) pace(ctx context.Context) {
	if b.config.Quotas != QuotasAWS {
		return
	}
	timer := time.NewTimer(storedInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// discard gives up a message for a reason.
func (b *broker) discard(c *connection, m *message, reason string) {
	b.refuse(c, ActionReceive, m.packet.TopicName, reason)
	b.forget(c, m)
}

func (b *broker) forget(c *connection, m *message) {
	if err := c.outbox.discard(m); err != nil {
		b.config.Log.Error("removing a message of a session", "client", c.session.ClientID, "error", err)
	}
}
