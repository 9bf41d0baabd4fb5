package config

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Files are the files of the bootstrap section, read and checked.
type Files struct {
	Roots *x509.CertPool
	// Claim is the claim certificate with its key; nil when it was not asked for.
	Claim *tls.Certificate
}

const (
	makeRoots = "run scripts/create-root-ca-bundle.sh, or set bootstrap.cacertificatepath"
	makeClaim = "run scripts/create-keys-and-cert.sh, or set the paths in the bootstrap section"
)

func (c *Config) readRoots(found Problems) (*x509.CertPool, Problems) {
	const key = "bootstrap.cacertificatepath"
	bundle, p, ok := c.read(key, c.Bootstrap.CACertificatePath, makeRoots)
	if !ok {
		return nil, append(found, p)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, append(found, c.problem(key, fmt.Sprintf("%s holds no certificate in PEM form", c.Bootstrap.CACertificatePath), makeRoots))
	}
	return roots, found
}

func (c *Config) readClaim(now time.Time, found Problems) (*tls.Certificate, []string, Problems) {
	b := c.Bootstrap
	certificate, p, okCertificate := c.read("bootstrap.certificatepath", b.CertificatePath, makeClaim)
	if !okCertificate {
		found = append(found, p)
	}
	key, p, okKey := c.read("bootstrap.privatekeypath", b.PrivateKeyPath, makeClaim)
	if !okKey {
		found = append(found, p)
	}
	warnings := readableByOthers(b.PrivateKeyPath)
	var leaf *x509.Certificate
	if okCertificate {
		leaf, found = c.claimCertificate(certificate, now, found)
	}
	var signer crypto.Signer
	if okKey {
		signer, found = c.claimKey(key, found)
	}
	if leaf == nil || signer == nil {
		return nil, warnings, found
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, warnings, append(found, c.problem("bootstrap.privatekeypath",
			fmt.Sprintf("the key %s does not belong to the certificate %s", b.PrivateKeyPath, b.CertificatePath), "use the two files that were made together"))
	}
	return &pair, warnings, found
}

func (c *Config) claimCertificate(data []byte, now time.Time, found Problems) (*x509.Certificate, Problems) {
	const key = "bootstrap.certificatepath"
	path := c.Bootstrap.CertificatePath
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, append(found, c.problem(key, fmt.Sprintf("%s is not a certificate in PEM form", path), makeClaim))
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, append(found, c.problem(key, fmt.Sprintf("%s cannot be read as a certificate: %v", path, err), makeClaim))
	}
	const day = "2006-01-02 15:04 UTC"
	switch {
	case now.After(leaf.NotAfter):
		found = append(found, c.problem(key, fmt.Sprintf("the claim %s expired on %s", path, leaf.NotAfter.UTC().Format(day)),
			"get a new claim with scripts/create-keys-and-cert.sh, and deploy its ARN"))
	case now.Before(leaf.NotBefore):
		found = append(found, c.problem(key, fmt.Sprintf("the claim %s is valid from %s, and this device's clock says %s", path, leaf.NotBefore.UTC().Format(day), now.UTC().Format(day)),
			"set the clock"))
	}
	return leaf, found
}

func (c *Config) claimKey(data []byte, found Problems) (crypto.Signer, Problems) {
	signer, err := parseKey(data)
	if err != nil {
		return nil, append(found, c.problem("bootstrap.privatekeypath", fmt.Sprintf("%s: %v", c.Bootstrap.PrivateKeyPath, err), makeClaim))
	}
	return signer, found
}

// parseKey reads the first private key of a PEM file. Its errors never quote
// the file.
func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("not a private key in PEM form")
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the private key is encrypted, which is not supported")
	default:
		return nil, fmt.Errorf("holds %q, not a private key", block.Type)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("the private key is damaged or of an unknown kind")
	}
	return signer, nil
}

func readableByOthers(path string) []string {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the private key %s is readable by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)}
}

func (c *Config) read(key, path, remedy string) ([]byte, Problem, bool) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, c.problem(key, fmt.Sprintf("%s is not a file", path), remedy), false
	}
	data, err := readFile(path, maxPEMSize)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, c.problem(key, fmt.Sprintf("%s: permission denied", path), "make it readable for this user"), false
	case err != nil:
		return nil, c.problem(key, fmt.Sprintf("%s: %s", path, cause(err)), remedy), false
	}
	return data, Problem{}, true
}

func (c *Config) problem(key, what, remedy string) Problem {
	return Problem{Origin: c.origins[key], Key: key, What: what, Remedy: remedy}
}
