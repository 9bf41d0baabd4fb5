package localcore

import (
	"fmt"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

const recordsFile = "services.db"

// openRecords opens the file that keeps shadows, jobs and rules.
func openRecords(dir string) (*bolt.DB, error) {
	path := filepath.Join(dir, recordsFile)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("opening the state %s: %w", path, err)
	}
	return db, nil
}

// records are those of one service: a bucket of the file. It is the store of
// the packages shadow, jobs and rules.
type records struct {
	db     *bolt.DB
	bucket string
}

// Each calls f with every record.
func (r records) Each(f func(key string, value []byte) error) error {
	return r.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(r.bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(func(key, value []byte) error { return f(string(key), value) })
	})
}

// Save stores records in one transaction, on disk when it returns; a nil value
// removes one.
func (r records) Save(changes map[string][]byte) error {
	return r.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(r.bucket))
		if err != nil {
			return err
		}
		for key, value := range changes {
			if value == nil {
				err = b.Delete([]byte(key))
			} else {
				err = b.Put([]byte(key), value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
