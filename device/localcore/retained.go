package localcore

import (
	"encoding/json"
	"fmt"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	bolt "go.etcd.io/bbolt"
)

const (
	retainedFile = "retained.db"
	openTimeout  = time.Second
)

var retainedBucket = []byte("retained")

// A retainedStore keeps retained messages over restarts.
type retainedStore struct{ db *bolt.DB }

// A retainedRecord is a retained message as it is stored under its topic.
type retainedRecord struct {
	Payload         []byte             `json:"payload"`
	QoS             byte               `json:"qos"`
	ProtocolVersion byte               `json:"protocolVersion"`
	CreatedUnix     int64              `json:"created"`
	ExpiryUnix      int64              `json:"expiry,omitempty"`
	Properties      packets.Properties `json:"properties"`
}

func openRetainedStore(path string) (*retainedStore, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: openTimeout})
	if err != nil {
		return nil, fmt.Errorf("opening the retained messages %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(retainedBucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("opening the retained messages %s: %w", path, err)
	}
	return &retainedStore{db}, nil
}

// load brings all messages back into the topic tree.
func (r *retainedStore) load(topics *mqtt.TopicsIndex) error {
	err := r.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(retainedBucket).ForEach(func(topic, value []byte) error {
			var m retainedRecord
			if err := json.Unmarshal(value, &m); err != nil {
				return fmt.Errorf("topic %s: %w", topic, err)
			}
			topics.RetainMessage(packets.Packet{
				FixedHeader:     packets.FixedHeader{Type: packets.Publish, Qos: m.QoS, Retain: true},
				TopicName:       string(topic),
				Payload:         m.Payload,
				ProtocolVersion: m.ProtocolVersion,
				Created:         m.CreatedUnix,
				Expiry:          m.ExpiryUnix,
				Properties:      m.Properties,
			})
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("reading the retained messages: %w", err)
	}
	return nil
}

// keep stores a message under its topic. One without payload removes it.
func (r *retainedStore) keep(pk packets.Packet) error {
	return r.db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(retainedBucket)
		if len(pk.Payload) == 0 {
			return bucket.Delete([]byte(pk.TopicName))
		}
		value, err := json.Marshal(retainedRecord{
			pk.Payload, pk.FixedHeader.Qos, pk.ProtocolVersion, pk.Created, pk.Expiry, pk.Properties,
		})
		if err != nil {
			return err
		}
		return bucket.Put([]byte(pk.TopicName), value)
	})
}

func (r *retainedStore) close() error { return r.db.Close() }
