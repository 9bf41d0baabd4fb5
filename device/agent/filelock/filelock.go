// Package filelock locks files among processes. A lock ends with its process, however
// that ends.
package filelock

import "errors"

// ErrLocked is returned by [Try] while another process, or another caller of this
// one, has the lock.
var ErrLocked = errors.New("the file is locked")
