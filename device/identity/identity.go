// Package identity keeps a device's identity on disk: its private key, its
// certificate, the record that describes them, and the journal of a
// provisioning in progress. It knows nothing of MQTT or of AWS's API.
//
// An identity is never partially written. While a device is being provisioned,
// all that it has is in the [Journal]. [Journal.Commit] is the one atomic step:
// from then on the new identity is the device's, and [Journal.Install], which
// can be repeated after a crash until it is complete, writes the final files.
// An identity that is being replaced stays untouched until then.
//
// Nothing that is not this identity's own is ever overwritten or removed: a file
// at one of its paths that it did not write is renamed, and a path that belongs
// to the claim or to another device is an error before anything is written.
//
// As ssh does, the package writes only where no one else can: in directories that
// belong to root or to the process's own user, and that nobody else may write to.
// A directory is also trusted when its sticky bit is set, since what others put
// there is known by its owner, or when only root's group or the process's own may
// write to it. See [AccessError].
package identity

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
)

// ErrNone is returned by [Store.Load] when the device has no identity yet.
var ErrNone = errors.New("no device identity yet")

// An Identity is what a provisioned device presents to AWS IoT. Its key matches
// its certificate, and its record names that certificate.
type Identity struct {
	Record      Record
	Files       Files
	Certificate *x509.Certificate
	// Issuers are the certificates that signed Certificate, the nearest first, as far
	// as they came with it. AWS IoT's own certificates come without.
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
