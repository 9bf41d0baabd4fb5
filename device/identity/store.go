package identity

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
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

// Load returns the device's identity, checked: the key fits the certificate
// and the record names it. It returns [ErrNone] when there is none, and a
// *[BrokenError] when files are there that do not make an identity. It needs
// no lock: while a commit is under way it returns the new identity.
func (s *Store) Load() (*Identity, error) {
	var id *Identity
	var err error
	// A commit that ends between our look at the journal and at the files
	// makes them disagree, once.
	for range 2 {
		id, err = s.load()
		if _, broken := errors.AsType[*BrokenError](err); !broken {
			return id, err
		}
	}
	return id, err
}

func (s *Store) load() (*Identity, error) {
	st, _, err := s.slots().read()
	if err == nil && st != nil && st.Stage == Proved {
		j := &Journal{store: s, state: *st}
		if j.key, j.cert, err = s.open(st); err == nil {
			return j.proved(), nil
		}
	}
	files, record, err := s.find()
	if err != nil {
		return nil, err
	}
	return s.loadFiles(files, record)
}

// find returns the files of this device's identity and its record.
func (s *Store) find() (Files, *Record, error) {
	if s.config.Certificate != "" {
		files := s.files("")
		record, err := s.readRecord(files.Record)
		if errors.Is(err, fs.ErrNotExist) {
			return files, nil, s.absent(files)
		}
		return files, record, err
	}
	names, err := s.disk.ReadDir(s.config.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Files{}, nil, err
	}
	for _, name := range names {
		thing, ok := strings.CutSuffix(name, ".json")
		if !ok || !ValidThingName(thing) {
			continue
		}
		record, err := s.readRecord(filepath.Join(s.config.Dir, name))
		if err != nil && strings.HasSuffix(thing, s.config.SerialNumber) {
			return s.files(thing), nil, err
		}
		if err == nil && record.SerialNumber == s.config.SerialNumber {
			return s.files(record.ThingName), record, nil
		}
	}
	return Files{}, nil, ErrNone
}

// absent tells no identity from one whose record is missing.
func (s *Store) absent(files Files) error {
	for _, path := range []string{files.PrivateKey, files.Certificate} {
		if _, err := s.disk.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
			return &BrokenError{Path: path, Reason: "is there without its record " + files.Record}
		}
	}
	return ErrNone
}

func (s *Store) readRecord(path string) (*Record, error) {
	data, err := s.disk.ReadFile(path)
	if err != nil {
		return nil, err
	}
	record, err := ParseRecord(data)
	if err != nil {
		return nil, &BrokenError{Path: path, Reason: err.Error()}
	}
	return record, nil
}

func (s *Store) loadFiles(files Files, record *Record) (*Identity, error) {
	if record.SerialNumber != s.config.SerialNumber {
		return nil, &BrokenError{Path: files.Record, Reason: fmt.Sprintf("is the identity of serial number %q, not %q", record.SerialNumber, s.config.SerialNumber)}
	}
	certPEM, err := s.readPart(files.Certificate)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(certPEM)
	if err != nil {
		return nil, &BrokenError{Path: files.Certificate, Reason: err.Error()}
	}
	if CertificateID(cert) != record.CertificateID {
		return nil, &BrokenError{Path: files.Certificate, Reason: "is not the certificate that " + files.Record + " names"}
	}
	keyPEM, err := s.readPart(files.PrivateKey)
	if err != nil {
		return nil, err
	}
	key, err := s.config.Keys.Open(keyPEM)
	if err != nil {
		return nil, &BrokenError{Path: files.PrivateKey, Reason: err.Error()}
	}
	if !fits(key, cert) {
		return nil, &BrokenError{Path: files.PrivateKey, Reason: "is not the key of " + files.Certificate}
	}
	return &Identity{Record: *record, Files: files, Certificate: cert, Key: key}, nil
}

// readPart reads a file that must be there since the record is.
func (s *Store) readPart(path string) ([]byte, error) {
	data, err := s.disk.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &BrokenError{Path: path, Reason: "is missing"}
	}
	return data, err
}

// oldRecord returns the record that a commit will replace, nil if there is
// none that can be read, with its files.
func (s *Store) oldRecord() (*Record, Files, error) {
	files, record, err := s.find()
	if _, broken := errors.AsType[*BrokenError](err); broken || errors.Is(err, ErrNone) {
		return nil, files, nil
	}
	return record, files, err
}

// Begin takes the store's lock, finishes a commit that was interrupted, and
// opens the journal, empty if no provisioning is under way. It returns a
// *[LockedError] while another process or store has the lock, and a
// *[CorruptError] when a journal is there that cannot be read. The caller
// closes the journal.
func (s *Store) Begin() (*Journal, error) {
	l, err := s.lock()
	if err != nil {
		return nil, err
	}
	j := &Journal{store: s, lock: l, state: state{SerialNumber: s.config.SerialNumber}}
	if err := j.resume(); err != nil {
		return nil, errors.Join(err, l.Release())
	}
	return j, nil
}

// lock makes the journal's directory and takes the lock in it. Runs that end
// meanwhile may remove the directory in between.
func (s *Store) lock() (lock, error) {
	const tries = 100
	for try := 1; ; try++ {
		l, err := s.tryLock()
		vanished := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)
		if !vanished || try == tries {
			return l, err
		}
	}
}

func (s *Store) tryLock() (lock, error) {
	if err := s.makeJournalDir(); err != nil {
		return nil, fmt.Errorf("making provisioning journal: %w", err)
	}
	return s.disk.Lock(filepath.Join(s.journalDir(), "lock"))
}

func (j *Journal) resume() error {
	st, damaged, err := j.store.slots().read()
	if err != nil {
		return err
	}
	for _, path := range damaged {
		j.store.log.Warn("the latest step in the provisioning journal is damaged; going on from the step before it", "path", path)
	}
	if st == nil {
		return nil
	}
	if st.SerialNumber != j.store.config.SerialNumber {
		return &CorruptError{Path: j.store.journalDir(), Reason: fmt.Sprintf("is of serial number %q", st.SerialNumber)}
	}
	if j.key, j.cert, err = j.store.open(st); err != nil {
		return &CorruptError{Path: j.store.journalDir(), Reason: err.Error()}
	}
	j.state = *st
	if j.Stage() == Proved {
		j.finished, err = j.Commit()
	}
	return err
}

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

// files returns the paths of a thing's identity.
func (s *Store) files(thing string) Files {
	cert := cmp.Or(s.config.Certificate, filepath.Join(s.config.Dir, thing+certificateSuffix))
	base, ok := strings.CutSuffix(cert, certificateSuffix)
	if !ok {
		base = strings.TrimSuffix(cert, filepath.Ext(cert))
	}
	return Files{
		Certificate: cert,
		PrivateKey:  cmp.Or(s.config.PrivateKey, base+".private.key"),
		Record:      base + ".json",
	}
}

// journalDir is hidden beside the certificate. Escaping keeps any serial number
// from leaving the directory.
func (s *Store) journalDir() string {
	return filepath.Join(s.home(), "."+url.QueryEscape(s.config.SerialNumber)+".provisioning")
}

func (s *Store) home() string {
	if s.config.Certificate != "" {
		return filepath.Dir(s.config.Certificate)
	}
	return s.config.Dir
}

func (s *Store) slots() slots { return slots{disk: s.disk, dir: s.journalDir()} }

func (s *Store) makeJournalDir() error {
	if err := s.disk.MkdirAll(s.journalDir(), 0o700); err != nil {
		return err
	}
	return s.disk.SyncDir(s.home())
}

// removeJournalDir leaves the directory to a run that has begun meanwhile.
func (s *Store) removeJournalDir() error {
	_ = s.disk.Remove(s.journalDir())
	return nil
}

func (s *Store) makeDirs(f Files) error {
	for _, path := range []string{f.PrivateKey, f.Certificate} {
		if err := s.disk.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) now() time.Time { return s.config.Now().UTC().Truncate(time.Millisecond) }
