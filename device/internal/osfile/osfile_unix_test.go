//go:build unix

package osfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
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

// A child that is forked has the open file of a lock until its exec.
func TestLockEndsAlthoughAChildHasItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := osfile.Lock(path, false)
	if err != nil {
		t.Fatal(err)
	}
	var want syscall.Stat_t
	if err := syscall.Stat(path, &want); err != nil {
		t.Fatal(err)
	}
	child := -1
	for fd := range 1024 { // the lock's own is not known
		var got syscall.Stat_t
		if syscall.Fstat(fd, &got) == nil && got.Dev == want.Dev && got.Ino == want.Ino {
			if child, err = syscall.Dup(fd); err != nil {
				t.Fatal(err)
			}
			defer syscall.Close(child)
			break
		}
	}
	if child < 0 {
		t.Fatal("the file of the lock is not open")
	}
	if err := unlock(false); err != nil {
		t.Fatal(err)
	}
	if unlock, err = osfile.Lock(path, false); err != nil {
		t.Fatal(err)
	}
	if err := unlock(true); err != nil {
		t.Error(err)
	}
}

// Where the file system does not show a file, that is an error of its own.
func TestFileThatIsNotInPlaceIsStale(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dir")
	path := filepath.Join(dir, "file")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		change func() error
		want   error
	}{
		{func() error { return nil }, nil},
		{func() error { return os.Remove(path) }, syscall.ESTALE},
		{func() error { return os.WriteFile(path, nil, 0o600) }, syscall.ESTALE},
		{func() error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) }, syscall.ENOTDIR},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		if err := osfile.InPlace(path, opened); !errors.Is(err, step.want) {
			t.Errorf("%v, want %v", err, step.want)
		}
	}
}

// A holder that removes the file, however many there are in turn, is no fault of the file system.
func TestLockOfAFileThatIsRemovedAgainAndAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	var holders sync.WaitGroup
	for range 8 {
		holders.Go(func() {
			for range 50 {
				unlock, err := osfile.Lock(path, false)
				if err == nil {
					err = unlock(true)
				}
				if err != nil && !errors.Is(err, osfile.ErrLocked) {
					t.Error(err)
				}
			}
		})
	}
	holders.Wait()
}
