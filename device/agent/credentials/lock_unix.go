//go:build unix

package credentials

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lock waits for other callers that work on the credentials of the role alias,
// until ctx ends or lockWait has passed. On a disk that has no locks or cannot be
// written it does not wait: the device must get credentials there too.
func lock(ctx context.Context, dir, roleAlias string) (unlock func()) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	_ = os.MkdirAll(dir, 0o700) // opening the file fails if it is not there
	f, err := os.OpenFile(filepath.Join(dir, roleAlias+".lock"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return func() {}
	}
	for ctx.Err() == nil && errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return func() { f.Close() }
}
