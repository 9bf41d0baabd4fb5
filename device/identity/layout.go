package identity

import (
	"cmp"
	"net/url"
	"path/filepath"
	"strings"

	"example.com/fleety/device/awsiot"
)

const (
	certificateSuffix = ".certificate.pem"
	privateKeySuffix  = ".private.key"
	recordSuffix      = ".json"
)

// files returns the paths of an identity, whose names begin with base unless they
// are configured.
func (c *Config) files(base string) Files {
	cert := cmp.Or(c.Certificate, filepath.Join(c.Dir, base+certificateSuffix))
	stem, ok := strings.CutSuffix(cert, certificateSuffix)
	if !ok {
		stem = strings.TrimSuffix(cert, filepath.Ext(cert))
	}
	return Files{
		Certificate: cert,
		PrivateKey:  cmp.Or(c.PrivateKey, stem+privateKeySuffix),
		Record:      stem + recordSuffix,
	}
}

// ownBase is the base of a thing's files where the thing's name is taken by files
// of someone else. No thing's name has a tilde.
func (c *Config) ownBase(thing string) string {
	return thing + "~" + url.QueryEscape(c.SerialNumber)
}

// isFileBase reports whether base is one of the two that the files of a thing of
// this device may have.
func (c *Config) isFileBase(base, thing string) bool {
	return awsiot.ValidThingName(thing) && (base == thing || base == c.ownBase(thing))
}

// sums returns the checksums of the files that a state replaces, by path.
func (c *Config) sums(st *state) map[string]string {
	sums := map[string]string{}
	if r := st.Replaced; r != nil && (r.Base != "" || c.Certificate != "") {
		paths := c.files(r.Base).all()
		for i, sum := range r.Sums[:min(len(r.Sums), len(paths))] {
			sums[paths[i]] = sum
		}
	}
	return sums
}

// journalDir is hidden beside the certificate. Escaping keeps any serial number
// from leaving the directory.
func (c *Config) journalDir() string {
	return filepath.Join(c.home(), "."+url.QueryEscape(c.SerialNumber)+".provisioning")
}

func (c *Config) home() string {
	if c.Certificate != "" {
		return filepath.Dir(c.Certificate)
	}
	return c.Dir
}
