package outbox

import (
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A device without a battery for its clock begins with the time of when it was switched off: what it
// stores is as old as that, once the clock is set.
func TestMessagesStoredBeforeTheClockWasSetAreYoung(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	for _, want := range []int{1, 0} {
		o := New(Config{Path: path, MaxAge: time.Hour})
		if want == 1 {
			if err := o.Put("before", nil); err != nil {
				t.Fatal(err)
			}
		}
		err := o.db.Update(func(tx *bolt.Tx) error {
			m := Message{Sequence: 1, Topic: "before", Stored: time.Now().AddDate(0, 0, -30)}
			return tx.Bucket(queued).Put(m.encode())
		})
		if err != nil {
			t.Fatal(err)
		}
		if messages, err := o.Next(9, 9); len(messages) != want || err != nil {
			t.Errorf("%v, %v; want %d", messages, err, want)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
