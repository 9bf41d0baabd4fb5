package broker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	bolt "go.etcd.io/bbolt"

	"example.com/fleety/device/localcore/records"
)

// The store has a bucket of retained messages by topic, and one of sessions: a bucket for each
// client id, with a record and two buckets in it.
var (
	retainedBucket      = []byte("retained")
	sessionsBucket      = []byte("sessions")
	sessionKey          = "session"
	subscriptionsBucket = []byte("subscriptions") // by filter
	messagesBucket      = []byte("messages")      // by number, in the order of arrival
)

// A store keeps retained messages and persistent sessions over restarts. Each method is one
// transaction, on disk when it returns; a failure is logged, and only that to retain a message is
// returned too. A nil store keeps nothing.
type store struct {
	db  *bolt.DB
	log *slog.Logger
}

// A messageRecord is a message as it is stored.
type messageRecord struct {
	Topic      string             `json:"topic"`
	Payload    []byte             `json:"payload"`
	QoS        byte               `json:"qos"`
	Retain     bool               `json:"retain,omitempty"`
	Created    float64            `json:"created"` // seconds since 1970, to the millisecond
	Properties packets.Properties `json:"properties"`
}

// A sessionRecord is a persistent session without what is in its buckets.
type sessionRecord struct {
	ProtocolVersion byte          `json:"protocolVersion"`
	Expiry          time.Duration `json:"expiryNs"`
	// Left is when the client disconnected; zero while it is connected.
	Left time.Time `json:"left,omitzero"`
}

func recordOf(m *Message, qos byte, retain bool) messageRecord {
	return messageRecord{m.Topic, m.Payload, qos, retain, float64(m.Time.UnixMilli()) / 1000, m.properties()}
}

func (r *messageRecord) message() *Message {
	m := &Message{Topic: r.Topic, Payload: r.Payload, QoS: r.QoS, Retain: r.Retain, Time: time.UnixMilli(int64(math.Round(r.Created * 1000)))}
	m.setProperties(&r.Properties)
	return m
}

// Changes are values by key; a nil one removes what is there.
type changes map[string]any

func (r changes) write(b *bolt.Bucket) error {
	for key, value := range r {
		data, err := json.Marshal(value)
		switch {
		case value == nil:
			err = b.Delete([]byte(key))
		case err == nil:
			err = b.Put([]byte(key), data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// update works on the store. key is what the work is about, for the log.
func (s *store) update(key string, work func(tx *bolt.Tx) error) error {
	if s == nil {
		return nil
	}
	err := records.Guard(func() error { return s.db.Update(work) })
	if err != nil {
		s.log.Error("storing the broker's state", "key", key, "error", err)
	}
	return err
}

// retain stores a message under its topic. One without payload removes it.
func (s *store) retain(m *Message) error {
	r := changes{m.Topic: recordOf(m, m.QoS, true)}
	if len(m.Payload) == 0 {
		r[m.Topic] = nil
	}
	return s.update(m.Topic, func(tx *bolt.Tx) error { return r.write(tx.Bucket(retainedBucket)) })
}

// keepSession stores the record of a session, whose subscriptions and messages stay. left is zero
// while its client is connected.
func (s *store) keepSession(of *session, left time.Time) {
	clientID, r := of.clientID, sessionRecord{of.version, of.expiry, left}
	_ = s.update(clientID, func(tx *bolt.Tx) error {
		bucket, err := tx.Bucket(sessionsBucket).CreateBucketIfNotExists([]byte(clientID))
		for _, name := range [][]byte{subscriptionsBucket, messagesBucket} {
			if err == nil {
				_, err = bucket.CreateBucketIfNotExists(name)
			}
		}
		if err != nil {
			return err
		}
		return changes{sessionKey: r}.write(bucket)
	})
}

// dropSession removes a session.
func (s *store) dropSession(clientID string) {
	_ = s.update(clientID, func(tx *bolt.Tx) error { return tx.Bucket(sessionsBucket).DeleteBucket([]byte(clientID)) })
}

// updateSession changes a bucket of a session. A session that was dropped meanwhile stays so.
func (s *store) updateSession(clientID string, bucket []byte, r changes) {
	_ = s.update(clientID, func(tx *bolt.Tx) error {
		session := tx.Bucket(sessionsBucket).Bucket([]byte(clientID))
		if session == nil {
			return nil
		}
		return r.write(session.Bucket(bucket))
	})
}

// messageKey is the key of a message: its number, so that the order is that of arrival.
func messageKey(number uint64) string { return string(binary.BigEndian.AppendUint64(nil, number)) }

// read decodes the records of a bucket.
func read[T any](b *bolt.Bucket, each func(key string, value T)) error {
	return b.ForEach(func(key, data []byte) error {
		var value T
		if err := json.Unmarshal(data, &value); err != nil {
			return fmt.Errorf("record %q: %w", key, err)
		}
		each(string(key), value)
		return nil
	})
}

// restore brings back what an earlier run kept. The clients of its sessions left when they did, or
// else when that run ended without closing them.
func (b *Broker) restore() error {
	now := b.config.Now()
	connected := map[*session]bool{}
	err := b.store.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{retainedBucket, sessionsBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		err := read(tx.Bucket(retainedBucket), func(topic string, r messageRecord) {
			m := r.message()
			b.retained.byTopic[topic] = m
			b.retained.bytes += m.size()
		})
		if err != nil {
			return fmt.Errorf("reading the retained messages: %w", err)
		}
		sessions := tx.Bucket(sessionsBucket)
		return sessions.ForEachBucket(func(clientID []byte) error {
			bucket := sessions.Bucket(clientID)
			var r sessionRecord
			if err := json.Unmarshal(bucket.Get([]byte(sessionKey)), &r); err != nil {
				return fmt.Errorf("reading the session of %s: %w", clientID, err)
			}
			s := b.newSession(string(clientID), r.ProtocolVersion, true)
			connected[s] = r.Left.IsZero()
			if r.Left.IsZero() {
				r.Left = now
			}
			s.expiry, s.expires = r.Expiry, r.Left.Add(r.Expiry)
			err := read(bucket.Bucket(subscriptionsBucket), func(_ string, sub subscription) { b.addSubscription(s, sub) })
			if err != nil {
				return fmt.Errorf("reading the subscriptions of %s: %w", clientID, err)
			}
			err = read(bucket.Bucket(messagesBucket), func(key string, r messageRecord) {
				d := &delivery{message: r.message(), qos: r.QoS, retain: r.Retain, number: binary.BigEndian.Uint64([]byte(key))}
				s.count(d.message.size())
				s.waiting, s.lastNumber = append(s.waiting, d), d.number
			})
			if err != nil {
				return fmt.Errorf("reading the messages of %s: %w", clientID, err)
			}
			b.sessions[s.clientID] = s
			return nil
		})
	})
	if err != nil {
		return err
	}
	for s, connected := range connected {
		if connected {
			s.store.keepSession(s, now)
		}
		b.expireSession(s, now)
	}
	return nil
}
