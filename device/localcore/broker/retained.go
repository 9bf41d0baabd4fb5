package broker

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// A retained holds the messages that later subscribers get. The zero value has
// none. It is safe for concurrent use.
type retained struct {
	mu      sync.Mutex
	byTopic map[string]*Message // under mu
}

// set keeps a message in place of an earlier one; one without payload only
// removes that [MQTT-3.3.1-6].
func (r *retained) set(m *Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(m.Payload) == 0 {
		delete(r.byTopic, m.Topic)
		return
	}
	if r.byTopic == nil {
		r.byTopic = map[string]*Message{}
	}
	r.byTopic[m.Topic] = m
}

// retain keeps a message for later subscribers, or removes it.
func (b *Broker) retain(m *Message) {
	b.retained.set(m)
	if b.store == nil {
		return
	}
	if err := b.store.retain(m); err != nil {
		b.config.Log.Error("keeping a retained message", "topic", m.Topic, "error", err)
	}
}

// expireRetained removes the retained messages whose time is over.
func (b *Broker) expireRetained(now time.Time) {
	for _, m := range b.AllRetained() {
		if m.expiredAt(now) {
			b.retain(&Message{Topic: m.Topic}) // a newer one of this instant goes too
		}
	}
}

// Retained returns the retained message of a topic.
func (b *Broker) Retained(topic string) (*Message, bool) {
	b.retained.mu.Lock()
	defer b.retained.mu.Unlock()
	m := b.retained.byTopic[topic]
	return m, m != nil && !m.expiredAt(b.config.Now())
}

// AllRetained returns all retained messages, in no order.
func (b *Broker) AllRetained() []*Message {
	b.retained.mu.Lock()
	defer b.retained.mu.Unlock()
	return slices.Collect(maps.Values(b.retained.byTopic))
}
