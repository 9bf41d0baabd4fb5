package identity

import (
	"log/slog"
	"time"
)

// Config says where a device's identity lives.
type Config struct {
	// SerialNumber of the device, required. The journal is named after it,
	// since the thing's name comes only with AWS IoT's answer.
	SerialNumber string
	// Dir holds the identity's files and the journal; default "certs".
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
}

// NewStore returns the store that c describes. It touches no files.
func NewStore(c Config) (*Store, error) {
	return &Store{config: c}, nil
}

// Load returns the device's identity, checked: the key fits the certificate
// and the record names it. It returns [ErrNone] when there is none, and a
// *[BrokenError] when files are there that do not make an identity.
func (s *Store) Load() (*Identity, error) { return nil, ErrNone }

// Begin takes the store's lock, finishes a commit that was interrupted, and
// opens the journal, empty if no provisioning is under way. It returns a
// *[LockedError] while another process or store has the lock, and a
// *[CorruptError] when a journal is there that cannot be read. The caller
// closes the journal.
func (s *Store) Begin() (*Journal, error) { return &Journal{}, nil }

// Status tells what is on disk. It takes no lock, changes nothing and needs
// no network. Damage is reported in the status and is not an error.
func (s *Store) Status() (*Status, error) { return &Status{}, nil }

// A Status is what is on disk. Ages count from the times in it.
type Status struct {
	// Identity is the committed identity's record, nil if there is none.
	Identity *Record
	Files    Files
	// Pending is the provisioning that is under way, nil if there is none.
	Pending *Pending
	// Problems tells in words what is damaged or inconsistent.
	Problems []string
}

// Pending describes a provisioning that is under way or was interrupted.
type Pending struct {
	Stage         Stage
	Since         time.Time // when the first step was stored
	Updated       time.Time // when the latest step was stored
	CertificateID string    // empty before [CertificateHeld]
	ThingName     string    // empty before [Registered]
	TokenExpires  time.Time // zero before [CertificateHeld]
	Running       int       // process id of the run that holds the lock, else 0
}
