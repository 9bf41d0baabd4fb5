package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// stateVersion is the format version of the journal.
const stateVersion = 1

const stateMagic = "fleety-journal"

// A state is all that a provisioning has: every step writes it anew, whole.
type state struct {
	Sequence     uint64    `json:"sequence"` // counts the writes, from 1
	SerialNumber string    `json:"serialNumber"`
	Stage        Stage     `json:"stage"`
	Started      time.Time `json:"started"`
	Updated      time.Time `json:"updated"`

	// From KeyMade.
	KeyPEM string `json:"keyPem"`

	// From CertificateHeld.
	CertificatePEM string    `json:"certificatePem,omitempty"`
	Token          string    `json:"token,omitempty"`
	TokenExpires   time.Time `json:"tokenExpires,omitzero"`

	// The identity's record, filled in as its parts become known; whole from
	// Committed.
	Record Record `json:"record,omitzero"`

	// Replaced are the files of the identity before this one, from Committed.
	Replaced *Files `json:"replaced,omitempty"`
}

// encode writes a line with format, version and checksum, then the state.
func (s *state) encode() ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	header := fmt.Sprintf("%s %d %s\n", stateMagic, stateVersion, checksum(body))
	return append([]byte(header), body...), nil
}

// errDamaged tells that a journal is not what was written.
var errDamaged = errors.New("damaged")

// decodeState reads what encode wrote. It returns errDamaged for anything else,
// except for a journal of another version.
func decodeState(data []byte) (*state, error) {
	header, body, _ := bytes.Cut(data, []byte("\n"))
	var version int
	var sum string
	if _, err := fmt.Sscanf(string(header), stateMagic+" %d %s", &version, &sum); err != nil {
		return nil, errDamaged
	}
	if version != stateVersion {
		return nil, fmt.Errorf("has format version %d, this program reads version %d", version, stateVersion)
	}
	if sum != checksum(body) {
		return nil, errDamaged
	}
	var s state
	if err := json.Unmarshal(body, &s); err != nil || s.Stage < KeyMade || s.Stage > Committed || s.Sequence == 0 {
		return nil, errDamaged
	}
	return &s, nil
}

func checksum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// slots are the two files that take the states in turn, so that damage to the
// newest leaves the one before it, from which every step can be done again.
type slots struct {
	disk disk
	dir  string
}

func (s slots) path(sequence uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("journal.%d", sequence%2))
}

// read returns the newest state, nil if there is none, and the paths of slots
// that are damaged.
func (s slots) read() (newest *state, damaged []string, err error) {
	for slot := range uint64(2) {
		path := s.path(slot)
		data, err := s.disk.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		st, err := decodeState(data)
		if errors.Is(err, errDamaged) {
			damaged = append(damaged, path)
			continue
		}
		if err != nil {
			return nil, nil, &CorruptError{Path: path, Reason: err.Error()}
		}
		if newest == nil || st.Sequence > newest.Sequence {
			newest = st
		}
	}
	if newest == nil && s.lost(damaged) {
		return nil, nil, &CorruptError{Path: s.dir, Reason: "no readable copy is left; remove the directory to start again with a new key"}
	}
	return newest, damaged, nil
}

// lost reports whether damage, with no good slot left, has cost more than the
// very first step, which can simply be done again.
func (s slots) lost(damaged []string) bool {
	switch len(damaged) {
	case 0:
		return false
	case 1:
		return damaged[0] != s.path(1)
	}
	return true
}

func (s slots) write(st *state) error {
	data, err := st.encode()
	if err != nil {
		return err
	}
	return replaceFile(s.disk, s.path(st.Sequence), data, 0o600)
}

// sweep removes what a crash has left of a first step that was not reached, and
// that may never be tried again.
func (s slots) sweep() error {
	for slot := range uint64(2) {
		for _, path := range []string{s.path(slot), tempPath(s.path(slot))} {
			if err := remove(s.disk, path); err != nil {
				return err
			}
		}
	}
	return nil
}

// clear removes the older slot before the newest, durably, lest a crash in
// between bring the older one back.
func (s slots) clear(newest uint64) error {
	for _, sequence := range []uint64{newest + 1, newest} {
		if err := remove(s.disk, s.path(sequence)); err != nil {
			return err
		}
		if err := s.disk.SyncDir(s.dir); err != nil {
			return err
		}
	}
	return nil
}
