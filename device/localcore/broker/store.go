package broker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	bolt "go.etcd.io/bbolt"
)

const openTimeout = time.Second

// The store has a bucket of retained messages by topic, and one of sessions:
// a bucket for each client id, with a record and two buckets in it.
var (
	retainedBucket      = []byte("retained")
	sessionsBucket      = []byte("sessions")
	sessionKey          = []byte("session")
	subscriptionsBucket = []byte("subscriptions") // by filter
	messagesBucket      = []byte("messages")      // by number, in the order of arrival
)

// A store keeps retained messages and persistent sessions over restarts. Each
// method is one transaction, on disk when it returns.
type store struct{ db *bolt.DB }

// A messageRecord is a message as it is stored.
type messageRecord struct {
	Topic       string             `json:"topic"`
	Payload     []byte             `json:"payload"`
	QoS         byte               `json:"qos"`
	Retain      bool               `json:"retain,omitempty"`
	CreatedUnix int64              `json:"created"`
	Properties  packets.Properties `json:"properties"`
}

// A sessionRecord is a persistent session without what is in its buckets.
type sessionRecord struct {
	ProtocolVersion byte          `json:"protocolVersion"`
	Expiry          time.Duration `json:"expiryNs"`
	// Left is when the client disconnected; zero while it is connected.
	Left time.Time `json:"left,omitzero"`
}

// A storedSession is what a restart finds of a session.
type storedSession struct {
	sessionRecord
	clientID      string
	subscriptions []subscription
	messages      []*delivery
}

func openStore(path string) (*store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: openTimeout})
	if err != nil {
		return nil, fmt.Errorf("opening the broker's state %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{retainedBucket, sessionsBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("opening the broker's state %s: %w", path, err)
	}
	return &store{db}, nil
}

func (s *store) close() error { return s.db.Close() }

func recordOf(m *Message, qos byte, retain bool) messageRecord {
	return messageRecord{m.Topic, m.Payload, qos, retain, m.Time.Unix(), m.properties()}
}

func (r messageRecord) message() *Message {
	m := &Message{Topic: r.Topic, Payload: r.Payload, QoS: r.QoS, Retain: r.Retain, Time: time.Unix(r.CreatedUnix, 0)}
	m.setProperties(r.Properties)
	return m
}

func put(b *bolt.Bucket, key []byte, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return b.Put(key, data)
}

// retain stores a message under its topic. One without payload removes it.
func (s *store) retain(m *Message) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(retainedBucket)
		if len(m.Payload) == 0 {
			return bucket.Delete([]byte(m.Topic))
		}
		return put(bucket, []byte(m.Topic), recordOf(m, m.QoS, true))
	})
}

// retained returns all retained messages.
func (s *store) retained() (all []*Message, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(retainedBucket).ForEach(func(topic, value []byte) error {
			var r messageRecord
			if err := json.Unmarshal(value, &r); err != nil {
				return fmt.Errorf("topic %s: %w", topic, err)
			}
			all = append(all, r.message())
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading the retained messages: %w", err)
	}
	return all, nil
}

// keepSession stores the record of a session; its subscriptions and messages stay.
func (s *store) keepSession(clientID string, r sessionRecord) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		bucket, err := tx.Bucket(sessionsBucket).CreateBucketIfNotExists([]byte(clientID))
		if err != nil {
			return err
		}
		for _, name := range [][]byte{subscriptionsBucket, messagesBucket} {
			if _, err := bucket.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return put(bucket, sessionKey, r)
	})
}

// dropSession removes a session, if it is there.
func (s *store) dropSession(clientID string) error {
	name := []byte(clientID)
	known := false
	err := s.db.View(func(tx *bolt.Tx) error {
		known = tx.Bucket(sessionsBucket).Bucket(name) != nil
		return nil
	})
	if err != nil || !known {
		return err // most sessions are clean: spare them a write
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		if tx.Bucket(sessionsBucket).Bucket(name) == nil {
			return nil
		}
		return tx.Bucket(sessionsBucket).DeleteBucket(name)
	})
}

// updateSession works on a bucket of a session. A session that was dropped
// meanwhile stays so.
func (s *store) updateSession(clientID string, name []byte, work func(*bolt.Bucket) error) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		session := tx.Bucket(sessionsBucket).Bucket([]byte(clientID))
		if session == nil {
			return nil
		}
		return work(session.Bucket(name))
	})
}

// subscribe stores subscriptions of a session.
func (s *store) subscribe(clientID string, subscriptions []subscription) error {
	return s.updateSession(clientID, subscriptionsBucket, func(b *bolt.Bucket) error {
		for _, sub := range subscriptions {
			if err := put(b, []byte(sub.Filter), sub); err != nil {
				return err
			}
		}
		return nil
	})
}

// unsubscribe removes subscriptions of a session.
func (s *store) unsubscribe(clientID string, filters []string) error {
	return s.updateSession(clientID, subscriptionsBucket, func(b *bolt.Bucket) error {
		for _, filter := range filters {
			if err := b.Delete([]byte(filter)); err != nil {
				return err
			}
		}
		return nil
	})
}

// add stores a message of a session and returns its number, from 1.
func (s *store) add(clientID string, d *delivery) (number uint64, err error) {
	err = s.updateSession(clientID, messagesBucket, func(b *bolt.Bucket) error {
		if number, err = b.NextSequence(); err != nil {
			return err
		}
		return put(b, binary.BigEndian.AppendUint64(nil, number), recordOf(d.message, d.qos, d.retain))
	})
	return number, err
}

// remove removes a message of a session.
func (s *store) remove(clientID string, number uint64) error {
	return s.updateSession(clientID, messagesBucket, func(b *bolt.Bucket) error {
		return b.Delete(binary.BigEndian.AppendUint64(nil, number))
	})
}

// sessions returns all sessions.
func (s *store) sessions() (all []storedSession, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		sessions := tx.Bucket(sessionsBucket)
		return sessions.ForEachBucket(func(clientID []byte) error {
			session, err := readSession(sessions.Bucket(clientID))
			if err != nil {
				return fmt.Errorf("client id %s: %w", clientID, err)
			}
			session.clientID = string(clientID)
			all = append(all, session)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading the sessions: %w", err)
	}
	return all, nil
}

func readSession(b *bolt.Bucket) (s storedSession, err error) {
	if err := json.Unmarshal(b.Get(sessionKey), &s.sessionRecord); err != nil {
		return s, err
	}
	err = b.Bucket(subscriptionsBucket).ForEach(func(_, value []byte) error {
		var sub subscription
		s.subscriptions = append(s.subscriptions, sub)
		return json.Unmarshal(value, &s.subscriptions[len(s.subscriptions)-1])
	})
	if err != nil {
		return s, err
	}
	err = b.Bucket(messagesBucket).ForEach(func(number, value []byte) error {
		var r messageRecord
		if err := json.Unmarshal(value, &r); err != nil {
			return err
		}
		s.messages = append(s.messages, &delivery{
			message: r.message(), qos: r.QoS, retain: r.Retain, number: binary.BigEndian.Uint64(number),
		})
		return nil
	})
	return s, err
}
