package identity

import (
	"crypto"
	"crypto/x509"
	"time"
)

// A Stage is how far a provisioning has come. Each is on stable storage before
// the next one begins.
type Stage int

// The stages, in order.
const (
	Empty           Stage = iota // nothing is stored
	KeyMade                      // the device's key is stored
	CertificateHeld              // so are the certificate and its ownership token
	Registered                   // AWS IoT has registered the thing
	Proved                       // a connection with the new certificate worked
)

var stageNames = [...]string{"empty", "key made", "certificate held", "registered", "proved"}

// String returns the stage in words.
func (s Stage) String() string {
	if s < 0 || int(s) >= len(stageNames) {
		return "unknown"
	}
	return stageNames[s]
}

// A Journal is one provisioning under way, and the lock on its store. It is
// not safe for concurrent use.
type Journal struct{}

// Stage returns how far the provisioning has come.
func (j *Journal) Stage() Stage { return Empty }

// Key returns the device's key, nil before [KeyMade].
func (j *Journal) Key() crypto.Signer { return nil }

// Certificate returns the certificate, nil before [CertificateHeld].
func (j *Journal) Certificate() *x509.Certificate { return nil }

// Token returns the certificate ownership token, a secret, and when it
// expires. It is empty before [CertificateHeld].
func (j *Journal) Token() (token string, expires time.Time) { return "", time.Time{} }

// ThingName returns the thing's name, empty before [Registered].
func (j *Journal) ThingName() string { return "" }

// MakeKey makes a key and stores it.
func (j *Journal) MakeKey() error { return nil }

// A Grant is a certificate that AWS IoT made for the device, not yet
// registered.
type Grant struct {
	CertificateID  string // as AWS IoT gave it
	CertificatePEM string
	// PrivateKeyPEM is the key that AWS IoT made, empty if the device made it.
	PrivateKeyPEM string
	Token         string
	TokenExpires  time.Time
}

// HoldCertificate stores a certificate and its token. It returns a
// *[CertificateError], and stores nothing, when the certificate is not for the
// journal's key or its id is not the SHA-256 of its DER. It replaces a
// certificate whose token has expired.
func (j *Journal) HoldCertificate(g Grant) error { return nil }

// A Registration is what is known of the thing once it is registered.
type Registration struct {
	ThingName           string
	DeviceConfiguration map[string]string // nil when the answer was lost
	Endpoint            string
	Author              string
}

// Register stores that AWS IoT has registered the thing.
func (j *Journal) Register(r Registration) error { return nil }

// Prove stores that a connection with the new certificate worked.
func (j *Journal) Prove() error { return nil }

// Commit gives the identity its final files and ends the journal. The old
// identity, if any, is replaced; Record.Replaces names its certificate.
func (j *Journal) Commit() (*Identity, error) { return nil, nil }

// Close releases the lock. What the journal holds stays for the next run.
func (j *Journal) Close() error { return nil }
