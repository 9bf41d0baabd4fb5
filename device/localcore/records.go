package localcore

import (
	"fmt"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A store keeps the records of one service; nil keeps none over a restart. It is that of the
// packages shadow, jobs and rules.
type store interface {
	Each(f func(key string, value []byte) error) error
	Save(changes map[string][]byte) error
}

// openRecords opens the file that keeps shadows, jobs and rules, if there is a state directory, and
// returns the store of each by its name.
func (s *Server) openRecords() (func(service string) store, error) {
	if s.config.State == "" {
		return func(string) store { return nil }, nil
	}
	path := filepath.Join(s.config.State, "services.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("opening the state %s: %w", path, err)
	}
	s.onClose(db.Close)
	return func(service string) store { return records{db, []byte(service)} }, nil
}

// records are a bucket of the file.
type records struct {
	db     *bolt.DB
	bucket []byte
}

// Each calls f with every record.
func (r records) Each(f func(key string, value []byte) error) error {
	return r.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(r.bucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(key, value []byte) error { return f(string(key), value) })
	})
}

// Save stores records in one transaction, on disk when it returns; a nil value removes one.
func (r records) Save(changes map[string][]byte) error {
	return r.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(r.bucket)
		for key, value := range changes {
			switch {
			case err != nil:
				return err
			case value == nil:
				err = b.Delete([]byte(key))
			default:
				err = b.Put([]byte(key), value)
			}
		}
		return err
	})
}
