package osfile

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A Place is where a path leads to.
type Place struct {
	Name, Path string      // as it was given, and without symbolic links
	file, dir  fs.FileInfo // nil if there is none
}

// Locate returns where a path leads to. Nothing need be there.
func Locate(path string) Place {
	p := Place{Name: path, Path: path}
	if canonical, err := Canonical(path, nil); err == nil {
		p.Path = canonical
	}
	p.file, _ = os.Stat(p.Path)
	p.dir, _ = os.Stat(filepath.Dir(p.Path))
	return p
}

// IsOther reports whether something is there whose place no file must take: a directory, a socket, a
// device such as /dev/null.
func (p Place) IsOther() bool { return p.file != nil && !p.file.Mode().IsRegular() }

// Same reports whether two paths are of one file, or would be. Names that differ in case count as
// one, as they are for a FAT file system.
func (p Place) Same(q Place) bool {
	return strings.EqualFold(p.Path, q.Path) || os.SameFile(p.file, q.file) ||
		strings.EqualFold(filepath.Base(p.Path), filepath.Base(q.Path)) && os.SameFile(p.dir, q.dir)
}

// In reports whether a path leads into a directory, at any depth.
func (p Place) In(dir Place) bool {
	for at := filepath.Dir(p.Path); ; at = filepath.Dir(at) {
		if info, _ := os.Stat(at); strings.EqualFold(at, dir.Path) || os.SameFile(info, dir.file) {
			return true
		}
		if at == filepath.Dir(at) {
			return false
		}
	}
}

// Canonical returns an absolute path without symbolic links, also for a file that does not exist. Each
// link at the end of the path must pass the check, if that is not nil.
func Canonical(path string, check func(path string, link fs.FileInfo) error) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	const most = 40
	for range most {
		path = filepath.Join(evalDir(filepath.Dir(path)), filepath.Base(path))
		info, err := os.Lstat(path)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			return path, nil
		}
		if check != nil {
			if err := check(path, info); err != nil {
				return "", err
			}
		}
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return "", &fs.PathError{Op: "readlink", Path: path, Err: fmt.Errorf("more than %d symbolic links", most)}
}

// evalDir evaluates the symbolic links in as much of a directory as exists.
func evalDir(dir string) string {
	found, err := filepath.EvalSymlinks(dir)
	if parent := filepath.Dir(dir); err != nil && parent != dir {
		return filepath.Join(evalDir(parent), filepath.Base(dir))
	}
	return cmp.Or(found, dir)
}
