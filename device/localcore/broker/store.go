package broker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	bolt "go.etcd.io/bbolt"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/records"
)

// The store has a bucket of retained messages by topic, and one of sessions: a bucket for each
// client id, with a record and two buckets in it.
var (
	retainedBucket      = []byte("retained")
	sessionsBucket      = []byte("sessions")
	sessionKey          = []byte("session")
	subscriptionsBucket = []byte("subscriptions") // by filter
	messagesBucket      = []byte("messages")      // by number, in the order of arrival
)

// A store keeps retained messages and persistent sessions over restarts. Each method is one
// transaction, on disk when it returns; a failure, which is [errNotStored], is logged too, for those
// who do not look at it. A nil store keeps nothing.
type store struct {
	file *records.File
	log  *slog.Logger
}

// A sessionRecord is a persistent session without what is in its buckets.
type sessionRecord struct {
	ProtocolVersion byte          `json:"protocolVersion"`
	Expiry          time.Duration `json:"expiryNs"`
	// Left is when the client disconnected; zero while it is connected.
	Left time.Time `json:"left,omitzero"`
}

// update works on the store. key is what the work is about, for the log.
func (s *store) update(key string, work func(tx *bolt.Tx) error) error {
	if s == nil {
		return nil
	}
	err := s.file.Update(work)
	if err == nil {
		return nil
	}
	s.log.Error("storing the broker's state", "key", key, "error", err)
	return fmt.Errorf("%w: %w", errNotStored, err)
}

// retain stores a message under its topic. One without payload removes it.
func (s *store) retain(m *Message) error {
	return s.update(m.Topic, func(tx *bolt.Tx) error {
		if len(m.Payload) == 0 {
			return tx.Bucket(retainedBucket).Delete([]byte(m.Topic))
		}
		return tx.Bucket(retainedBucket).Put([]byte(m.Topic), awsiot.EncodeJSON(m))
	})
}

// keepSession stores the record of a session, whose subscriptions and messages stay. left is zero
// while its client is connected.
func (s *store) keepSession(of *session, left time.Time) error {
	r := sessionRecord{of.version, of.expiry, left}
	return s.update(of.clientID, func(tx *bolt.Tx) error {
		bucket, err := tx.Bucket(sessionsBucket).CreateBucketIfNotExists([]byte(of.clientID))
		for _, name := range [][]byte{subscriptionsBucket, messagesBucket} {
			if err == nil {
				_, err = bucket.CreateBucketIfNotExists(name)
			}
		}
		if err != nil {
			return err
		}
		return bucket.Put(sessionKey, awsiot.EncodeJSON(r))
	})
}

// dropSession removes a session.
func (s *store) dropSession(clientID string) {
	_ = s.update(clientID, func(tx *bolt.Tx) error { return tx.Bucket(sessionsBucket).DeleteBucket([]byte(clientID)) })
}

// updateSession changes a bucket of a session. A session that was dropped meanwhile stays so.
func (s *store) updateSession(clientID string, bucket []byte, changes map[string][]byte) error {
	return s.update(clientID, func(tx *bolt.Tx) error {
		session := tx.Bucket(sessionsBucket).Bucket([]byte(clientID))
		if session == nil {
			return nil
		}
		return records.Change(session.Bucket(bucket), changes)
	})
}

// messageKey is the key of a message: its number, so that the order is that of arrival.
func messageKey(number uint64) string { return string(binary.BigEndian.AppendUint64(nil, number)) }

// read decodes the records of a bucket, which are the content.
func read[T any](b *bolt.Bucket, content string, each func(key string, value T)) error {
	return b.ForEach(func(key, data []byte) error {
		var value T
		if err := json.Unmarshal(data, &value); err != nil {
			return fmt.Errorf("reading %s: record %q: %w", content, key, err)
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
	err := b.store.file.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{retainedBucket, sessionsBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		err := read(tx.Bucket(retainedBucket), "the retained messages", func(topic string, m *Message) {
			b.retained.byTopic[topic] = m
			b.retained.bytes += m.size()
		})
		if err != nil {
			return err
		}
		sessions := tx.Bucket(sessionsBucket)
		return sessions.ForEachBucket(func(clientID []byte) error {
			bucket := sessions.Bucket(clientID)
			var r sessionRecord
			if err := json.Unmarshal(bucket.Get(sessionKey), &r); err != nil {
				return fmt.Errorf("reading the session of %s: %w", clientID, err)
			}
			s := &session{clientID: string(clientID), version: r.ProtocolVersion, store: b.store, allBytes: &b.queued}
			connected[s] = r.Left.IsZero()
			if r.Left.IsZero() {
				r.Left = now
			}
			s.expiry, s.expires = r.Expiry, r.Left.Add(r.Expiry)
			b.sessions[s.clientID] = s
			err := read(bucket.Bucket(subscriptionsBucket), "the subscriptions of "+s.clientID, func(_ string, sub subscription) { b.addSubscription(s, sub) })
			if err != nil {
				return err
			}
			return read(bucket.Bucket(messagesBucket), "the messages of "+s.clientID, func(key string, m *Message) {
				d := &delivery{message: m, qos: m.QoS, retain: m.Retain, number: binary.BigEndian.Uint64([]byte(key))}
				s.count(m.size())
				s.waiting, s.lastNumber = append(s.waiting, d), d.number
			})
		})
	})
	if err != nil {
		return err
	}
	for s, connected := range connected {
		if connected {
			_ = s.store.keepSession(s, now)
		}
		b.expireSession(s, now)
	}
	return nil
}
