//go:build !unix

package fleetcli_test

import "os"

// makeFIFO makes what is no regular file either.
func makeFIFO(path string) error { return os.Mkdir(path, 0o700) }
