package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"

	"example.com/fleety/device/awsiot"
)

// A KeyStore makes private keys and opens them again. It must be safe for
// concurrent use.
type KeyStore interface {
	// New makes a key. Its text is what the journal and the private key's file
	// hold, and what Open takes: the key itself in PEM form, or a reference to
	// a key that cannot leave its hardware. Open returns an error that wraps
	// [ErrUnavailable] where the key may be whole but cannot be reached.
	//
	// Where keys take room in the hardware, they have a method Remove() error,
	// which is called once no file refers to the key any more.
	New() (key crypto.Signer, text []byte, err error)
	Open(text []byte) (crypto.Signer, error)
}

// ErrUnavailable is wrapped by the errors of a [KeyStore] whose hardware, or
// whose support in this program, is missing. The identity is not damaged.
var ErrUnavailable = errors.New("the private key's hardware cannot be used")

// SoftwareKeys are ECDSA P-256 keys in PKCS #8 PEM. Open reads every form that
// [awsiot.PrivateKey] reads.
type SoftwareKeys struct{}

// New makes a P-256 key.
func (SoftwareKeys) New() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Open reads a private key. Its errors quote nothing of the text.
func (SoftwareKeys) Open(text []byte) (crypto.Signer, error) { return awsiot.PrivateKey(text) }

// parseChain reads the first certificate of a PEM text, and of the others those
// that signed it.
func parseChain(text []byte) ([]*x509.Certificate, error) {
	certs, err := awsiot.Certificates(text)
	if err != nil {
		return nil, err
	}
	return awsiot.Chain(certs[0], certs[1:]), nil
}
