package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
)

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
