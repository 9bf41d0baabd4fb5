package outbox

import (
	"os"
	"path/filepath"
	"testing"
)

// The file does not take many times what its messages do.
func TestFileIsNotMuchLargerThanItsBound(t *testing.T) {
	t.Parallel()
	const bound = 8 << 20
	path := filepath.Join(t.TempDir(), "outbox.db")
	o := New(Config{Path: path, MaxBytes: bound})
	t.Cleanup(func() { o.Close() })
	group := make([]*put, 256)
	for i := range group {
		group[i] = &put{topic: "fleet/thing/up/telemetry", payload: make([]byte, 400)}
	}
	for o.Stats().DroppedBytes < 10_000 {
		if err := o.commit(group); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 2*bound {
		t.Errorf("%d bytes for messages of %d, %v", info.Size(), o.Stats().Bytes, err)
	}
}
