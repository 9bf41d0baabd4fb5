//go:build unix

package osfile

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A lock on a file that nobody else finds is none, and where the file system does not show it, that is an
// error and no reason to look for ever.
func TestFileOfALockIsInPlace(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dir")
	path := filepath.Join(dir, "lock")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
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
		if err := inPlace(f); !errors.Is(err, step.want) {
			t.Errorf("%v, want %v", err, step.want)
		}
	}
}
