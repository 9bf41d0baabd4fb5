// Package identity keeps a device's identity on disk: its private key, its
// certificate, the record that describes them, and the journal of a
// provisioning that is under way. It knows nothing of MQTT or of AWS's API.
//
// Nothing is ever half there. While a device is being provisioned all that it
// has lives in the [Journal]; the final files appear only at
// [Journal.Commit], which can be repeated after a crash until it is complete.
package identity

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"time"
)

// ErrNone is returned by [Store.Load] when the device has no identity yet.
var ErrNone = errors.New("no device identity yet")

// An Identity is what a provisioned device is known by to AWS IoT.
type Identity struct {
	Record      Record
	Files       Files
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// TLS returns the identity as a client certificate.
func (id *Identity) TLS() *tls.Certificate {
	return &tls.Certificate{
		Certificate: [][]byte{id.Certificate.Raw},
		PrivateKey:  id.Key,
		Leaf:        id.Certificate,
	}
}

// Files are the paths of the three files that make an identity.
type Files struct {
	Certificate string // PEM, mode 0644
	PrivateKey  string // PEM, mode 0600
	Record      string // JSON, mode 0644; written last
}

// A Record describes an identity. It is stored as JSON beside the certificate
// and names that certificate, so that the three files stand or fall together.
type Record struct {
	// FormatVersion is [RecordVersion] in every record that is written.
	FormatVersion int    `json:"formatVersion"`
	ThingName     string `json:"thingName"`
	SerialNumber  string `json:"serialNumber"`
	// CertificateID is the lower-case hex SHA-256 of the certificate's DER.
	CertificateID string    `json:"certificateId"`
	Endpoint      string    `json:"endpoint"`
	NotAfter      time.Time `json:"notAfter"`
	// DeviceConfiguration is what RegisterThing answered. It is nil when the
	// thing was registered but the answer was lost on its way.
	DeviceConfiguration map[string]string `json:"deviceConfiguration"`
	Author              string            `json:"author"`
	// Times of the steps by the device's own clock, in UTC.
	IssuedAt     time.Time `json:"issuedAt"`
	RegisteredAt time.Time `json:"registeredAt"`
	ProvedAt     time.Time `json:"provedAt"`
	// Replaces is the certificate id of the identity before this one. That
	// certificate stays active in AWS IoT until someone deactivates it.
	Replaces string `json:"replaces,omitempty"`
}

// RecordVersion is the format version of the records that this package writes.
const RecordVersion = 1

// ParseRecord reads a record and checks its format version and its fields.
func ParseRecord(data []byte) (*Record, error) {
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	return &r, nil
}
