package identity

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// A disk is what the package asks of the file system, one method for each
// call that can fail or be the last one before a crash. Tests put one that
// fails and forgets in its place; that is why atomic files are written here
// and not by a library.
type disk interface {
	ReadFile(path string) ([]byte, error)
	ReadDir(path string) (names []string, err error)
	MkdirAll(path string, perm fs.FileMode) error
	// Create makes a file that must not exist yet.
	Create(path string, perm fs.FileMode) (file, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(path string) error
	// Lock locks a file, made if need be, or returns a *LockedError.
	Lock(path string) (lock, error)
	// Holder returns the process that has the lock, 0 if none has.
	Holder(path string) int
}

type file interface {
	io.WriteCloser
	Sync() error
}

// A lock is released with or without its file.
type lock interface {
	Release() error
	RemoveAndRelease() error
}

// replaceFile writes a file so that after a crash at any moment either the old
// or the new content is there, whole. One writer at a time: the temporary
// file's name is fixed, so that crashes leave one at most.
func replaceFile(d disk, path string, data []byte, perm fs.FileMode) error {
	temp := tempPath(path)
	if err := remove(d, temp); err != nil {
		return err
	}
	if err := writeFile(d, temp, data, perm); err != nil {
		_ = d.Remove(temp) // the first error counts
		return err
	}
	if err := d.Rename(temp, path); err != nil {
		_ = d.Remove(temp)
		return err
	}
	return d.SyncDir(filepath.Dir(path))
}

// tempPath is where replaceFile writes before it renames.
func tempPath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
}

func writeFile(d disk, path string, data []byte, perm fs.FileMode) (err error) {
	f, err := d.Create(path, perm)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// remove deletes a file that may not be there.
func remove(d disk, path string) error {
	if err := d.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// osDisk is the real file system.
type osDisk struct{}

func (osDisk) ReadFile(path string) ([]byte, error)         { return os.ReadFile(path) }
func (osDisk) MkdirAll(path string, perm fs.FileMode) error { return os.MkdirAll(path, perm) }
func (osDisk) Rename(from, to string) error                 { return os.Rename(from, to) }
func (osDisk) Remove(path string) error                     { return os.Remove(path) }

func (osDisk) ReadDir(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func (osDisk) Create(path string, perm fs.FileMode) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	// The umask may have taken rights away that others are meant to have.
	if err := f.Chmod(perm); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (osDisk) SyncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil // has no such call; NTFS logs its directories
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil // this file system syncs no directories
	}
	return err
}
