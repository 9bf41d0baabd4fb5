//go:build !unix

package osfile

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// Lock locks a file by keeping it open: on Windows such a file cannot be removed, so a process that
// can remove it may make it again.
func Lock(path string, _ bool) (Unlock, error) {
	for deadline := time.Now().Add(lookTime); ; time.Sleep(5 * time.Millisecond) {
		err := os.Remove(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
			if err == nil {
				return func(remove bool) error {
					if err := f.Close(); err != nil || !remove {
						return err
					}
					return os.Remove(path)
				}, nil
			}
			if !errors.Is(err, fs.ErrExist) {
				return nil, err
			}
		}
		if time.Now().After(deadline) {
			return nil, ErrLocked
		}
	}
}

// Holder is not known here.
func Holder(string) int { return 0 }
