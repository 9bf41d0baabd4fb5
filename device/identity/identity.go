// Package identity keeps a device's identity on disk: its private key, its certificate, the record
// that describes them, and the journal of a provisioning in progress. It knows nothing of MQTT or
// of AWS's API.
//
// An identity is never partially written. While a device is being provisioned, all that it has is
// in the [Journal]. [Journal.Commit] is the one atomic step: from then on the new identity is the
// device's, and [Journal.Install], which can be repeated after a crash until it is complete, writes
// the final files. An identity that is being replaced stays untouched until then.
//
// Nothing that is not this identity's own is ever overwritten or removed: a file at one of its
// paths that it did not write is renamed, and a path that belongs to the claim or to another device
// is an error before anything is written.
//
// As ssh does, the package writes only where no one else can: in directories that belong to root or
// to the process's own user, and that nobody else may write to. A directory is also trusted when
// its sticky bit is set, since what others put there is known by its owner, or when only root's
// group or the process's own may write to it. See [ErrAccess].
package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"example.com/fleety/device/awsiot"
)

// ErrNone is returned by [Store.Load] when the device has no identity yet.
var ErrNone = errors.New("no device identity yet")

// An Identity is what a provisioned device presents to AWS IoT. Its key matches its certificate,
// and its record names that certificate.
type Identity struct {
	Record      Record
	Files       Files
	Certificate *x509.Certificate
	// Issuers are the certificates that signed Certificate, the nearest first, as far as they came
	// with it. AWS IoT's own certificates come without.
	Issuers []*x509.Certificate
	Key     crypto.Signer
}

// TLS returns the identity as a client certificate, with its chain.
func (id *Identity) TLS() *tls.Certificate {
	t := &tls.Certificate{Certificate: [][]byte{id.Certificate.Raw}, PrivateKey: id.Key, Leaf: id.Certificate}
	for _, c := range id.Issuers {
		t.Certificate = append(t.Certificate, c.Raw)
	}
	return t
}

// Files are the paths of the three files of an identity.
type Files struct {
	Certificate string // PEM, mode 0644; the chain follows
	PrivateKey  string // PEM, mode 0600
	Record      string // JSON, mode 0644; written last
}

func (f Files) all() []string { return []string{f.Record, f.Certificate, f.PrivateKey} }

// RecordVersion is the format version of the records that this package writes.
const RecordVersion = 1

// A Record describes an identity. It is stored as JSON beside the certificate and names that
// certificate, so that the three files are valid only together.
type Record struct {
	FormatVersion int       `json:"formatVersion"` // [RecordVersion]
	ThingName     string    `json:"thingName"`
	SerialNumber  string    `json:"serialNumber"`
	CertificateID string    `json:"certificateId"` // as [awsiot.CertificateID] returns it
	Endpoint      string    `json:"endpoint"`
	NotAfter      time.Time `json:"notAfter"`
	// DeviceConfiguration is what RegisterThing returned, nil when the thing was registered but the
	// answer was lost.
	DeviceConfiguration map[string]any `json:"deviceConfiguration"`
	Author              string         `json:"author"`
	// Times of the steps by the device's own clock, in UTC.
	IssuedAt     time.Time `json:"issuedAt"`
	RegisteredAt time.Time `json:"registeredAt"`
	ProvedAt     time.Time `json:"provedAt"`
	// RequestedBy is as in [Grant]; empty in records of earlier versions.
	RequestedBy string `json:"requestedBy,omitempty"`
	// Replaces is the certificate id of the identity before this one. A provisioning does not
	// deactivate that certificate in AWS IoT.
	Replaces string `json:"replaces,omitempty"`
	// ClaimRemovedAt is when [Store.RemoveClaim] removed the claim's key.
	ClaimRemovedAt time.Time `json:"claimRemovedAt,omitzero"`
}

// ParseRecord reads a record and checks its format version and its fields. Numbers of the device
// configuration are [json.Number].
func ParseRecord(data []byte) (*Record, error) {
	var r Record
	err := awsiot.DecodeJSON(data, &r)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading identity record: %w", err)
	case r.FormatVersion != RecordVersion:
		return nil, fmt.Errorf("identity record has format version %d, this program reads version %d: use the program that wrote it", r.FormatVersion, RecordVersion)
	case !awsiot.ThingNames.Valid(r.ThingName):
		return nil, fmt.Errorf("identity record has no valid thing name: %q", r.ThingName)
	case r.SerialNumber == "" || r.CertificateID == "":
		return nil, errors.New("identity record lacks its serial number or certificate id")
	}
	return &r, nil
}

func (r *Record) encode() []byte {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic(err) // a record holds strings and times that were valid before
	}
	return append(data, '\n')
}

// A KeyStore makes private keys and opens them again. It must be safe for concurrent use.
type KeyStore interface {
	// New makes a key. Its text is what the journal and the private key's file hold, and what Open
	// takes: the key itself in PEM form, or a reference to a key that cannot leave its hardware.
	// Open returns an error that wraps [ErrUnavailable] where the key may be whole but cannot be
	// reached.
	//
	// Where keys take room in the hardware, they have a method Remove() error, which is called once
	// no file refers to the key any more.
	New() (key crypto.Signer, text []byte, err error)
	Open(text []byte) (crypto.Signer, error)
}

// ErrUnavailable is wrapped by the errors of a [KeyStore] whose hardware, or whose support in this
// program, is missing. The identity is not damaged.
var ErrUnavailable = errors.New("the private key's hardware cannot be used")

// SoftwareKeys are ECDSA P-256 keys in PKCS #8 PEM. Open reads every form that [awsiot.PrivateKey]
// reads.
type SoftwareKeys struct{}

// New makes a P-256 key.
func (SoftwareKeys) New() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// Open reads a private key. Its errors quote nothing of the text.
func (SoftwareKeys) Open(text []byte) (crypto.Signer, error) { return awsiot.PrivateKey(text) }

// parseChain reads the first certificate of a PEM text, and of the others those that signed it.
func parseChain(text []byte) ([]*x509.Certificate, error) {
	certs, err := awsiot.Certificates(text)
	if err != nil {
		return nil, err
	}
	return awsiot.Chain(certs[0], certs[1:]), nil
}
