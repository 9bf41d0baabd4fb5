package identity

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

// identitySize is what an identity and its journal take, at most.
const identitySize = 24 << 10

// CheckDisk tries what a provisioning does where the identity is, or will be: it
// makes a directory, takes a lock, writes as much as an identity takes, sets the
// mode, renames, syncs and removes. It leaves nothing there. Where a directory is
// missing it uses the nearest above it.
//
// It returns a *[DiskError] for what the file system cannot do, an *[AccessError]
// for a directory that others may write to, and a *[ConflictError] where the
// identity's files would not be three of its own.
func (s *Store) CheckDisk() error { return diskError(s.storage.check()) }

func (d *directory) check() error {
	if _, err := d.fileBase(cmp.Or(d.ThingName, "-")); err != nil {
		return err
	}
	files := d.files("-")
	dirs := []string{d.home()}
	for _, path := range []string{files.Certificate, files.PrivateKey} {
		target, err := d.disk.Resolve(path)
		if err != nil {
			return err
		}
		dirs = append(dirs, filepath.Dir(target))
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if err := d.checkDir(dir); err != nil {
			return fmt.Errorf("trying the directory: %w", err)
		}
	}
	return nil
}

func (d *directory) checkDir(dir string) (err error) {
	err = d.disk.MayWrite(dir)
	for parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir; parent = filepath.Dir(dir) {
		dir = parent
		err = d.disk.MayWrite(dir)
	}
	if err != nil {
		return err
	}
	probe := filepath.Join(dir, filepath.Base(d.journalDir())+".check")
	path := filepath.Join(probe, "probe")
	if err := makeDir(d.disk, probe); err != nil {
		return err
	}
	defer func() {
		if removeErr := remove(d.disk, probe); err == nil {
			err = removeErr
		}
	}()
	unlock, err := d.disk.Lock(filepath.Join(probe, "lock"))
	if err != nil {
		return err
	}
	return errors.Join(
		replaceFile(d.disk, path, make([]byte, identitySize), 0o600),
		remove(d.disk, path),
		unlock(true),
		d.disk.SyncDir(dir),
	)
}
