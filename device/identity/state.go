package identity

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// stateMagic and stateVersion, the version of the format, begin a journal.
const (
	stateMagic   = "fleety-journal"
	stateVersion = 1
)

// A state is all that a provisioning has: every step writes it anew, whole.
type state struct {
	Sequence     uint64    `json:"sequence"` // counts the writes, from 1
	SerialNumber string    `json:"serialNumber"`
	Stage        Stage     `json:"stage"`
	Started      time.Time `json:"started"`
	Updated      time.Time `json:"updated"`

	// From KeyMade.
	KeyPEM string        `json:"keyPem"`
	key    crypto.Signer // as KeyPEM has it

	// From CertificateHeld.
	CertificatePEM string              `json:"certificatePem,omitempty"`
	chain          []*x509.Certificate // as CertificatePEM has it, the device's own first
	RequestedBy    string              `json:"requestedBy,omitempty"`
	Token          string              `json:"token,omitempty"`
	TokenExpires   time.Time           `json:"tokenExpires,omitzero"`

	// The identity's record, filled in as its parts become known; whole from
	// Committed.
	Record Record `json:"record,omitzero"`

	// FileBase is what the names of the identity's files begin with, from
	// Registered; empty means the thing's name.
	FileBase string `json:"fileBase,omitempty"`

	// Replaced are the files of the identity before this one, from Committed.
	Replaced *replacedFiles `json:"replaces,omitempty"`
}

// replacedFiles may be overwritten or removed, as long as they have the content that
// they had when the new identity was committed. Their paths are not stored: they
// could name any file, and relative ones another one in the next run.
type replacedFiles struct {
	Base string   `json:"base"`   // of their names; empty for those that are configured
	Sums []string `json:"sha256"` // in the order of Files.all, of those that belong together
}

func (s *state) base() string { return cmp.Or(s.FileBase, s.Record.ThingName) }

// identity returns the identity of a state from CertificateHeld.
func (s *state) identity(f Files) *Identity {
	return &Identity{Record: s.Record, Files: f, Certificate: s.chain[0], Issuers: s.chain[1:], Key: s.key}
}

// open reads key and certificate, and checks what anyone may have written into a
// journal: a checksum is no signature.
func (s *state) open(c *Config) (err error) {
	switch {
	case s.SerialNumber != c.SerialNumber:
		return fmt.Errorf("is of serial number %q", s.SerialNumber)
	case s.Stage == Registered && s.base() == "": // AWS IoT named no thing
	case s.Stage >= Registered && !c.isFileBase(s.base(), s.Record.ThingName):
		return fmt.Errorf("names the thing %q and its files %q", s.Record.ThingName, s.base())
	}
	if r := s.Replaced; r != nil && r.Base != "" {
		if thing, _, _ := strings.Cut(r.Base, "~"); !c.isFileBase(r.Base, thing) {
			return fmt.Errorf("would replace the files %q", r.Base)
		}
	}
	if s.KeyPEM != "" {
		if s.key, err = c.Keys.Open([]byte(s.KeyPEM)); err != nil {
			return err
		}
	}
	if s.CertificatePEM != "" {
		if s.chain, err = parseChain([]byte(s.CertificatePEM)); err != nil {
			return err
		}
	}
	switch {
	case s.key == nil || s.Stage >= CertificateHeld && s.chain == nil:
		return errors.New("key or certificate is missing")
	case s.chain != nil && !awsiot.Matches(s.key, s.chain[0]):
		return errors.New("key and certificate do not match")
	case s.chain != nil && awsiot.CertificateID(s.chain[0]) != s.Record.CertificateID:
		return errors.New("certificate and record do not match")
	}
	return nil
}

// encode writes a line with format, version and checksum, then the state.
func (s *state) encode() ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s %d %s\n%s", stateMagic, stateVersion, checksum(body), body), nil
}

// errDamaged reports that a journal is not what was written.
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
	if err := awsiot.DecodeJSON(body, &s); err != nil || s.Stage < KeyMade || s.Stage > Committed || s.Sequence == 0 {
		return nil, errDamaged
	}
	return &s, nil
}

func checksum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}
