package outbox

import (
	"path/filepath"
	"runtime"
	"testing"
)

// A disk that takes minutes for a sync keeps nobody from the counts: a watchdog would end the agent.
func TestStatsDoNotWaitForTheDisk(t *testing.T) {
	o := New(Config{Path: filepath.Join(t.TempDir(), "outbox.db")})
	t.Cleanup(func() { o.Close() })
	slow, err := o.db.Begin(true) // as a commit that does not end
	if err != nil {
		t.Fatal(err)
	}
	stored := make(chan error, 1)
	go func() { stored <- o.Put("a", nil) }()
	for o.mu.TryLock() { // until the message is being stored
		o.mu.Unlock()
		runtime.Gosched()
	}
	counts := make(chan Stats, 1)
	go func() { counts <- o.Stats() }()
	select {
	case s := <-counts:
		if s.Messages != 0 {
			t.Errorf("%+v", s)
		}
	case err := <-stored:
		t.Error("stored before the disk was ready", err)
	case <-t.Context().Done():
	}
	if err := slow.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-stored; err != nil || o.Stats().Messages != 1 {
		t.Errorf("%+v, %v", o.Stats(), err)
	}
}
