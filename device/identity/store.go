package identity

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"example.com/fleety/device/internal/osfile"
)

// DefaultDir holds the identity unless a [Config] says otherwise.
const DefaultDir = "certs"

// Config says where a device's identity is kept.
type Config struct {
	// SerialNumber of the device, required. The journal is named after it, since the thing's name
	// is known only from AWS IoT's answer.
	SerialNumber string
	// ThingName is what the template is expected to give the thing, empty if unknown. Files of that
	// name count as this device's even when their record is damaged.
	ThingName string
	Dir       string // holds the identity's files; default [DefaultDir]
	// Certificate and PrivateKey are paths of the final files; default
	// DIR/THINGNAME.certificate.pem and DIR/THINGNAME.private.key. The record and the journal are
	// kept beside the certificate. A symbolic link stays, and the file that it names is written.
	Certificate, PrivateKey string
	// Reserved are paths of other files, such as the claim's: [ErrConflict] is returned rather
	// than that one of them is written.
	Reserved []string
	Keys     KeyStore         // makes and opens private keys; default [SoftwareKeys]
	Log      *slog.Logger     // receives warnings about damage that was repaired and files that were renamed; default none
	Now      func() time.Time // the clock; default time.Now
}

// now is the clock with the precision that files keep.
func (c *Config) now() time.Time { return c.Now().UTC().Truncate(time.Millisecond) }

// A Store is the place of one device's identity. Its methods may be used concurrently, also by
// several processes: what changes files goes through [Store.Begin] and [Store.DiscardPending],
// which take a lock.
type Store struct {
	config  *Config
	storage storage
}

// storage is where a store's journal and identity are: in a directory, or in memory.
type storage interface {
	// lock returns a *LockedError while someone else has the lock. Its release removes what is left
	// of the journal where that is empty.
	lock() (osfile.Unlock, error)
	holder() int // the process that has the lock, 0 if none has
	// readState returns the newest state, checked, nil if there is none, and the paths of copies
	// that are damaged, also with the error that no other is left.
	readState() (newest *state, damaged []string, err error)
	setAside(damaged []string) error // keeps the copies under other names
	secureState() error              // makes the state that was read durable
	writeState(*state) error
	clearState(newest *state) error // removes all states; newest is nil if unknown

	load() (*Identity, error)                    // the identity that is installed
	fileBase(thing string) (string, error)       // what the names of the thing's files begin with, such that they are nobody else's
	replacing() (*Record, *replacedFiles, error) // what a new identity would replace, nil if there is none
	install(*state) (*Identity, error)
	check() error // tries what the other methods do
}

// NewStore returns the store that c describes. It touches no files.
func NewStore(c Config) (*Store, error) {
	return newStore(&c, &directory{Config: &c, disk: newDisk()})
}

// NewMemoryStore returns a store like that of [NewStore], but one that keeps its files in memory
// and loses them with the process: for devices that are simulated. The paths of c are names only.
func NewMemoryStore(c Config) (*Store, error) { return newStore(&c, &memory{config: &c}) }

func newStore(c *Config, where storage) (*Store, error) {
	if c.SerialNumber == "" {
		return nil, errors.New("identity store: no serial number")
	}
	c.Dir = cmp.Or(c.Dir, DefaultDir)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.Keys == nil {
		c.Keys = SoftwareKeys{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Store{c, where}, nil
}

// SerialNumber returns the serial number of the store's device.
func (s *Store) SerialNumber() string { return s.config.SerialNumber }

// Load returns the device's identity, checked: the key matches the certificate and the record names
// it. A provisioning that is in progress has no influence until it is committed; from then on Load
// returns the new identity. Load needs no lock.
//
// It returns [ErrNone] when there is no identity, a *[FileError] of kind [ErrBroken] when files are
// there that do not make one, [ErrConflict] when they are another device's or [ErrAccess] when others
// may write to them, and an error that wraps [fs.ErrPermission] when this process may not read them.
func (s *Store) Load() (id *Identity, err error) {
	// An installation that ends between our look at the journal and at the files makes them
	// disagree, once.
	for range 2 {
		if st, _, err := s.storage.readState(); err == nil && st != nil && st.Stage == Committed {
			return st.identity(s.config.Files(st.base())), nil
		}
		id, err = s.storage.load()
		if !errors.Is(err, ErrBroken) {
			break
		}
	}
	return id, classify(err)
}

// Begin takes the store's lock, completes an installation that was interrupted, and opens the
// journal, empty if no provisioning is in progress. What is in the journal is on stable storage
// then. The caller closes the journal.
//
// It returns a *[LockedError] while another process or store has the lock, a *[FileError] of kind
// [ErrConflict] or [ErrAccess] when the identity's paths cannot be used or [ErrCorrupt] when a journal
// cannot be read, unless it is damaged and the identity is not, and an error of class
// [awsiot.Temporary] for what may pass, such as a full disk. [Store.Load] returns an identity even so.
func (s *Store) Begin() (*Journal, error) {
	unlock, err := s.storage.lock()
	if err != nil {
		return nil, classify(err)
	}
	j := &Journal{store: s, unlock: unlock, state: state{SerialNumber: s.config.SerialNumber}}
	if err := j.resume(); err != nil {
		return nil, classify(errors.Join(err, unlock(false)))
	}
	return j, nil
}

func (j *Journal) resume() error {
	st, damaged, err := j.store.storage.readState()
	if err != nil && damaged != nil {
		if _, loading := j.store.storage.load(); loading != nil && !errors.Is(loading, ErrNone) {
			return err // perhaps the copies have what is missing
		}
		// Nobody may be there who repairs it.
		j.store.config.Log.Warn("no copy of the provisioning journal can be read; beginning again", "error", err)
		return j.store.storage.setAside(damaged)
	}
	for _, path := range damaged {
		j.store.config.Log.Warn("the latest step in the provisioning journal is damaged; continuing from the step before it", "path", path)
	}
	if err != nil || st == nil {
		return err
	}
	// A process that was killed may have left a state that is not durable yet.
	if err := j.store.storage.secureState(); err != nil {
		return err
	}
	if j.state = *st; j.Stage() == Committed {
		j.finished, err = j.Install()
	}
	return err
}

// DiscardPending ends a provisioning that was to replace the identity, also one whose journal is
// damaged, and keeps the identity. It returns what was discarded, nil if nothing was or the journal
// could not be read. A certificate in it, from [Registered] on, is active in AWS IoT and stays so.
// An identity that is committed already is installed, and nothing is discarded.
//
// It returns an error that wraps [ErrNone] when there is no identity to keep: the pending
// provisioning may be all that the device has. It returns a *[LockedError] while a run is working
// on it.
func (s *Store) DiscardPending() (*Pending, error) {
	if _, err := s.Load(); err != nil {
		return nil, fmt.Errorf("discarding pending provisioning: keeping the identity: %w", err)
	}
	j, err := s.Begin()
	if errors.Is(err, ErrCorrupt) {
		unlock, err := s.storage.lock()
		if err != nil {
			return nil, classify(err)
		}
		err = s.storage.clearState(nil)
		return nil, classify(errors.Join(err, unlock(err == nil)))
	}
	if err != nil {
		return nil, err
	}
	var discarded *Pending
	if j.Stage() != Empty {
		discarded = s.pending(&j.state)
		discarded.PID = 0
		key := j.state.key
		if err := j.end(); err != nil {
			return nil, classify(errors.Join(fmt.Errorf("discarding pending provisioning: %w", err), j.Close()))
		}
		s.removeKey(key)
	}
	return discarded, j.Close()
}

// A State says whether a device has an identity.
type State int

// The states.
const (
	Absent     State = iota // no identity
	Present                 // an identity that is whole
	Damaged                 // files that do not make this device's identity: [ErrBroken], [ErrConflict]
	Unreadable              // files that this process may not read, or that others may write: [ErrAccess]
)

// String returns the state of the device in one lower-case word.
func (s State) String() string {
	return [...]string{"none", "provisioned", "damaged", "unreadable"}[s]
}

// A Status is what is on disk: the identity, and apart from it the provisioning that is in
// progress, which may be to replace that identity.
type Status struct {
	State    State
	Identity *Identity // nil unless State is [Present]
	Pending  *Pending  // nil if no provisioning is in progress or was interrupted
	// Problems are the errors found: that of [Store.Load] unless it is [ErrNone], then those of the
	// journal. Each names its file.
	Problems []error
}

// Pending describes a provisioning that is in progress or was interrupted. Its JSON keys are part of
// the contract of the status command.
type Pending struct {
	Stage         Stage     `json:"-"`
	Since         time.Time `json:"since"`
	Updated       time.Time `json:"updated"`                 // when the latest step was stored, Since the first
	RequestedBy   string    `json:"-"`                       // as in [Grant]; empty before [CertificateHeld]
	CertificateID string    `json:"certificateId,omitempty"` // empty before [CertificateHeld]
	ThingName     string    `json:"thingName,omitempty"`     // empty before [Registered]
	TokenExpires  time.Time `json:"tokenExpires,omitzero"`   // zero unless at [CertificateHeld]
	PID           int       `json:"running,omitempty"`       // of the run that is working on it now, else 0
}

// Status returns what is on disk. It changes nothing and needs no network.
func (s *Store) Status() *Status {
	id, err := s.Load()
	status := &Status{Identity: id}
	switch {
	case err == nil:
		status.State = Present
	case errors.Is(err, ErrBroken) || errors.Is(err, ErrConflict):
		status.State = Damaged
	case !errors.Is(err, ErrNone):
		status.State = Unreadable
	}
	if status.State > Present {
		status.Problems = []error{err}
	}
	st, damaged, err := s.storage.readState()
	if err != nil {
		status.Problems = append(status.Problems, err)
		damaged = nil
	}
	for _, path := range damaged {
		status.Problems = append(status.Problems, &FileError{ErrCorrupt, path, "the next run continues from the step before it"})
	}
	if st != nil {
		status.Pending = s.pending(st)
	}
	return status
}

func (s *Store) pending(st *state) *Pending {
	return &Pending{st.Stage, st.Started, st.Updated, st.RequestedBy, st.Record.CertificateID, st.Record.ThingName, st.TokenExpires, s.storage.holder()}
}
