//go:build !linux

package identity

func fileSystem(string) string { return "" }
