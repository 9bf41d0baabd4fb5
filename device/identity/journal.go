package identity

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
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
	Committed                    // a connection with the new certificate worked
)

var stageNames = [...]string{"empty", "key made", "certificate held", "registered", "committed"}

// String returns the stage in words.
func (s Stage) String() string {
	if s < 0 || int(s) >= len(stageNames) {
		return fmt.Sprintf("stage %d", int(s))
	}
	return stageNames[s]
}

// A Journal is one provisioning under way, and the lock on its store. It is
// not safe for concurrent use. Its methods that store a step return only when
// the step is durable; after an error the step counts as not done, and the
// journal can be used on.
type Journal struct {
	store *Store
	lock  lock
	state state
	key   crypto.Signer
	cert  *x509.Certificate
	// finished is the identity whose commit Begin completed.
	finished *Identity
}

// Stage returns how far the provisioning has come.
func (j *Journal) Stage() Stage { return j.state.Stage }

// Key returns the device's key, nil before [KeyMade].
func (j *Journal) Key() crypto.Signer { return j.key }

// Certificate returns the certificate, nil before [CertificateHeld].
func (j *Journal) Certificate() *x509.Certificate { return j.cert }

// TLS returns key and certificate as a client certificate, nil before
// [CertificateHeld].
func (j *Journal) TLS() *tls.Certificate {
	if j.cert == nil {
		return nil
	}
	return clientCertificate(j.cert, j.key)
}

// Token returns the certificate ownership token, a secret, and when it
// expires. It is empty before [CertificateHeld].
func (j *Journal) Token() (token string, expires time.Time) {
	return j.state.Token, j.state.TokenExpires
}

// ThingName returns the thing's name, empty before [Registered].
func (j *Journal) ThingName() string { return j.state.Record.ThingName }

// MakeKey makes a key and stores it.
func (j *Journal) MakeKey() error {
	if err := j.at(Empty); err != nil {
		return err
	}
	text, err := j.store.config.Keys.New()
	if err != nil {
		return fmt.Errorf("making key: %w", err)
	}
	next := j.state
	next.Stage, next.KeyPEM = KeyMade, string(text)
	return j.save(next)
}

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
// certificate that was held before, whose token has expired.
func (j *Journal) HoldCertificate(g Grant) error {
	if err := j.at(Empty, KeyMade, CertificateHeld); err != nil {
		return err
	}
	next := j.state
	next.Stage = CertificateHeld
	next.CertificatePEM, next.Token, next.TokenExpires = g.CertificatePEM, g.Token, g.TokenExpires.UTC()
	if g.PrivateKeyPEM != "" {
		next.KeyPEM = g.PrivateKeyPEM
	}
	key, cert, err := j.store.open(&next)
	if err != nil {
		return &CertificateError{Reason: err.Error()}
	}
	if id := CertificateID(cert); id != g.CertificateID {
		return &CertificateError{Reason: fmt.Sprintf("its id is %q, its SHA-256 is %s", g.CertificateID, id)}
	}
	if !fits(key, cert) {
		return &CertificateError{Reason: "it is for another key than this device's"}
	}
	next.Record = Record{
		FormatVersion: RecordVersion,
		SerialNumber:  next.SerialNumber,
		CertificateID: g.CertificateID,
		NotAfter:      cert.NotAfter.UTC(),
		IssuedAt:      j.store.now(),
	}
	return j.save(next)
}

// A Registration is what is known of the thing once it is registered.
type Registration struct {
	ThingName           string            // valid by [ValidThingName]
	DeviceConfiguration map[string]string // nil when the answer was lost
	Endpoint            string
	Author              string
}

// Register stores that AWS IoT has registered the thing. The token has done
// its work and is forgotten.
func (j *Journal) Register(r Registration) error {
	if err := j.at(CertificateHeld); err != nil {
		return err
	}
	if !ValidThingName(r.ThingName) {
		return fmt.Errorf("%q is no valid thing name", r.ThingName)
	}
	next := j.state
	next.Stage, next.Token, next.TokenExpires = Registered, "", time.Time{}
	next.Record.ThingName = r.ThingName
	next.Record.DeviceConfiguration = maps.Clone(r.DeviceConfiguration)
	next.Record.Endpoint = r.Endpoint
	next.Record.Author = r.Author
	next.Record.RegisteredAt = j.store.now()
	return j.save(next)
}

// Commit stores that a connection with the new certificate worked. From here
// on it is the device's identity; [Journal.Install] writes its files.
func (j *Journal) Commit() error {
	if err := j.at(Registered); err != nil {
		return err
	}
	next := j.state
	next.Stage = Committed
	next.Record.ProvedAt = j.store.now()
	old, files, err := j.store.oldRecord()
	if err != nil {
		return err
	}
	if old != nil {
		next.Replaced, next.Record.Replaces = &files, old.CertificateID
		// An earlier commit of this very identity was interrupted and the
		// journal's newest state lost.
		if old.CertificateID == next.Record.CertificateID {
			next.Record.Replaces = old.Replaces
		}
	}
	return j.save(next)
}

// DiscardCertificate drops certificate and registration and keeps the device's
// key, for a certificate that AWS IoT no longer accepts.
func (j *Journal) DiscardCertificate() error {
	if err := j.at(CertificateHeld, Registered); err != nil {
		return err
	}
	next := j.state
	next.Stage, next.CertificatePEM, next.Token, next.TokenExpires, next.Record = KeyMade, "", "", time.Time{}, Record{}
	return j.save(next)
}

// Finished returns the identity whose commit an earlier run had begun and
// [Store.Begin] has completed, else nil.
func (j *Journal) Finished() *Identity { return j.finished }

// Close releases the lock. What the journal holds stays for the next run; an
// empty journal leaves nothing behind.
func (j *Journal) Close() error {
	if j.Stage() != Empty {
		return j.lock.Release()
	}
	err := j.lock.RemoveAndRelease()
	_ = j.store.disk.Remove(j.store.journalDir()) // stays if a run has begun meanwhile
	return err
}

// at returns an error unless the journal is at one of stages.
func (j *Journal) at(stages ...Stage) error {
	for _, s := range stages {
		if j.Stage() == s {
			return nil
		}
	}
	return fmt.Errorf("provisioning journal is at %q, not at %q", j.Stage(), stages)
}

// save makes next durable, then the journal's own.
func (j *Journal) save(next state) error {
	now := j.store.now()
	next.Sequence++
	next.Updated = now
	if next.Started.IsZero() {
		next.Started = now
	}
	key, cert := j.key, j.cert
	if next.KeyPEM != j.state.KeyPEM || next.CertificatePEM != j.state.CertificatePEM {
		var err error
		if key, cert, err = j.store.open(&next); err != nil {
			return err
		}
	}
	if err := j.store.slots().write(&next); err != nil {
		return fmt.Errorf("storing %q: %w", next.Stage, err)
	}
	j.state, j.key, j.cert = next, key, cert
	return nil
}
