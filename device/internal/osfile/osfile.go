// Package osfile has what package os lacks for the files of a device: reads that end whatever is
// there, replacements that survive a power cut, locks among processes, and paths in commands.
package osfile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Quote returns text, such as a path, as one word of a command of a shell.
func Quote(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

var plainWord = regexp.MustCompile(`^[\w@%+:,./-][\w@%+=:,./-]*$`)

// ErrNotRegular is wrapped by the errors of [Read] and [Replace] for a FIFO, a socket or a device.
var ErrNotRegular = errors.New("is not a regular file")

// ReadAll returns the content of a file, or what the writers of a FIFO write, as of a shell's
// <(COMMAND). A FIFO without a writer is empty, where [os.ReadFile] would wait for ever.
func ReadAll(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Read returns the content of a regular file of limit bytes at most, also through a symbolic link.
// For anything else it returns an error at once, [syscall.EISDIR] for a folder: a FIFO without a
// writer would make a plain read wait for ever.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENXIO) { // a socket, which cannot be opened
		err = &fs.PathError{Op: "read", Path: path, Err: ErrNotRegular}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: path, Err: ErrNotRegular}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if int64(len(data)) > limit {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("has more than %d bytes", limit)}
	}
	return data, err
}

// abandonedAfter is longer than another process takes to write a file.
const abandonedAfter = time.Hour

// Replace replaces a file, and returns when its content is on stable storage: after a crash or a
// power cut at any moment either the old or the new content is there, whole. perm is that of a new
// file, before umask; one that exists keeps its own. It returns an error that wraps [ErrNotRegular]
// where something else is in the place, such as /dev/null, which everything else needs.
//
// There is no github.com/google/renameio for Windows, and elsewhere it also writes to the temporary
// folder, which is one more write to the flash of a device.
func Replace(path string, data []byte, perm fs.FileMode) error {
	info, statErr := os.Lstat(path)
	if target, err := os.Stat(path); err == nil && !target.Mode().IsRegular() {
		return &fs.PathError{Op: "replace", Path: path, Err: ErrNotRegular}
	}
	dir, prefix := filepath.Dir(path), "."+filepath.Base(path)+"."
	removeAbandoned(dir, prefix)
	f, err := os.OpenFile(filepath.Join(dir, prefix+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && statErr == nil && info.Mode().IsRegular() && info.Mode().Perm() != perm {
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

// removeAbandoned removes the new files of processes that were killed before their rename, also
// where the clock was ahead then.
func removeAbandoned(dir, prefix string) {
	entries, _ := os.ReadDir(dir) // those that can be read
	for _, e := range entries {
		random, ok := strings.CutPrefix(e.Name(), prefix)
		if info, err := e.Info(); ok && len(random) == len(rand.Text()) && err == nil && time.Since(info.ModTime()).Abs() > abandonedAfter {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// SyncDir makes the names in a folder durable, where the system has a call for it.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // NTFS logs its folders
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

// SetAside renames a file that cannot be used, which may be someone's only copy, and returns its new
// path.
func SetAside(path string) (string, error) {
	aside := path + time.Now().UTC().Format(".damaged-20060102T150405.000")
	return aside, os.Rename(path, aside)
}

// InPlace returns an error that wraps [syscall.ESTALE] if a file that was opened at a path is not
// there any more, so that nobody else finds what is done to it.
func InPlace(path string, opened fs.FileInfo) error {
	there, err := os.Stat(path)
	if err == nil && !os.SameFile(there, opened) || errors.Is(err, fs.ErrNotExist) {
		err = &fs.PathError{Op: "stat", Path: path, Err: syscall.ESTALE}
	}
	return err
}

// ErrLocked is returned by [Lock] while another process, or another caller of this one, has the
// lock.
var ErrLocked = errors.New("the file is locked")

// lookTime is how long Lock waits: for others that only look whether a file is locked.
const lookTime = 100 * time.Millisecond

// An Unlock ends a lock, and removes its file or leaves it. The lock ends with the process, too,
// however that ends.
type Unlock func(remove bool) error
