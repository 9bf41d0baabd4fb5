package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// formatVersion is the version of what the buckets hold. A file of another
// version is rejected.
const formatVersion = "1"

// lockWait is how long Open waits for another process to release the file.
const lockWait = 200 * time.Millisecond

// ErrLocked reports that another process has the registry's file open.
var ErrLocked = errors.New("in use by another process; stop that one, or use another state folder")

var (
	metaBucket = []byte("meta")
	formatKey  = []byte("format")
)

// A bucket is a table or relation as the store sees it.
type bucket interface {
	// size counts the rows.
	size() int
	// changes returns the encoded rows; a nil value is a deletion.
	changes() (map[string][]byte, error)
	// load takes one row from the store.
	load(key string, value []byte) error
	// merge moves the changes of over, which lies over the bucket, into it.
	merge(over bucket)
}

func (t *table[V]) changes() (map[string][]byte, error) {
	out := make(map[string][]byte, len(t.rows))
	for key, row := range t.rows {
		if row == nil {
			out[key] = nil
			continue
		}
		value, err := json.Marshal(row)
		if err != nil {
			return nil, err
		}
		out[key] = value
	}
	return out, nil
}

func (t *table[V]) load(key string, value []byte) error {
	var v V
	if err := json.Unmarshal(value, &v); err != nil {
		return err
	}
	t.put(key, v)
	return nil
}

func (t *table[V]) size() int { return len(t.rows) }

func (r *relation[V]) size() int { return r.pairs.size() }

func (r *relation[V]) changes() (map[string][]byte, error) { return r.pairs.changes() }

func (r *relation[V]) load(key string, value []byte) error {
	left, right, ok := strings.Cut(key, separator)
	if !ok {
		return errors.New("not a pair")
	}
	if err := r.pairs.load(key, value); err != nil {
		return err
	}
	r.index(left, right)
	return nil
}

// openStore opens the file and reads all of it into s. Its errors leave the path
// to the caller.
func openStore(path string, s *state) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, ErrLocked
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return nil, fmt.Errorf("not a registry file, or damaged (%w); move it away to start empty", err)
	case err != nil:
		if e, ok := errors.AsType[*os.PathError](err); ok {
			return nil, e.Err
		}
		return nil, err
	}
	if err := db.Update(func(tx *bolt.Tx) error { return load(tx, s) }); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func load(tx *bolt.Tx, s *state) error {
	if err := checkFormat(tx); err != nil {
		return err
	}
	for name, part := range s.buckets() {
		b, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return err
		}
		err = b.ForEach(func(k, v []byte) error {
			if err := part.load(string(k), v); err != nil {
				return fmt.Errorf("record %q of %s: %w", k, name, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func checkFormat(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	switch found := meta.Get(formatKey); {
	case found == nil:
		return meta.Put(formatKey, []byte(formatVersion))
	case string(found) != formatVersion:
		return fmt.Errorf("format version %q, this program reads version %s; use the program that wrote it, or move the file away", found, formatVersion)
	}
	return nil
}

// persist writes the changes of a state in one transaction.
func persist(db *bolt.DB, s *state) error {
	return db.Update(func(tx *bolt.Tx) error {
		for name, part := range s.buckets() {
			rows, err := part.changes()
			if err != nil {
				return err
			}
			if err := write(tx.Bucket([]byte(name)), rows); err != nil {
				return err
			}
		}
		return nil
	})
}

func write(b *bolt.Bucket, rows map[string][]byte) error {
	for key, value := range rows {
		var err error
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
}
