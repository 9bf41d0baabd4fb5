package identity

import (
	"bytes"
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
	var earlier []place
	for _, p := range d.locate(paths) {
		for _, other := range slices.Concat(earlier, reserved, working) {
			if p.same(other) {
				return &ConflictError{Path: p.name, Reason: "is also " + other.name}
			}
		}
		earlier = append(earlier, p)
	}
	for _, p := range reserved {
		for _, temp := range working {
			if p.same(temp) {
				return &ConflictError{Path: p.name, Reason: "has a name that is needed for a temporary file"}
			}
		}
	}
	if r, _, err := d.readRecord(f.Record); err == nil && r.SerialNumber != d.SerialNumber {
		return d.conflictWith(f.Record, r)
	}
	return nil
}

func (d *directory) locate(paths []string) (all []place) {
	for _, path := range paths {
		if path != "" {
			all = append(all, d.disk.Locate(path))
		}
	}
	return all
}

func (d *directory) conflictWith(path string, r *Record) error {
	return &ConflictError{Path: path, Reason: fmt.Sprintf("is the identity of serial number %q, not %q", r.SerialNumber, d.SerialNumber)}
}

// replacing returns what is there of an identity: its record, and of the other
// files those that belong to it.
func (d *directory) replacing() (*Record, *replacedFiles, error) {
	base, record, err := d.find()
	if _, broken := errors.AsType[*BrokenError](err); broken || errors.Is(err, ErrNone) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	files := d.files(base)
	paths := files.all()
	if _, err := d.loadFiles(files, record); err != nil {
		paths = paths[:1]
	}
	replaced := &replacedFiles{Base: base}
	for _, path := range paths {
		data, err := d.disk.ReadFile(path)
		if err != nil {
			return nil, nil, err
		}
		replaced.Sums = append(replaced.Sums, checksum(data))
	}
	return record, replaced, nil
}

// install writes the files of an identity, the record last, and removes those of
// the one before it.
func (d *directory) install(st *state) (*Identity, error) {
	to, sums := d.files(st.base()), d.sums(st)
	err := d.installFile(to.PrivateKey, []byte(st.KeyPEM), 0o600, sums)
	if err == nil {
		err = d.installFile(to.Certificate, []byte(st.CertificatePEM), 0o644, sums)
	}
	if err == nil {
		err = d.installFile(to.Record, st.Record.encode(), 0o644, sums)
	}
	if err != nil {
		return nil, err
	}
	if st.Replaced != nil {
		for _, old := range d.files(st.Replaced.Base).all() { // the record first, so that it is never found without the others
			if sums[old] == "" || slices.Contains(to.all(), old) {
				continue
			}
			if err := d.removeReplaced(old, sums[old]); err != nil {
				return nil, fmt.Errorf("removing the identity that was replaced: %w", err)
			}
		}
	}
	return st.identity(to), nil
}

// installFile writes a file, or the one that a symbolic link in its place names.
// A file there that neither this identity nor the one before it, of which sums
// are, has written is renamed.
func (d *directory) installFile(path string, data []byte, perm fs.FileMode, sums map[string]string) error {
	target, err := d.disk.Resolve(path)
	if err != nil {
		return err
	}
	dir := filepath.Dir(target)
	if err := makeDir(d.disk, dir); err != nil {
		return err
	}
	if err := d.disk.MayWrite(dir); err != nil {
		return err
	}
	found, err := d.disk.ReadFile(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err == nil && (bytes.Equal(found, data) || sums[path] == checksum(found)):
	case err == nil || errors.Is(err, errNotRegular):
		if err := d.backupForeignFile(target); err != nil {
			return err
		}
	default:
		return err
	}
	if err := replaceFile(d.disk, target, data, perm); err != nil {
		return err
	}
	if dir == d.home() {
		return nil // is durable since the journal in it is
	}
	return syncAbove(d.disk, dir)
}

// backupForeignFile renames a file: none is ever overwritten that might be
// someone's only copy.
func (d *directory) backupForeignFile(path string) error {
	backup := path + ".found-" + d.now().Format("20060102T150405Z")
	for {
		if _, err := d.disk.ReadFile(backup); errors.Is(err, fs.ErrNotExist) {
			break
		}
		backup += "x"
	}
	d.Log.Warn("a file of unknown origin was in the way and is kept", "path", backup)
	if err := d.disk.Rename(path, backup); err != nil {
		return err
	}
	return d.disk.SyncDir(filepath.Dir(path))
}

// removeReplaced removes a file, and a symbolic link to it, that has that sum.
func (d *directory) removeReplaced(path, sum string) error {
	target, err := d.disk.Resolve(path)
	if err != nil {
		return err
	}
	found, err := d.disk.ReadFile(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || checksum(found) != sum {
		return err
	}
	if err := removeDurably(d.disk, target); err != nil || target == path {
		return err
	}
	return removeDurably(d.disk, path)
}

// RemoveClaim removes the private keys of the claims, which the device shares with
// others, from stable storage, and notes that in the record of the identity. A path
// may be a symbolic link: then the file that it names is removed too. A claim that is
// gone already is no error.
//
// It returns an error that wraps [ErrNone] when there is no identity: the device
// needs the claim then. It returns a *[LockedError] while a run is in progress.
func (s *Store) RemoveClaim(privateKeys ...string) error {
	if err := s.removeClaim(privateKeys); err != nil {
		return diskError(fmt.Errorf("removing the claim: %w", err))
	}
	return nil
}

func (s *Store) removeClaim(privateKeys []string) error {
	id, err := s.Load()
	if err != nil {
		return err
	}
	d, ok := s.storage.(*directory)
	if !ok {
		return errors.New("a store in memory has no files")
	}
	var paths []string
	gone := true
	for _, privateKey := range privateKeys {
		target, err := d.disk.Resolve(privateKey)
		if err != nil {
			return err
		}
		if slices.Contains(id.Files.all(), privateKey) || d.disk.Locate(privateKey).same(d.disk.Locate(id.Files.PrivateKey)) {
			return &ConflictError{Path: privateKey, Reason: "is also the device's own private key"}
		}
		_, missing := d.disk.ReadFile(target)
		gone = gone && errors.Is(missing, fs.ErrNotExist)
		paths = append(paths, slices.Compact([]string{target, privateKey})...)
	}
	if gone && !id.Record.ClaimRemovedAt.IsZero() {
		// A killed run may have written that, and not have made it durable.
		err := d.disk.SyncDir(filepath.Dir(id.Files.Record))
		if errors.Is(err, syscall.EROFS) {
			return nil
		}
		return err
	}
	j, err := s.Begin()
	if err != nil {
		return err
	}
	for _, path := range paths { // what a link names before the link, by which the next run finds it
		if err == nil {
			err = removeDurably(d.disk, path)
		}
	}
	var record string
	if err == nil {
		record, err = d.disk.Resolve(id.Files.Record)
	}
	if err == nil { // the record is written last: what it says has happened
		id.Record.ClaimRemovedAt = d.now()
		err = replaceFile(d.disk, record, id.Record.encode(), 0o644)
	}
	return errors.Join(err, j.Close())
}
