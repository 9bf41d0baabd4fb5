package broker

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// A retained holds the messages that later subscribers get. It is safe for concurrent use.
type retained struct {
	mu      sync.Mutex          // held while the store is written, so that what is read is stored
	byTopic map[string]*Message // under mu
	bytes   int                 // of all, under mu
}

// retain keeps a message for later subscribers in place of an earlier one; one without payload only
// removes that [MQTT-3.3.1-6]. After an error the earlier one is still there.
func (b *Broker) retain(m *Message) error {
	r, change := &b.retained, 0
	r.mu.Lock()
	defer r.mu.Unlock()
	if earlier := r.byTopic[m.Topic]; earlier != nil {
		change -= earlier.size()
	}
	if len(m.Payload) > 0 {
		change += m.size()
	}
	if change > 0 && r.bytes+change > maxRetainedBytes {
		return fmt.Errorf("the retained messages take %d bytes, all that are allowed; this one is not kept", maxRetainedBytes)
	}
	if err := b.store.retain(m); err != nil {
		return err
	}
	r.bytes += change
	if r.byTopic[m.Topic] = m; len(m.Payload) == 0 {
		delete(r.byTopic, m.Topic)
	}
	return nil
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
