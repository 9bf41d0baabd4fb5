package identity

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
)

// A directory is the storage of a device on a file system: three files of the identity, and the
// journal, whose two files take the states in turn, so that damage to the newest leaves the one
// before it, from which every step can be done again.
type directory struct {
	*Config
	disk disk
}

func (d *directory) lockPath() string { return filepath.Join(d.journalDir(), "lock") }

func (d *directory) statePath(sequence uint64) string {
	return filepath.Join(d.journalDir(), fmt.Sprintf("journal.%d", sequence%2))
}

// lock makes the journal's directory and takes the lock in it. Runs that end meanwhile may remove
// the directory in between.
func (d *directory) lock() (osfile.Unlock, error) {
	if _, err := d.fileBase(cmp.Or(d.ThingName, "-")); err != nil {
		return nil, err
	}
	const tries = 100
	for try := 1; ; try++ {
		unlock, err := d.tryLock()
		vanished := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)
		if vanished && try < tries {
			continue
		}
		if err != nil {
			return nil, err
		}
		return func(empty bool) error { return d.release(unlock, empty) }, nil
	}
}

func (d *directory) tryLock() (osfile.Unlock, error) {
	if target, err := d.disk.Resolve(d.journalDir()); err != nil || target != d.journalDir() {
		return nil, cmp.Or(err, accessError(d.journalDir(), "is a symbolic link"))
	}
	if err := makeDir(d.disk, d.journalDir()); err != nil {
		return nil, fmt.Errorf("making provisioning journal: %w", err)
	}
	for _, dir := range []string{d.Folder(), d.journalDir()} {
		if err := d.disk.MayWrite(dir); err != nil {
			return nil, err
		}
	}
	return d.disk.Lock(d.lockPath())
}

func (d *directory) holder() int { return d.disk.Holder(d.lockPath()) }

// release removes, where the journal is empty, what a crash has left of a first step that was not
// reached and may never be tried again, the lock and the directory, which stays if another run has
// begun meanwhile.
func (d *directory) release(unlock osfile.Unlock, empty bool) error {
	if !empty {
		return unlock(false)
	}
	for _, state := range []string{d.statePath(0), d.statePath(1)} {
		for _, path := range []string{state, tempPath(state)} {
			if err := remove(d.disk, path); err != nil {
				return errors.Join(err, unlock(false))
			}
		}
	}
	err := unlock(true)
	_ = d.disk.Remove(d.journalDir())
	return err
}

func (d *directory) readState() (newest *state, damaged []string, err error) {
	err = d.disk.MayRead(d.journalDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	for _, path := range []string{d.statePath(0), d.statePath(1)} {
		err := d.disk.MayRead(path)
		var data []byte
		if err == nil {
			data, err = d.disk.ReadFile(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		st, err := decodeState(data)
		switch {
		case errors.Is(err, errDamaged):
			damaged = append(damaged, path)
		case err != nil:
			return nil, nil, &FileError{ErrCorrupt, path, err.Error()}
		case newest == nil || st.Sequence > newest.Sequence:
			newest = st
		}
	}
	if newest == nil {
		// Damage to the very first step costs nothing: it is done again.
		if len(damaged) > 0 && !slices.Equal(damaged, []string{d.statePath(1)}) {
			return nil, damaged, &FileError{ErrCorrupt, d.journalDir(), "no readable copy is left"}
		}
		return nil, damaged, nil
	}
	if err := newest.open(d.Config); errors.Is(err, ErrUnavailable) {
		return nil, nil, fmt.Errorf("provisioning journal: %w", err)
	} else if err != nil {
		return nil, nil, &FileError{ErrCorrupt, d.journalDir(), err.Error()}
	}
	return newest, damaged, nil
}

func (d *directory) secureState() error {
	if err := d.disk.SyncDir(d.journalDir()); err != nil {
		return err
	}
	return syncAbove(d.disk, d.journalDir())
}

func (d *directory) writeState(st *state) error {
	data, err := st.encode()
	if err != nil {
		return err
	}
	if err := replaceFile(d.disk, d.statePath(st.Sequence), data, 0o600); err != nil || st.Sequence > 1 {
		return err
	}
	return syncAbove(d.disk, d.journalDir())
}

// clearState removes the older copy before the newest, durably, lest a crash in between bring the
// older one back.
func (d *directory) clearState(newest *state) error {
	sequence := uint64(1)
	if newest != nil {
		sequence = newest.Sequence
	}
	for _, n := range []uint64{sequence + 1, sequence} {
		if err := removeDurably(d.disk, d.statePath(n)); err != nil {
			return err
		}
	}
	return nil
}

func (d *directory) setAside(damaged []string) error {
	for _, path := range damaged {
		if err := d.backupForeignFile(path); err != nil {
			return err
		}
	}
	return nil
}

// identitySize is what an identity and its journal take, at most.
const identitySize = 24 << 10

// CheckDisk tries what a provisioning does where the identity is, or will be: it makes a directory,
// takes a lock, writes as much as an identity takes, sets the mode, renames, syncs and removes. It
// leaves nothing there. Where a directory is missing it uses the nearest above it.
//
// It returns a *[FileError] of kind [ErrAccess] for a directory that others may write to, of kind
// [ErrConflict] where the identity's files would not be three of its own, and what the file system
// did not do as a *[fs.PathError] or *[os.LinkError].
func (s *Store) CheckDisk() error { return classify(s.storage.check()) }

func (d *directory) check() error {
	if _, err := d.fileBase(cmp.Or(d.ThingName, "-")); err != nil {
		return err
	}
	files := d.Files("-")
	dirs := []string{d.Folder()}
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

func (d *directory) checkDir(dir string) error {
	err := d.disk.MayWrite(dir)
	for parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir; parent = filepath.Dir(dir) {
		dir = parent
		err = d.disk.MayWrite(dir)
	}
	if err != nil {
		return err
	}
	probe := &directory{Config: &Config{SerialNumber: d.SerialNumber + ".check", Dir: dir}, disk: d.disk}
	release, err := probe.lock()
	if err != nil {
		return err
	}
	err = probe.writeState(&state{Sequence: 1, KeyPEM: strings.Repeat("-", identitySize)})
	return errors.Join(err, release(true), d.disk.SyncDir(dir))
}

const (
	certificateSuffix = ".certificate.pem"
	privateKeySuffix  = ".private.key"
	recordSuffix      = ".json"
)

// Files returns the paths of an identity, whose names begin with base, which is mostly the thing's name,
// unless they are configured.
func (c *Config) Files(base string) Files {
	cert := cmp.Or(c.Certificate, filepath.Join(c.Dir, base+certificateSuffix))
	stem, ok := strings.CutSuffix(cert, certificateSuffix)
	if !ok {
		stem = strings.TrimSuffix(cert, filepath.Ext(cert))
	}
	return Files{
		Certificate: cert,
		PrivateKey:  cmp.Or(c.PrivateKey, stem+privateKeySuffix),
		Record:      stem + recordSuffix,
	}
}

// ownBase is the base of a thing's files where the thing's name is taken by files of someone else.
// No thing's name has a tilde.
func (c *Config) ownBase(thing string) string {
	return thing + "~" + url.QueryEscape(c.SerialNumber)
}

// isFileBase reports whether base is one of the two that the files of a thing of this device may
// have.
func (c *Config) isFileBase(base, thing string) bool {
	return awsiot.ThingNames.Valid(thing) && (base == thing || base == c.ownBase(thing))
}

// sums returns the checksums of the files that a state replaces, by path.
func (c *Config) sums(st *state) map[string]string {
	sums := map[string]string{}
	if r := st.Replaced; r != nil && (r.Base != "" || c.Certificate != "") {
		paths := c.Files(r.Base).all()
		for i, sum := range r.Sums[:min(len(r.Sums), len(paths))] {
			sums[paths[i]] = sum
		}
	}
	return sums
}

// journalDir is hidden beside the certificate. Escaping keeps any serial number from leaving the
// directory.
func (c *Config) journalDir() string {
	return filepath.Join(c.Folder(), "."+url.QueryEscape(c.SerialNumber)+".provisioning")
}

// Folder returns where the record and the journal are kept.
func (c *Config) Folder() string {
	if c.Certificate != "" {
		return filepath.Dir(c.Certificate)
	}
	return cmp.Or(c.Dir, DefaultDir)
}
