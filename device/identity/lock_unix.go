//go:build unix

package identity

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Lock is a flock on an open file: it ends with the process, however that ends.
func (osDisk) Lock(path string) (release, error) {
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
		ours, err1 := f.Stat()
		theirs, err2 := os.Stat(path)
		if err1 != nil || err2 != nil || !os.SameFile(ours, theirs) {
			f.Close()
			continue
		}
		// Others see who has the lock. A full disk must not keep a device from
		// continuing, so errors do not count.
		_ = f.Truncate(0)
		_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
		return func(remove bool) error {
			if remove {
				return errors.Join(os.Remove(path), f.Close())
			}
			return f.Close()
		}, nil
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

// flock does not wait for a lock, except for the moment that Holder takes one.
func flock(f *os.File, how int) (err error) {
	for range 3 {
		if err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err == nil {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return err
}

// readPID returns what Lock wrote, 0 if that cannot be read.
func readPID(path string) int {
	data, _ := os.ReadFile(path)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}
