package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

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
	if err == nil && st != nil && st.Stage == Committed {
		j := &Journal{store: s, state: *st}
		if j.key, j.cert, err = s.open(st); err == nil {
			return j.committed(), nil
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
