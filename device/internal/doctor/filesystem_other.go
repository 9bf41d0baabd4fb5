//go:build !linux

package doctor

func fileSystem(string) string { return "unknown" }

func freeSpace(string) (uint64, bool) { return 0, false } // writing a file shows enough
