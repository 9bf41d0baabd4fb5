package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// A KeyStore makes private keys and opens them again. A key in a file is its
// own PEM text; a key in hardware would put a reference there instead, so that
// journal and files stay as they are.
type KeyStore interface {
	// New makes a key and returns the PEM text that Open takes.
	New() (pemText []byte, err error)
	Open(pemText []byte) (crypto.Signer, error)
}

// SoftwareKeys are ECDSA P-256 keys in PKCS #8 PEM. Open also takes PKCS #1 and
// SEC 1, as AWS IoT and OpenSSL write them.
type SoftwareKeys struct{}

// New makes a P-256 key.
func (SoftwareKeys) New() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Open reads a private key. Its errors show nothing of the key.
func (SoftwareKeys) Open(pemText []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(pemText); block != nil; block, rest = pem.Decode(rest) {
		key, err := parseKey(block)
		if err != nil {
			return nil, fmt.Errorf("reading private key: %w", err)
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
	return nil, errors.New("reading private key: no private key in PEM form")
}

// parseKey returns nil for blocks of other kinds, such as EC PARAMETERS.
func parseKey(block *pem.Block) (any, error) {
	switch block.Type {
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	}
	return nil, nil
}

// parseCertificate reads the first certificate of a PEM text.
func parseCertificate(pemText []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(pemText); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("no certificate in PEM form")
}

// fits reports whether key is the private half of the certificate's key.
func fits(key crypto.Signer, c *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}
