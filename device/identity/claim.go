package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
)

// RemoveClaim removes the private keys of the claims, which the device shares with
// others, from stable storage, and notes that in the record of the identity. A path
// may be a symbolic link: then the file that it names is removed too. A claim that is
// gone already is no error.
//
// It returns an error that wraps [ErrNone] when there is no identity: the device
// needs the claim then. It returns a *[LockedError] while a run is in progress.
func (s *Store) RemoveClaim(privateKeys ...string) error {
	id, err := s.Load()
	if err != nil {
		return fmt.Errorf("removing the claim: %w", err)
	}
	d, ok := s.storage.(*directory)
	if !ok {
		return errors.New("removing the claim: a store in memory has no files")
	}
	var paths []string
	gone := true
	for _, privateKey := range privateKeys {
		target, err := d.disk.Resolve(privateKey)
		if err != nil {
			return diskError(fmt.Errorf("removing the claim: %w", err))
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
		if err := d.disk.SyncDir(filepath.Dir(id.Files.Record)); err != nil && !errors.Is(err, syscall.EROFS) {
			return diskError(fmt.Errorf("removing the claim: %w", err))
		}
		return nil
	}
	j, err := s.Begin()
	if err != nil {
		return fmt.Errorf("removing the claim: %w", err)
	}
	return diskError(errors.Join(d.removeClaim(id, paths), j.Close()))
}

// removeClaim writes the record last: what it says has happened.
func (d *directory) removeClaim(id *Identity, paths []string) error {
	for _, path := range paths {
		if err := removeDurably(d.disk, path); err != nil {
			return fmt.Errorf("removing the claim: %w", err)
		}
	}
	target, err := d.disk.Resolve(id.Files.Record)
	if err != nil {
		return err
	}
	id.Record.ClaimRemovedAt = d.now()
	return replaceFile(d.disk, target, id.Record.encode(), 0o644)
}
