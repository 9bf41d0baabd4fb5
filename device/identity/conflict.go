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
	reserved := d.locate(d.Reserved)
	working := d.locate(append(temps, d.journalDir(), d.lockPath(), d.statePath(0), d.statePath(1)))
	var earlier []located
	for _, p := range d.locate(paths) {
		for _, other := range slices.Concat(earlier, reserved, working) {
			if p.same(other.place) {
				return &ConflictError{Path: p.name, Reason: "is also " + other.name}
			}
		}
		earlier = append(earlier, p)
	}
	for _, p := range reserved {
		for _, temp := range working {
			if p.same(temp.place) {
				return &ConflictError{Path: p.name, Reason: "has a name that is needed for a temporary file"}
			}
		}
	}
	if r, _, err := d.readRecord(f.Record); err == nil && r.SerialNumber != d.SerialNumber {
		return d.conflictWith(f.Record, r)
	}
	return nil
}

// A located path is one with where it leads to.
type located struct {
	name string
	place
}

func (d *directory) locate(paths []string) (all []located) {
	for _, path := range paths {
		if path != "" {
			all = append(all, located{path, d.disk.Locate(path)})
		}
	}
	return all
}

func (d *directory) conflictWith(path string, r *Record) error {
	return &ConflictError{Path: path, Reason: fmt.Sprintf("is the identity of serial number %q, not %q", r.SerialNumber, d.SerialNumber)}
}
