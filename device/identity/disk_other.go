//go:build !unix

package identity

import (
	"errors"
	"io/fs"
	"os"
)

// Access is not checked where modes and owners are not those of Unix.

func (osDisk) MayWrite(string) error { return nil }
func (osDisk) MayRead(string) error  { return nil }

func checkOwner(string, fs.FileInfo, ...uint32) error { return nil }

// Lock is the existence of a file that is open: on Windows an open file cannot be
// removed, so a process that can remove it may make it again.
func (osDisk) Lock(path string) (release, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &LockedError{Path: path}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, &LockedError{Path: path}
	}
	if err != nil {
		return nil, err
	}
	return func(remove bool) error {
		if err := f.Close(); err != nil || !remove {
			return err
		}
		return os.Remove(path)
	}, nil
}

func (osDisk) Holder(string) int { return 0 }
