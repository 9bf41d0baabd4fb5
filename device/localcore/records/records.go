// Package records keeps the records of the emulator's services over restarts, in the buckets of a
// bbolt file.
package records

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockWait is how long Open waits for another process to release the file.
const lockWait = 200 * time.Millisecond

// ErrLocked reports that another process has the file open.
var ErrLocked = errors.New("in use by another process; stop that one, or use another state folder")

// ErrDamaged reports that a file cannot be read.
var ErrDamaged = errors.New("not a file of the emulator, or damaged; move it away to start empty")

// A Store keeps the records of one service by key.
type Store interface {
	// Each calls f with every record until f fails, and returns f's error. f must not keep value.
	Each(f func(key string, value []byte) error) error
	// Save stores records, all or none; a nil value removes one. They are on disk when it returns.
	Save(changes map[string][]byte) error
}

// A File has a bucket of records for each service. It is safe for concurrent use; a nil one has no
// records and keeps none.
type File struct{ db *bolt.DB }

// Open opens the file at path, and makes it where there is none. An empty path gives a nil File. A
// file that another process has open gives [ErrLocked], one that cannot be read [ErrDamaged]. Errors
// do not repeat the path.
func Open(path string) (*File, error) {
	if path == "" {
		return nil, nil
	}
	f := new(File)
	err := guard(func() (err error) {
		f.db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait})
		e, system := errors.AsType[syscall.Errno](err)
		info, statErr := os.Stat(path)
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			return ErrLocked
		case err != nil && statErr == nil && !info.Mode().IsRegular():
			return fmt.Errorf("%w (it is not a regular file)", ErrDamaged)
		case system:
			return e
		case err != nil:
			return fmt.Errorf("%w (%w)", ErrDamaged, err)
		}
		return f.db.View(func(tx *bolt.Tx) error {
			if statErr == nil && info.Size() < tx.Size() {
				return fmt.Errorf("%w (it was cut short)", ErrDamaged)
			}
			return nil
		})
	})
	if err != nil && f.db != nil {
		f.db.Close()
	}
	return f, err
}

// guard returns what f returns, or [ErrDamaged] when f meets a damaged page of a file. There bbolt
// panics, or reads past the end of the file, which would kill the process.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w (%v)", ErrDamaged, r)
		}
	}()
	return f()
}

// Close releases the file. What is saved afterwards is an error.
func (f *File) Close() error {
	if f == nil {
		return nil
	}
	return f.db.Close()
}

// Update is for records that are in buckets in buckets. What work changes is stored if it returns
// no error, and on disk when Update returns.
func (f *File) Update(work func(*bolt.Tx) error) error {
	if f == nil {
		return nil
	}
	return guard(func() error { return f.db.Update(work) })
}

// Change stores records in a bucket; a nil value removes one.
func Change(b *bolt.Bucket, records map[string][]byte) (err error) {
	for key, value := range records {
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

// Save stores changes by bucket and key, all or none, as [Store] does.
func (f *File) Save(changes map[string]map[string][]byte) error {
	return f.Update(func(tx *bolt.Tx) error {
		for name, records := range changes {
			b, err := tx.CreateBucketIfNotExists([]byte(name))
			if err == nil {
				err = Change(b, records)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Bucket returns the bucket of that name.
func (f *File) Bucket(name string) Store { return bucket{f, name} }

// None keeps no records.
var None = (*File)(nil).Bucket("")

type bucket struct {
	file *File
	name string
}

func (b bucket) Each(f func(key string, value []byte) error) error {
	if b.file == nil {
		return nil
	}
	return guard(func() error {
		return b.file.db.View(func(tx *bolt.Tx) error {
			stored := tx.Bucket([]byte(b.name))
			if stored == nil {
				return nil
			}
			return stored.ForEach(func(key, value []byte) error { return f(string(key), value) })
		})
	})
}

func (b bucket) Save(changes map[string][]byte) error {
	return b.file.Save(map[string]map[string][]byte{b.name: changes})
}
