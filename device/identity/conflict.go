package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
)

// fileBase returns the thing's name, or a name of this device's own where the
// thing's belongs to someone else's files.
func (d *directory) fileBase(thing string) (string, error) {
	base := thing
	err := d.checkFiles(d.files(base))
	if _, taken := errors.AsType[*ConflictError](err); taken && d.files(base) != d.files(d.ownBase(thing)) {
		base = d.ownBase(thing)
		err = d.checkFiles(d.files(base))
	}
	return base, err
}

// checkFiles checks that three distinct files can be written that are neither
// reserved nor another device's.
func (d *directory) checkFiles(f Files) error {
	paths := f.all()
	var temps []string
	for _, path := range paths {
		target, err := d.disk.Resolve(path)
		if err != nil {
			return err
		}
		temps = append(temps, tempPath(target))
		for _, dir := range []string{filepath.Dir(path), filepath.Dir(target)} {
			if err := d.disk.MayWrite(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if _, err := d.disk.ReadFile(target); errors.Is(err, syscall.EISDIR) {
			return &ConflictError{Path: path, Reason: "is a directory"}
		}
	}
	others := slices.Concat(d.Reserved, temps, []string{d.journalDir(), d.lockPath(), d.statePath(0), d.statePath(1)})
	for i, path := range paths {
		for _, other := range slices.Concat(paths[:i], others) {
			if other != "" && d.disk.Same(path, other) {
				return &ConflictError{Path: path, Reason: "is also " + other}
			}
		}
	}
	for _, temp := range temps {
		for _, other := range d.Reserved {
			if other != "" && d.disk.Same(temp, other) {
				return &ConflictError{Path: other, Reason: "has a name that is needed for a temporary file"}
			}
		}
	}
	if r, _, err := d.readRecord(f.Record); err == nil && r.SerialNumber != d.SerialNumber {
		return d.conflictWith(f.Record, r)
	}
	return nil
}

func (d *directory) conflictWith(path string, r *Record) error {
	return &ConflictError{Path: path, Reason: fmt.Sprintf("is the identity of serial number %q, not %q", r.SerialNumber, d.SerialNumber)}
}
