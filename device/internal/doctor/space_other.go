//go:build !linux && !darwin

package doctor

// freeSpace is not known here; writing a file shows enough.
func freeSpace(string) (uint64, bool) { return 0, false }
