package localcore

import (
	"fmt"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// records are those of one service: a bucket of a file, or nothing in memory. They
// are the store of the packages shadow, jobs and rules.
type records struct {
	db     *bolt.DB // nil without a state directory
	bucket []byte
}

// openRecords opens the file that keeps shadows, jobs and rules, if there is a
// state directory, and returns the records of each by its name.
func (s *Server) openRecords() (func(service string) records, error) {
	var db *bolt.DB
	if s.config.State != "" {
		path := filepath.Join(s.config.State, "services.db")
		var err error
		if db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second}); err != nil {
			return nil, fmt.Errorf("opening the state %s: %w", path, err)
		}
		s.onClose(db.Close)
	}
	return func(service string) records { return records{db, []byte(service)} }, nil
}

// Each calls f with every record.
func (r records) Each(f func(key string, value []byte) error) error {
	if r.db == nil {
		return nil
	}
	return r.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(r.bucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(key, value []byte) error { return f(string(key), value) })
	})
}

// Save stores records in one transaction, on disk when it returns; a nil value
// removes one.
func (r records) Save(changes map[string][]byte) error {
	if r.db == nil {
		return nil
	}
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
