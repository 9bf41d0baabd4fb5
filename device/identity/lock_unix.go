//go:build unix

package identity

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
)

// A fileLock is a flock on an open file: it ends with the process, however
// that ends.
type fileLock struct{ f *os.File }

func (osDisk) Lock(path string) (lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(f, syscall.LOCK_EX); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, &LockedError{PID: readPID(path), Path: path}
			}
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		// The last holder may have removed the file after we opened it; then
		// the lock is on a file that nobody else will find.
		if isAt(f, path) {
			writePID(f)
			return fileLock{f}, nil
		}
		f.Close()
	}
}

// Holder finds out by taking a shared lock for a moment.
func (osDisk) Holder(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	if err := flock(f, syscall.LOCK_SH); errors.Is(err, syscall.EWOULDBLOCK) {
		return readPID(path)
	}
	return 0
}

func (l fileLock) Release() error { return l.f.Close() }

func (l fileLock) RemoveAndRelease() error {
	return errors.Join(os.Remove(l.f.Name()), l.f.Close())
}

// flock does not wait for a lock, except for the moment that Holder takes one.
func flock(f *os.File, how int) error {
	var err error
	for range 3 {
		if err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err == nil {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

func isAt(f *os.File, path string) bool {
	ours, err1 := f.Stat()
	theirs, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(ours, theirs)
}

// writePID lets others see who has the lock. A full disk must not keep a device
// from continuing, so errors do not count.
func writePID(f *os.File) {
	_ = f.Truncate(0)
	_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
}

func readPID(path string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(data)))
	if err != nil {
		return 0
	}
	return pid
}
