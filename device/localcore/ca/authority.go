// Package ca is the certificate authority of the emulator: it issues device certificates that look
// like those of AWS IoT Core, and the certificate that the emulator itself shows to devices. The
// two have separate roots, as on AWS, where nobody can verify a device certificate by its chain:
// the broker finds it by its fingerprint.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/x509-client-certs.html
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2/maybe"

	"example.com/fleety/device/internal/osfile"
)

// An Authority holds the key that signs device certificates and the root of
// the server's certificate. It is safe for concurrent use.
type Authority struct {
	issuer func() (tls.Certificate, error) // made when first needed, in memory
	root   tls.Certificate
}

// processIssuer is the issuing key of every authority that lives in memory
// only: making an RSA key takes longer than all the rest of a start.
var processIssuer = sync.OnceValues(NewKey)

// NewKey makes a key like those that AWS IoT makes for devices: RSA, 2048 bits.
func NewKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, keyBits) }

// Open returns the authority kept in dir, made there if need be. An empty dir
// means memory only; such authorities share one issuing key in a process, which
// the first certificate waits for. A new authority signs with RSA, as AWS's does,
// or with fast on the curve P-256, in a fortieth of the time.
func Open(dir string, fast bool) (*Authority, error) {
	newKey := func() (crypto.Signer, error) { return NewKey() }
	switch {
	case fast:
		newKey = func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
	case dir == "":
		newKey = func() (crypto.Signer, error) { return processIssuer() }
	}
	if dir == "" {
		return newAuthority(newKey)
	}
	path := filepath.Join(dir, "authority.pem")
	data, err := osfile.Read(path, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		a, err := newAuthority(newKey)
		if err == nil {
			data, err = a.encode()
		}
		if err == nil {
			err = maybe.WriteFile(path, data, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("making the certificate authority: %w", err)
		}
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority: %w", err)
	}
	a, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority in %s: %w (move the file away to make a new one; devices then need the new root)", path, err)
	}
	return a, nil
}

func newAuthority(issuingKey func() (crypto.Signer, error)) (*Authority, error) {
	issuer := sync.OnceValues(func() (tls.Certificate, error) {
		key, err := issuingKey()
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("making the issuing key: %w", err)
		}
		return selfSigned(key, &x509.Certificate{RawSubject: issuerName})
	})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the root key: %w", err)
	}
	root, err := selfSigned(key, &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"iot_core_local"}, CommonName: "iot_core_local server root"},
	})
	return &Authority{issuer, root}, err
}

// Prepare makes the issuing key now, if it is still missing. An error comes
// back with the first certificate.
func (a *Authority) Prepare() { _, _ = a.issuer() }

// selfSigned completes the template, which brings the subject, as that of a certificate authority.
func selfSigned(key crypto.Signer, template *x509.Certificate) (tls.Certificate, error) {
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), notAfter
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the certificate of an authority: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// RootPEM returns the root of the server's certificate, which devices trust.
func (a *Authority) RootPEM() []byte { return encode("CERTIFICATE", a.root.Leaf.Raw) }

// ServerCertificate returns a new certificate for the emulator itself, without the
// root, which a client that trusts it has (RFC 8446, 4.4.2). The hosts are DNS names,
// wildcards included, and IP addresses.
func (a *Authority) ServerCertificate(hosts ...string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the server key: %w", err)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: hosts[0]},
		NotBefore:   time.Now().Add(-time.Hour),
		NotAfter:    time.Now().Add(397 * 24 * time.Hour), // as long as browsers accept
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root.Leaf, key.Public(), a.root.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("making the server certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the server certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// encode writes both keys and certificates as one file, so that it is there
// whole or not at all: issuer, then root, of each the key first.
func (a *Authority) encode() ([]byte, error) {
	issuer, err := a.issuer()
	if err != nil {
		return nil, err
	}
	var data []byte
	for _, pair := range []tls.Certificate{issuer, a.root} {
		key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
		if err != nil {
			return nil, err
		}
		data = append(append(data, encode("PRIVATE KEY", key)...), encode("CERTIFICATE", pair.Leaf.Raw)...)
	}
	return data, nil
}

func decode(data []byte) (*Authority, error) {
	_, root := pem.Decode(data) // after the issuer's key
	_, root = pem.Decode(root)  // and its certificate
	first := data[:len(data)-len(root)]
	issuer, err := tls.X509KeyPair(first, first)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	server, err := tls.X509KeyPair(root, root)
	if err != nil {
		return nil, fmt.Errorf("server root: %w", err)
	}
	return &Authority{func() (tls.Certificate, error) { return issuer, nil }, server}, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
