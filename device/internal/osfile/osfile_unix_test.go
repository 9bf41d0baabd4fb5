//go:build unix

package osfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"example.com/fleety/device/internal/osfile"
)

// What is no file stays, also behind a link, as /dev/null has to.
func TestReplaceLeavesWhatIsNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.Symlink(fifo, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, link, dir} {
		if err := osfile.Replace(path, nil, 0o600); !errors.Is(err, osfile.ErrNotRegular) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}
