package identity

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
)

// fileBase returns the thing's name, or a name of this device's own where the thing's belongs to
// someone else's files.
func (d *directory) fileBase(thing string) (string, error) {
	base := thing
	err := d.checkFiles(d.Files(base))
	if errors.Is(err, ErrConflict) && d.Files(base) != d.Files(d.ownBase(thing)) {
		base = d.ownBase(thing)
		err = d.checkFiles(d.Files(base))
	}
	return base, err
}

// checkFiles checks that three distinct files can be written that are neither reserved nor another
// device's.
func (d *directory) checkFiles(f Files) error {
	paths := f.all()
	var temps []string
	for _, path := range paths {
		target, err := d.disk.Resolve(path)
		if err != nil {
			return err
		}
		temps = append(temps, tempPath(target))
		if _, err := d.disk.ReadFile(tempPath(target)); errors.Is(err, syscall.ENAMETOOLONG) {
			return &FileError{ErrConflict, path, "has a name that leaves no room for that of a temporary file"}
		}
		for _, dir := range []string{filepath.Dir(path), filepath.Dir(target)} {
			err := d.disk.MayWrite(dir)
			if errors.Is(err, fs.ErrNotExist) {
				err = d.leadsNowhere(dir)
			}
			if err != nil {
				return err
			}
		}
		if d.disk.Locate(target).IsOther() {
			return &FileError{ErrConflict, path, osfile.ErrNotRegular.Error()}
		}
	}
	reserved := d.locate(d.Reserved)
	working := d.locate(append(temps, d.journalDir(), d.lockPath(), d.statePath(0), d.statePath(1)))
	var earlier []osfile.Place
	for _, p := range d.locate(paths) {
		for _, other := range slices.Concat(earlier, reserved, working) {
			if p.Same(other) {
				return &FileError{ErrConflict, p.Name, "is also " + other.Name}
			}
		}
		earlier = append(earlier, p)
	}
	for _, p := range reserved {
		if slices.ContainsFunc(working, p.Same) {
			return &FileError{ErrConflict, p.Name, "has a name that is needed for a temporary file"}
		}
	}
	if r, _, err := d.readRecord(f.Record); err == nil && r.SerialNumber != d.SerialNumber {
		return d.conflictWith(f.Record, r)
	}
	return nil
}

// leadsNowhere returns an error if a directory is missing because of a symbolic link, as when the
// file system that it leads to is not mounted yet: nobody knows what is there.
func (d *directory) leadsNowhere(dir string) error {
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := d.disk.ReadDir(dir); !errors.Is(err, fs.ErrNotExist) {
			return nil // it is there, and so is all that is above it
		}
		if target, err := d.disk.Resolve(dir); err != nil {
			return err
		} else if target != dir {
			return &fs.PathError{Op: "open", Path: dir, Err: fmt.Errorf("leads to %s, which does not exist", target)}
		}
	}
	return nil
}

func (d *directory) locate(paths []string) (all []osfile.Place) {
	for _, path := range paths {
		if path != "" {
			all = append(all, d.disk.Locate(path))
		}
	}
	return all
}

func (d *directory) conflictWith(path string, r *Record) error {
	return &FileError{ErrConflict, path, fmt.Sprintf("is the identity of serial number %q, not %q", r.SerialNumber, d.SerialNumber)}
}

// replacing returns what is there of an identity: its record, and of the other files those that
// belong to it.
func (d *directory) replacing() (*Record, *replacedFiles, error) {
	base, record, err := d.find()
	if errors.Is(err, ErrBroken) || errors.Is(err, ErrNone) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	files := d.Files(base)
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

// install writes the files of an identity, the record last, and removes those of the one before it.
func (d *directory) install(st *state) (*Identity, error) {
	to, sums := d.Files(st.base()), d.sums(st)
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
		for _, old := range d.Files(st.Replaced.Base).all() { // the record first, so that it is never found without the others
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

// installFile writes a file, or the one that a symbolic link in its place names. A file there that
// neither this identity nor the one before it, of which sums are, has written is renamed.
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
	case err == nil:
		if err := d.backupForeignFile(target); err != nil {
			return err
		}
	default:
		return err
	}
	if err := replaceFile(d.disk, target, data, perm); err != nil {
		return err
	}
	if dir == d.Folder() {
		return nil // is durable since the journal in it is
	}
	return syncAbove(d.disk, dir)
}

// backupForeignFile renames a file: none is ever overwritten that might be someone's only copy.
func (d *directory) backupForeignFile(path string) error {
	backup := path + ".found-" + d.now().Format("20060102T150405Z")
	if _, err := d.disk.ReadFile(backup); !errors.Is(err, fs.ErrNotExist) {
		backup += "-" + rand.Text()
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

// RemoveClaim removes the private keys of the claims, which the device shares with others, from
// stable storage, and notes that in the record of the identity. A path may be a symbolic link: then
// the file that it names is removed too. A claim that is gone already is no error.
//
// It returns an error that wraps [ErrNone] when there is no identity: the device needs the claim
// then. It returns a *[LockedError] while a run is in progress.
func (s *Store) RemoveClaim(privateKeys ...string) (err error) {
	defer func() {
		if err != nil {
			err = classify(fmt.Errorf("removing the claim: %w", err))
		}
	}()
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
		if d.disk.Locate(target).IsOther() {
			return &FileError{ErrConflict, privateKey, osfile.ErrNotRegular.Error()}
		}
		if slices.Contains(id.Files.all(), privateKey) || d.disk.Locate(privateKey).Same(d.disk.Locate(id.Files.PrivateKey)) {
			return &FileError{ErrConflict, privateKey, "is also the device's own private key"}
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
	id, err = s.Load()           // another run may have replaced the identity until the lock was taken
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

// load returns the identity that is installed.
func (d *directory) load() (*Identity, error) {
	base, record, err := d.find()
	if errors.Is(err, ErrNone) {
		err = cmp.Or(d.leadsNowhere(d.Folder()), err)
	}
	if err != nil {
		return nil, err
	}
	return d.loadFiles(d.Files(base), record)
}

// find returns what the names of the identity's files begin with, empty for those that are
// configured, and its record.
func (d *directory) find() (base string, _ *Record, err error) {
	if d.Certificate != "" {
		record, err := d.findConfigured()
		return "", record, err
	}
	names, err := d.disk.ReadDir(d.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	var found []*Record
	bases := map[*Record]string{}
	unusable := ErrNone // or why the first record that is this device's cannot be used
	for _, name := range names {
		base, ok := strings.CutSuffix(name, recordSuffix)
		thing, _, _ := strings.Cut(base, "~")
		if !ok || !d.isFileBase(base, thing) {
			continue
		}
		path := filepath.Join(d.Dir, name)
		record, data, err := d.readRecord(path)
		ours := err == nil && record.SerialNumber == d.SerialNumber
		switch {
		case ours && record.ThingName == thing:
			found, bases[record] = append(found, record), base
			continue
		case ours:
			err = &FileError{ErrBroken, path, "is the record of another thing, " + record.ThingName}
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			ours = d.isOurs(base, data)
		}
		if ours && errors.Is(unusable, ErrNone) {
			unusable = err
		}
	}
	if record := newest(found); record != nil {
		return bases[record], record, nil
	}
	return "", nil, unusable
}

func (d *directory) findConfigured() (*Record, error) {
	files := d.Files("")
	record, _, err := d.readRecord(files.Record)
	if err == nil && record.SerialNumber != d.SerialNumber {
		return nil, d.conflictWith(files.Record, record)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return record, err
	}
	for _, path := range []string{files.PrivateKey, files.Certificate} {
		if _, err := d.disk.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
			return nil, &FileError{ErrBroken, path, "is there without its record " + files.Record}
		}
	}
	return nil, ErrNone
}

// newest returns the record that no other one replaces; of several, which only files that were
// copied by hand can be, the one that was registered last.
func newest(records []*Record) *Record {
	replaced := map[string]bool{}
	for _, r := range records {
		replaced[r.Replaces] = true
	}
	var last *Record
	for _, r := range records {
		if last == nil || replaced[last.CertificateID] || !replaced[r.CertificateID] && r.RegisteredAt.After(last.RegisteredAt) {
			last = r
		}
	}
	return last
}

var serialInRecord = regexp.MustCompile(`"serialNumber"\s*:\s*("(?:[^"\\]|\\.)*")`)

// isOurs reports whether a record that cannot be read is this device's: by the serial number in
// what there is of it, by its name, or by the certificate beside it. Another device's damage is no
// reason to stop.
func (d *directory) isOurs(base string, data []byte) bool {
	var serial string
	if m := serialInRecord.FindSubmatch(data); m != nil && json.Unmarshal(m[1], &serial) == nil {
		return serial == d.SerialNumber
	}
	if base == d.ThingName || strings.Contains(base, "~") {
		return true
	}
	text, err := d.disk.ReadFile(d.Files(base).Certificate)
	if err == nil {
		// AWS IoT takes the name from the device's own request, and gives this one to a certificate
		// whose key it has made.
		if chain, err := parseChain(text); err == nil && chain[0].Subject.CommonName != "AWS IoT Certificate" {
			return chain[0].Subject.CommonName == d.SerialNumber
		}
	}
	prefix, ok := strings.CutSuffix(base, d.SerialNumber)
	return ok && (prefix == "" || strings.HasSuffix(prefix, "_") || strings.HasSuffix(prefix, "-") || strings.HasSuffix(prefix, ":"))
}

// readRecord reads a record, and returns as data what it could read.
func (d *directory) readRecord(path string) (*Record, []byte, error) {
	data, err := d.readPart(path)
	if err != nil {
		return nil, data, err
	}
	record, err := ParseRecord(data)
	if err != nil {
		return nil, data, &FileError{ErrBroken, path, err.Error()}
	}
	return record, data, nil
}

// loadFiles reads the certificate and the key that belong to a record.
func (d *directory) loadFiles(files Files, record *Record) (*Identity, error) {
	text, err := d.readPart(files.Certificate)
	if err != nil {
		return nil, missing(files.Certificate, err)
	}
	chain, err := parseChain(text)
	if err != nil {
		return nil, &FileError{ErrBroken, files.Certificate, err.Error()}
	}
	if awsiot.CertificateID(chain[0]) != record.CertificateID {
		return nil, &FileError{ErrBroken, files.Certificate, "is not the certificate that " + files.Record + " names"}
	}
	if text, err = d.readPart(files.PrivateKey); err != nil {
		return nil, missing(files.PrivateKey, err)
	}
	key, err := d.Keys.Open(text)
	switch {
	case errors.Is(err, ErrUnavailable):
		return nil, fmt.Errorf("device identity: %s: %w", files.PrivateKey, err)
	case err != nil:
		return nil, &FileError{ErrBroken, files.PrivateKey, err.Error()}
	case !awsiot.Matches(key, chain[0]):
		return nil, &FileError{ErrBroken, files.PrivateKey, "is not the key of " + files.Certificate}
	}
	return &Identity{Record: *record, Files: files, Certificate: chain[0], Issuers: chain[1:], Key: key}, nil
}

// readPart reads one of an identity's files.
func (d *directory) readPart(path string) ([]byte, error) {
	data, err := d.disk.ReadFile(path)
	if errors.Is(err, osfile.ErrNotRegular) {
		return nil, &FileError{ErrBroken, path, osfile.ErrNotRegular.Error()}
	}
	if err != nil {
		return nil, err
	}
	return data, d.disk.MayRead(path)
}

// missing makes a damage of a file that is not there although the record is.
func missing(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &FileError{ErrBroken, path, "is missing"}
	}
	return err
}
