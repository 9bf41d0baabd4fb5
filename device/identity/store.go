package identity

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"
)

// DefaultDir holds the identity unless a [Config] says otherwise.
const DefaultDir = "certs"

const certificateSuffix = ".certificate.pem"

// Config says where a device's identity lives.
type Config struct {
	// SerialNumber of the device, required. The journal is named after it,
	// since the thing's name comes only with AWS IoT's answer.
	SerialNumber string
	// Dir holds the identity's files; default [DefaultDir].
	Dir string
	// Certificate and PrivateKey are paths of the final files; default
	// DIR/THINGNAME.certificate.pem and DIR/THINGNAME.private.key. The record
	// and the journal live beside the certificate.
	Certificate string
	PrivateKey  string
	// Keys makes and opens private keys; default [SoftwareKeys].
	Keys KeyStore
	// Log receives warnings about damage that was repaired; default none.
	Log *slog.Logger
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// A Store is the place of one device's identity. Its methods may be used
// concurrently, also by several processes: what changes files goes through
// [Store.Begin], which takes a lock.
type Store struct {
	config Config
	disk   disk
	log    *slog.Logger
}

// NewStore returns the store that c describes. It touches no files.
func NewStore(c Config) (*Store, error) {
	if c.SerialNumber == "" {
		return nil, errors.New("identity store: no serial number")
	}
	c.Dir = cmp.Or(c.Dir, DefaultDir)
	if c.Keys == nil {
		c.Keys = SoftwareKeys{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Store{config: c, disk: newDisk(), log: c.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// SerialNumber returns the serial number of the store's device.
func (s *Store) SerialNumber() string { return s.config.SerialNumber }

// open opens the key and the certificate of a state, nil where it has none.
func (s *Store) open(st *state) (key crypto.Signer, cert *x509.Certificate, err error) {
	if st.KeyPEM != "" {
		if key, err = s.config.Keys.Open([]byte(st.KeyPEM)); err != nil {
			return nil, nil, err
		}
	}
	if st.CertificatePEM != "" {
		if cert, err = parseCertificate([]byte(st.CertificatePEM)); err != nil {
			return nil, nil, err
		}
	}
	if st.Stage >= KeyMade && key == nil || st.Stage >= CertificateHeld && cert == nil {
		return nil, nil, errors.New("key or certificate is missing")
	}
	return key, cert, nil
}

func (s *Store) now() time.Time { return s.config.Now().UTC().Truncate(time.Millisecond) }
