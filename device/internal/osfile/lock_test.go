package osfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"example.com/fleety/device/internal/osfile"
)

func TestLockIsHeldByOne(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := osfile.Lock(path, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := osfile.Lock(path, true); !errors.Is(err, osfile.ErrLocked) {
		t.Errorf("a second lock: %v", err)
	}
	if pid := osfile.Holder(path); pid != os.Getpid() && runtime.GOOS != "windows" {
		t.Errorf("holder %d, want %d", pid, os.Getpid())
	}
	if err := unlock(false); err != nil {
		t.Fatal(err)
	}
	if pid := osfile.Holder(path); pid != 0 {
		t.Errorf("process %d has a lock that has ended", pid)
	}
	if unlock, err = osfile.Lock(path, false); err != nil {
		t.Fatal(err)
	}
	if err := unlock(true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file of a lock is left: %v", err)
	}
}

func TestReadIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("four"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := osfile.Read(path, 4); err != nil || string(data) != "four" {
		t.Errorf("%q, %v", data, err)
	}
	for path, limit := range map[string]int64{path: 3, dir: 4, filepath.Join(dir, "none"): 4} {
		if data, err := osfile.Read(path, limit); err == nil {
			t.Errorf("%s: %q", path, data)
		}
	}
}
