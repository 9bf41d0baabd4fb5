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
	"syscall"
)

// Write replaces a file, and returns when its content is on stable storage. perm is
// that of a new file, before umask; one that exists keeps its own.
//
// There is no github.com/google/renameio for Windows, and elsewhere it also writes
// to the temporary folder, which is one more write to the flash of a device.
func Write(path string, data []byte, perm fs.FileMode) error {
	f, err := os.OpenFile(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
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
	return SyncDir(filepath.Dir(path))
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
