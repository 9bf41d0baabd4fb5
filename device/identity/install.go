package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
)

// Install writes the files of a committed identity, the record last, and ends the
// journal. The old identity, if any, is replaced; Record.Replaces names its
// certificate. Install may be repeated after an error or a crash: the next
// [Store.Begin] does so.
func (j *Journal) Install() (*Identity, error) {
	if err := j.at(Committed); err != nil {
		return nil, err
	}
	id := j.committed()
	if err := j.writeFiles(id.Files); err != nil {
		return nil, fmt.Errorf("saving identity: %w", err)
	}
	if err := j.removeReplaced(id.Files); err != nil {
		return nil, fmt.Errorf("removing the identity that was replaced: %w", err)
	}
	if err := j.store.slots().clear(j.state.Sequence); err != nil {
		return nil, fmt.Errorf("ending provisioning journal: %w", err)
	}
	j.state = state{SerialNumber: j.state.SerialNumber}
	j.key, j.cert = nil, nil
	return id, nil
}

// committed returns the identity of a journal at Committed.
func (j *Journal) committed() *Identity {
	return &Identity{
		Record:      j.state.Record,
		Files:       j.store.files(j.state.Record.ThingName),
		Certificate: j.cert,
		Key:         j.key,
	}
}

func (j *Journal) writeFiles(to Files) error {
	d := j.store.disk
	if err := j.store.makeDirs(to); err != nil {
		return err
	}
	if err := j.backupForeignFile(to.PrivateKey); err != nil {
		return err
	}
	if err := replaceFile(d, to.PrivateKey, []byte(j.state.KeyPEM), 0o600); err != nil {
		return err
	}
	if err := replaceFile(d, to.Certificate, []byte(j.state.CertificatePEM), 0o644); err != nil {
		return err
	}
	return replaceFile(d, to.Record, j.state.Record.encode(), 0o644)
}

// backupForeignFile renames a key that neither this identity nor the one before
// it has put there: no key is ever overwritten that might be someone's only
// copy.
func (j *Journal) backupForeignFile(path string) error {
	d := j.store.disk
	if j.state.Replaced != nil && j.state.Replaced.PrivateKey == path {
		return nil
	}
	found, err := d.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if bytes.Equal(found, []byte(j.state.KeyPEM)) {
		return nil
	}
	aside := path + ".found-" + j.store.now().Format("20060102T150405Z")
	j.store.log.Warn("a private key of unknown origin was in the way and is kept", "path", aside)
	return d.Rename(path, aside)
}

// removeReplaced removes the old identity's files where the new ones have
// other names: the record first, so that no half identity is ever found.
func (j *Journal) removeReplaced(by Files) error {
	old := j.state.Replaced
	if old == nil {
		return nil
	}
	d := j.store.disk
	for _, pair := range [][2]string{{old.Record, by.Record}, {old.Certificate, by.Certificate}, {old.PrivateKey, by.PrivateKey}} {
		if pair[0] == pair[1] {
			continue
		}
		if err := remove(d, pair[0]); err != nil {
			return err
		}
	}
	return nil
}
