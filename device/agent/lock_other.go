//go:build !unix

package agent

import "os"

// lock has no lock on these systems; the outbox has one of its own.
func lock(path string) (release func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return f.Close, nil
}
