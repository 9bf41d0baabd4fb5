package identity

import (
	"cmp"
	"net/url"
	"path/filepath"
	"strings"
)

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

func (s *Store) makeDirs(f Files) error {
	for _, path := range []string{f.PrivateKey, f.Certificate} {
		if err := s.disk.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
	}
	return nil
}
