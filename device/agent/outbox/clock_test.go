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
		if messages, err := o.Next(time.Now(), 9, 9); len(messages) != want || err != nil {
			t.Errorf("%v, %v; want %d", messages, err, want)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What is too old is decided by the clock of the consumer, which may know that the system's has jumped.
func TestMessagesExpireByTheClockOfTheConsumer(t *testing.T) {
	c := Config{Path: filepath.Join(t.TempDir(), "outbox.db"), MaxAge: time.Hour}
	o := New(c)
	if err := o.Put("stored", nil); err != nil {
		t.Fatal(err)
	}
	o.Close()
	o = New(c) // an outbox that this process has inherited
	defer o.Close()
	for _, test := range []struct {
		later time.Duration
		want  int
	}{{0, 1}, {time.Hour / 2, 1}, {2 * time.Hour, 0}} {
		if messages, err := o.Next(time.Now().Add(test.later), 9, 9); len(messages) != test.want || err != nil {
			t.Errorf("%v later: %v, %v; want %d", test.later, messages, err, test.want)
		}
	}
}
