package identity

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"example.com/fleety/device/internal/osfile"
)

// A disk is what the package asks of the file system, one method for each call that can fail or be
// the last one before a crash. Tests put one that fails and loses in its place, and each step here
// syncs its directory; google/renameio allows neither, which is why atomic files are written here.
type disk interface {
	ReadFile(path string) ([]byte, error) // as [osfile.Read]
	ReadDir(path string) (names []string, err error)
	Mkdir(path string, perm fs.FileMode) error
	Create(path string, perm fs.FileMode) (file, error) // of a file that must not exist yet
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(path string) error // makes the names in a directory durable

	// Resolve returns the file that a symbolic link names, which need not exist, and path if it is
	// none.
	Resolve(path string) (string, error)
	Locate(path string) osfile.Place
	// MayWrite and MayRead return ErrAccess for a directory, or a file, that others could
	// have written to.
	MayWrite(dir string) error
	MayRead(path string) error

	Lock(path string) (osfile.Unlock, error) // as [osfile.Lock]; or a *LockedError
	Holder(path string) int                  // as [osfile.Holder]
}

type file interface {
	io.WriteCloser
	Sync() error
}

// replaceFile writes a file so that after a crash at any moment either the old or the new content
// is there, whole. One writer at a time: the temporary file's name is fixed, so that crashes leave
// one at most.
func replaceFile(d disk, path string, data []byte, perm fs.FileMode) error {
	temp := tempPath(path)
	if err := remove(d, temp); err != nil {
		return err
	}
	f, err := d.Create(temp, perm)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err == nil {
		err = d.Rename(temp, path)
	}
	if err != nil {
		_ = d.Remove(temp) // the first error counts
		return err
	}
	return d.SyncDir(filepath.Dir(path))
}

// tempPath is where replaceFile writes before it renames.
func tempPath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
}

// remove deletes a file that may not be there.
func remove(d disk, path string) error {
	if err := d.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeDurably deletes a file that may not be there, and makes that durable.
func removeDurably(d disk, path string) error {
	if err := remove(d, path); err != nil {
		return err
	}
	return d.SyncDir(filepath.Dir(path))
}

// makeDir makes a directory and those above it where they are missing. They are durable only once
// [syncAbove] has returned.
func makeDir(d disk, path string) error {
	err := d.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(path) != path {
		if err = makeDir(d, filepath.Dir(path)); err == nil {
			err = d.Mkdir(path, 0o700)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// syncAbove makes the name of a directory durable, and that of each above it. They are synced even
// if they were there already: the run that made them may have been killed before it synced them.
// One that this process may not read or write is not its own making.
func syncAbove(d disk, path string) error {
	for parent := filepath.Dir(path); parent != path; path, parent = parent, filepath.Dir(parent) {
		err := d.SyncDir(parent)
		if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EROFS) {
			return err
		}
	}
	return nil
}

// osDisk is the real file system.
type osDisk struct{}

// maxFileSize is far more than any key, certificate or journal takes.
const maxFileSize = 1 << 20

func (osDisk) ReadFile(path string) ([]byte, error)      { return osfile.Read(path, maxFileSize) }
func (osDisk) Mkdir(path string, perm fs.FileMode) error { return os.Mkdir(path, perm) }
func (osDisk) Rename(from, to string) error              { return os.Rename(from, to) }
func (osDisk) Remove(path string) error                  { return os.Remove(path) }
func (osDisk) SyncDir(path string) error                 { return osfile.SyncDir(path) }
func (osDisk) Holder(path string) int                    { return osfile.Holder(path) }

func (osDisk) Lock(path string) (osfile.Unlock, error) {
	unlock, err := osfile.Lock(path, false)
	if errors.Is(err, osfile.ErrLocked) {
		err = &LockedError{PID: osfile.Holder(path), Path: path}
	}
	return unlock, err
}

func (osDisk) ReadDir(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

// Create gives the file its mode whatever the umask is. A file system without modes, such as FAT,
// will do if no one else has more rights than are wanted.
func (osDisk) Create(path string, perm fs.FileMode) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Perm() != perm {
		if err = f.Chmod(perm); err != nil && info.Mode().Perm()&0o077&^perm == 0 {
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, nil
}

func (osDisk) Resolve(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return path, nil // what is wrong with it shows when it is used
	}
	return osfile.Canonical(path, func(path string, link fs.FileInfo) error { return checkOwner(path, link) })
}

func (osDisk) Locate(path string) osfile.Place { return osfile.Locate(path) }

// accessError is of a file or folder in which others could have put what is there.
func accessError(path, reason string) error {
	return &FileError{ErrAccess, path, reason + ": it must belong to root or to the user that runs this, and no one else may write to it"}
}
