package outbox

import (
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// While the disk cannot be written, a message that is acknowledged does not come again, and is
// removed later; one that cannot be set aside does.
func TestOutboxOnADiskThatCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := New(Config{Path: path})
	t.Cleanup(func() { o.Close() })
	for _, topic := range []string{"a", "b"} {
		if err := o.Put(topic, nil); err != nil {
			t.Fatal(err)
		}
	}
	reopen := func(readOnly bool) {
		if err := o.db.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if o.db, err = bolt.Open(path, 0o600, &bolt.Options{ReadOnly: readOnly}); err != nil {
			t.Fatal(err)
		}
	}
	next := func(want string) Message {
		t.Helper()
		messages, err := o.Next(time.Now(), 1, 1)
		if err != nil || len(messages) != 1 || messages[0].Topic != want {
			t.Fatalf("next: %v, %v; want %s", messages, err, want)
		}
		return messages[0]
	}
	reopen(true)
	if err := o.SetAside(next("a")); err == nil {
		t.Error("set aside")
	}
	for _, topic := range []string{"a", "b"} {
		if err := o.Acknowledge(next(topic)); err == nil {
			t.Error("removed")
		}
	}
	if s := o.Stats(); s.Messages != 2 || s.Acknowledged != 0 || s.SetAside != 0 {
		t.Errorf("%+v", s)
	}
	reopen(false)
	if messages, err := o.Next(time.Now(), 1, 1); len(messages) > 0 || err != nil {
		t.Errorf("%v came again, %v", messages, err)
	}
	if s := o.Stats(); s.Messages != 0 || s.Bytes != 0 || s.Acknowledged != 2 {
		t.Errorf("%+v", s)
	}
}
