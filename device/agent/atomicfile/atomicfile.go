// Package atomicfile replaces files of the agent so that after a crash or a power
// cut at any moment either the old or the new content is there, whole.
package atomicfile

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// abandonedAfter is longer than another process takes to write a file.
const abandonedAfter = time.Hour

// Write replaces a file, and returns when its content is on stable storage. perm is
// that of a new file, before umask; one that exists keeps its own.
//
// There is no github.com/google/renameio for Windows, and elsewhere it also writes
// to the temporary folder, which is one more write to the flash of a device.
func Write(path string, data []byte, perm fs.FileMode) error {
	dir, prefix := filepath.Dir(path), "."+filepath.Base(path)+"."
	removeAbandoned(dir, prefix)
	f, err := os.OpenFile(filepath.Join(dir, prefix+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if info, statErr := os.Lstat(path); err == nil && statErr == nil && info.Mode().IsRegular() && info.Mode().Perm() != perm {
		err = f.Chmod(info.Mode().Perm())
	}
	for _, step := range []func() error{f.Sync, f.Close, func() error { return os.Rename(f.Name(), path) }} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return err
	}
	return SyncDir(dir)
}

// removeAbandoned removes the new files of processes that were killed before their rename.
func removeAbandoned(dir, prefix string) {
	entries, _ := os.ReadDir(dir) // those that can be read
	for _, e := range entries {
		random, ok := strings.CutPrefix(e.Name(), prefix)
		if info, err := e.Info(); ok && len(random) == len(rand.Text()) && err == nil && time.Since(info.ModTime()) > abandonedAfter {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// SyncDir makes the names in a folder durable, where the system has a call for it.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err = d.Sync(); errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil // this file system syncs no folders
	}
	return err
}
