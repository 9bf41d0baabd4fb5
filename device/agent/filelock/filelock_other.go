//go:build !unix

package filelock

import "os"

// Try opens the file, and locks nothing on these systems.
func Try(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) }
