package broker

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"example.com/fleety/device/localcore/event"
)

// A retained holds the messages that later subscribers get. It is safe for concurrent use.
type retained struct {
	mu      sync.Mutex
	byTopic map[string]*Message // under mu
	bytes   int                 // of all, under mu
}

// set keeps a message in place of an earlier one; one without payload only removes that
// [MQTT-3.3.1-6]. It reports false, and keeps the earlier one, when all would take more than
// maxRetainedBytes.
func (r *retained) set(m *Message) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	change := 0
	if earlier := r.byTopic[m.Topic]; earlier != nil {
		change -= earlier.size()
	}
	if len(m.Payload) == 0 {
		delete(r.byTopic, m.Topic)
	} else if change += m.size(); r.bytes+change > maxRetainedBytes {
		return false
	} else {
		r.byTopic[m.Topic] = m
	}
	r.bytes += change
	return true
}

// retain keeps a message for later subscribers, or removes it.
func (b *Broker) retain(m *Message) {
	if b.retained.set(m) {
		b.store.retain(m)
		return
	}
	b.config.Record(event.Event{
		Type: event.Rejected, Action: event.Publish, ClientID: m.ClientID, CertificateID: m.CertificateID, Topic: m.Topic,
		Reason: fmt.Sprintf("the retained messages take %d bytes, all that are allowed; this one is not kept", maxRetainedBytes),
	})
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
