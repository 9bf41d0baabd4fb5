//go:build unix

package osfile

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Lock locks a file, which it creates with mode 0600 if it is missing, and writes the process id
// into it. It waits about 100 ms. On a disk that cannot be written it locks a file that exists,
// if readOnly is set.
func Lock(path string, readOnly bool) (Unlock, error) {
	// Tries are counted: on a busy machine one may take longer than all of lookTime, and find that the
	// last holder has removed the file meanwhile.
	const pause = 5 * time.Millisecond
	for tries := lookTime / pause; ; tries-- {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if errors.Is(err, syscall.EROFS) && readOnly {
			f, err = os.Open(path)
		}
		if err != nil {
			return nil, err
		}
		// The last holder may have removed the file after it was opened here: nobody else would find it.
		opened, err := f.Stat()
		if flockErr := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); flockErr != nil {
			err = &os.PathError{Op: "flock", Path: path, Err: flockErr}
		} else if err == nil {
			err = InPlace(path, opened)
		}
		if err != nil {
			f.Close()
			locked := errors.Is(err, syscall.EWOULDBLOCK)
			if (locked || errors.Is(err, syscall.ESTALE)) && tries > 0 {
				time.Sleep(pause)
				continue
			}
			if locked {
				err = ErrLocked
			}
			return nil, err
		}
		// A full disk must not keep a device from continuing.
		_ = f.Truncate(0)
		_, _ = f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
		return func(remove bool) (err error) {
			if remove {
				err = os.Remove(path)
			}
			// A child between its fork and its exec has the file open, too, and with it the lock.
			return errors.Join(err, syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
		}, nil
	}
}

// Holder returns the process that has the lock of a file, 0 if none has or it is not known.
func Holder(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	if !errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		return 0
	}
	data, _ := os.ReadFile(path)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}
