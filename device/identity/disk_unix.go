//go:build unix

package identity

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"example.com/fleety/device/internal/osfile"
)

// MayWrite checks the directory as ssh does with StrictModes. Of the directories above it only
// those count in which anyone could put another in its place.
func (osDisk) MayWrite(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := cmp.Or(checkOwner(dir, info), checkMode(dir, info)); err != nil {
		return err
	}
	path, err := osfile.Canonical(dir, nil)
	if err != nil {
		return err
	}
	for parent := filepath.Dir(path); parent != path; path, parent = parent, filepath.Dir(parent) {
		if info, err := os.Stat(parent); err == nil && info.Mode()&fs.ModeSticky == 0 && info.Mode()&0o002 != 0 {
			return writable(parent, info, "everyone")
		}
	}
	return nil
}

// MayRead checks a file of an identity, or the journal's directory. Its owner may also be that of
// the directory it is in: root may look at a service's files.
func (osDisk) MayRead(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	return cmp.Or(checkOwner(path, info, stat(dir).Uid), checkMode(path, info))
}

// checkOwner accepts root, this process's user, and others.
func checkOwner(path string, info fs.FileInfo, others ...uint32) error {
	owner, user := stat(info).Uid, uint32(os.Geteuid())
	if owner == 0 || owner == user || slices.Contains(others, owner) {
		return nil
	}
	return accessError(path, fmt.Sprintf("belongs to user %d, and this is user %d", owner, user))
}

// checkMode lets root's group and this process's own write: service users and the users of Debian
// and Fedora have a group of their own.
func checkMode(path string, info fs.FileInfo) error {
	mode, group := info.Mode(), stat(info).Gid
	switch {
	case info.IsDir() && mode&fs.ModeSticky != 0:
		return nil
	case mode&0o002 != 0:
		return writable(path, info, "everyone")
	case mode&0o020 != 0 && group != 0 && group != uint32(os.Getegid()):
		return writable(path, info, fmt.Sprintf("group %d", group))
	}
	return nil
}

func writable(path string, info fs.FileInfo, by string) error {
	return accessError(path, fmt.Sprintf("can be written by %s (mode %04o)", by, info.Mode().Perm()))
}

func stat(info fs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }
