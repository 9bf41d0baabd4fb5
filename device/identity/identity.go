// Package identity keeps a device's identity on disk: its private key, its
// certificate, the record that describes them, and the journal of a
// provisioning that is under way. It knows nothing of MQTT or of AWS's API.
//
// An identity is never partially written. While a device is being provisioned,
// all that it has is in the [Journal]. [Journal.Commit] is the one atomic step:
// from then on the new identity is the device's, and [Journal.Install], which
// can be repeated after a crash until it is complete, writes the final files.
package identity

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"regexp"
)

// ErrNone is returned by [Store.Load] when the device has no identity yet.
var ErrNone = errors.New("no device identity yet")

// An Identity is what a provisioned device is known by to AWS IoT. Its key
// fits its certificate, and its record names that certificate.
type Identity struct {
	Record      Record
	Files       Files
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// TLS returns the identity as a client certificate.
func (id *Identity) TLS() *tls.Certificate { return clientCertificate(id.Certificate, id.Key) }

func clientCertificate(c *x509.Certificate, key crypto.Signer) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// Files are the paths of the three files that make an identity.
type Files struct {
	Certificate string `json:"certificate"` // PEM, mode 0644
	PrivateKey  string `json:"privateKey"`  // PEM, mode 0600
	Record      string `json:"record"`      // JSON, mode 0644; written last
}

// CertificateID returns the id that AWS IoT knows a certificate by: the
// lower-case hex SHA-256 of its DER.
func CertificateID(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

var thingName = regexp.MustCompile(`^[a-zA-Z0-9:_-]{1,128}$`)

// ValidThingName reports whether AWS IoT allows name for a thing. Such a name
// can stand in a path.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html
func ValidThingName(name string) bool { return thingName.MatchString(name) }
