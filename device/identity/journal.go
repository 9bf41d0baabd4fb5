package identity

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
)

// A Stage is how far a provisioning has come. Each is on stable storage before the next one begins.
type Stage int

// The stages, in order.
const (
	Empty           Stage = iota // nothing is stored
	KeyMade                      // the device's key is stored
	CertificateHeld              // so are the certificate and its ownership token
	Registered                   // AWS IoT has registered the thing
	Committed                    // a connection with the new certificate worked
)

// String returns the stage in words.
func (s Stage) String() string {
	return [...]string{"empty", "key made", "certificate held", "registered", "committed"}[s]
}

// A Journal records one provisioning in progress, and holds the lock on its store. It is not safe
// for concurrent use. Its methods that store a step return only when the step is durable; after an
// error the step counts as not done, and the journal can still be used.
type Journal struct {
	store    *Store
	unlock   osfile.Unlock
	state    state
	finished *Identity     // whose installation Begin completed
	replaced crypto.Signer // key of the identity that the committed one replaces
}

// Stage returns how far the provisioning has come.
func (j *Journal) Stage() Stage { return j.state.Stage }

// Key returns the device's key, nil before [KeyMade].
func (j *Journal) Key() crypto.Signer { return j.state.key }

// TLS returns key and certificate as a client certificate, nil before [CertificateHeld].
func (j *Journal) TLS() *tls.Certificate {
	if j.state.chain == nil {
		return nil
	}
	return j.state.identity(Files{}).TLS()
}

// Token returns the certificate ownership token, a secret, and when it expires. It is empty unless
// at [CertificateHeld].
func (j *Journal) Token() (token string, expires time.Time) {
	return j.state.Token, j.state.TokenExpires
}

// RequestedBy is as in [Grant], empty before [CertificateHeld].
func (j *Journal) RequestedBy() string { return j.state.RequestedBy }

// ThingName returns the thing's name, empty before [Registered].
func (j *Journal) ThingName() string { return j.state.Record.ThingName }

// MakeKey makes a key and stores it.
func (j *Journal) MakeKey() error {
	next, err := j.from(Empty)
	if err != nil {
		return err
	}
	key, text, err := j.store.config.Keys.New()
	if err != nil {
		return fmt.Errorf("making key: %w", err)
	}
	next.Stage, next.KeyPEM, next.key = KeyMade, string(text), key
	return j.save(next)
}

// A Grant is a certificate that AWS IoT issued to the device, not yet registered.
type Grant struct {
	CertificateID  string // as AWS IoT gave it
	CertificatePEM string // with the chain, if there is one, in any order
	PrivateKeyPEM  string // the key that AWS IoT made, empty if the device made it
	Token          string
	TokenExpires   time.Time
	// RequestedBy is the id of the certificate that authenticated the request: the claim's, or the
	// device's present one.
	RequestedBy string
}

// HoldCertificate stores a certificate and its token. It returns a *[CertificateError], and stores
// nothing, when the certificate is not for the journal's key or its id is not the SHA-256 of its
// DER. It replaces a certificate that was held before, whose token has expired.
func (j *Journal) HoldCertificate(g Grant) error {
	next, err := j.from(Empty, KeyMade, CertificateHeld)
	if err != nil {
		return err
	}
	next.Stage = CertificateHeld
	next.RequestedBy = g.RequestedBy
	next.Token, next.TokenExpires = g.Token, g.TokenExpires.UTC()
	if g.PrivateKeyPEM != "" {
		next.KeyPEM = g.PrivateKeyPEM
		if next.key, err = j.store.config.Keys.Open([]byte(next.KeyPEM)); err != nil {
			return &CertificateError{Reason: err.Error()}
		}
	}
	certificates, err := awsiot.Certificates([]byte(g.CertificatePEM))
	if err != nil {
		return &CertificateError{Reason: err.Error()}
	}
	own := slices.IndexFunc(certificates, func(c *x509.Certificate) bool { return awsiot.CertificateID(c) == g.CertificateID })
	if own < 0 {
		return &CertificateError{Reason: fmt.Sprintf("its id is %q, its SHA-256 is %s", g.CertificateID, awsiot.CertificateID(certificates[0]))}
	}
	cert := certificates[own]
	// Whatever else stands in the text is not stored.
	next.chain, next.CertificatePEM = awsiot.Chain(cert, certificates), ""
	for _, c := range next.chain {
		next.CertificatePEM += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	if next.key == nil || !awsiot.Matches(next.key, cert) {
		return &CertificateError{Reason: "it is for another key than this device's"}
	}
	next.Record = Record{
		FormatVersion: RecordVersion,
		SerialNumber:  next.SerialNumber,
		CertificateID: g.CertificateID,
		NotAfter:      cert.NotAfter.UTC(),
		RequestedBy:   g.RequestedBy,
		IssuedAt:      j.store.config.now(),
	}
	return j.save(next)
}

// A Registration is what is known of the thing once it is registered.
type Registration struct {
	ThingName           string         // valid by [awsiot.ThingNames], or empty: AWS IoT named none
	DeviceConfiguration map[string]any // nil when the answer was lost
	Endpoint            string
	Author              string
}

// Register stores that AWS IoT has registered the certificate and, where it named one, the thing.
// The token has served its purpose and is dropped.
func (j *Journal) Register(r Registration) error {
	next, err := j.from(CertificateHeld)
	if err == nil && r.ThingName != "" {
		err = j.nameThing(&next, r.ThingName)
	}
	if err != nil {
		return err
	}
	next.Stage, next.Token, next.TokenExpires = Registered, "", time.Time{}
	next.Record.DeviceConfiguration = maps.Clone(r.DeviceConfiguration)
	next.Record.Endpoint, next.Record.Author = r.Endpoint, r.Author
	next.Record.RegisteredAt = j.store.config.now()
	return j.save(next)
}

// NameThing stores the name of the thing where AWS IoT registered the certificate without one.
// Commit requires a name.
func (j *Journal) NameThing(name string) error {
	next, err := j.from(Registered)
	if err == nil {
		err = j.nameThing(&next, name)
	}
	if err != nil {
		return err
	}
	return j.save(next)
}

func (j *Journal) nameThing(next *state, name string) (err error) {
	if !awsiot.ThingNames.Valid(name) {
		return fmt.Errorf("%q is no valid thing name", name)
	}
	next.Record.ThingName = name
	next.FileBase, err = j.store.storage.fileBase(name)
	return classify(err)
}

// Commit stores that a connection with the new certificate worked. From here on it is the device's
// identity; [Journal.Install] writes its files.
func (j *Journal) Commit() error {
	next, err := j.from(Registered)
	if err != nil {
		return err
	}
	if next.Record.ThingName == "" {
		return errors.New("the provisioning has no thing name yet")
	}
	next.Stage = Committed
	next.Record.ProvedAt = j.store.config.now()
	if id, err := j.store.storage.load(); err == nil && id.Record.CertificateID != next.Record.CertificateID {
		j.replaced = id.Key
	}
	old, files, err := j.store.storage.replacing()
	if err != nil {
		return classify(err)
	}
	if next.Replaced = files; old != nil {
		next.Record.Replaces = old.CertificateID
		// This very identity was installed before, and then the journal's newest state lost.
		if old.CertificateID == next.Record.CertificateID {
			next.Record.Replaces = old.Replaces
		}
	}
	return j.save(next)
}

// Install writes the files of a committed identity, the record last, and ends the journal. The old
// identity, if any, is replaced; Record.Replaces names its certificate. Install may be repeated
// after an error or a crash: the next [Store.Begin] does so.
func (j *Journal) Install() (*Identity, error) {
	if _, err := j.from(Committed); err != nil {
		return nil, err
	}
	id, err := j.store.storage.install(&j.state)
	if err != nil {
		return nil, classify(fmt.Errorf("saving identity: %w", err))
	}
	if err := j.end(); err != nil {
		return nil, classify(fmt.Errorf("ending provisioning journal: %w", err))
	}
	j.store.removeKey(j.replaced)
	return id, nil
}

// removeKey gives back the room of a key that no file refers to any more. A run that is killed just
// before leaves the key where it is, unused.
func (s *Store) removeKey(key crypto.Signer) {
	if r, ok := key.(interface{ Remove() error }); ok {
		if err := r.Remove(); err != nil {
			s.config.Log.Warn("a key that is no longer used stays in its hardware", "error", err)
		}
	}
}

// end removes what the journal holds.
func (j *Journal) end() error {
	if err := j.store.storage.clearState(&j.state); err != nil {
		return err
	}
	j.state = state{SerialNumber: j.state.SerialNumber}
	return nil
}

// DiscardCertificate drops certificate and registration and keeps the device's key, for a
// certificate that AWS IoT no longer accepts.
func (j *Journal) DiscardCertificate() error {
	held, err := j.from(CertificateHeld, Registered)
	if err != nil {
		return err
	}
	return j.save(state{
		Sequence: held.Sequence, SerialNumber: held.SerialNumber, Stage: KeyMade, Started: held.Started,
		KeyPEM: held.KeyPEM, key: held.key,
	})
}

// Finished returns the identity whose installation an earlier run had begun and [Store.Begin] has
// completed, else nil.
func (j *Journal) Finished() *Identity { return j.finished }

// Close releases the lock. What the journal holds stays for the next run; an empty journal leaves
// nothing behind.
func (j *Journal) Close() error { return classify(j.unlock(j.Stage() == Empty)) }

// from returns a copy of the state, or an error unless it is at one of stages.
func (j *Journal) from(stages ...Stage) (state, error) {
	if !slices.Contains(stages, j.Stage()) {
		return state{}, fmt.Errorf("provisioning journal is at %q, not at %q", j.Stage(), stages)
	}
	return j.state, nil
}

// save makes next durable, then the journal's own.
func (j *Journal) save(next state) error {
	next.Sequence++
	next.Updated = j.store.config.now()
	if next.Started.IsZero() {
		next.Started = next.Updated
	}
	if err := j.store.storage.writeState(&next); err != nil {
		return classify(fmt.Errorf("storing %q: %w", next.Stage, err))
	}
	j.state = next
	return nil
}

// stateMagic and stateVersion, the version of the format, begin a journal.
const (
	stateMagic   = "fleety-journal"
	stateVersion = 1
)

// A state is all that a provisioning has: every step writes it anew, whole.
type state struct {
	Sequence     uint64    `json:"sequence"` // counts the writes, from 1
	SerialNumber string    `json:"serialNumber"`
	Stage        Stage     `json:"stage"`
	Started      time.Time `json:"started"`
	Updated      time.Time `json:"updated"`

	// From KeyMade.
	KeyPEM string        `json:"keyPem"`
	key    crypto.Signer // as KeyPEM has it

	// From CertificateHeld.
	CertificatePEM string              `json:"certificatePem,omitempty"`
	chain          []*x509.Certificate // as CertificatePEM has it, the device's own first
	RequestedBy    string              `json:"requestedBy,omitempty"`
	Token          string              `json:"token,omitempty"`
	TokenExpires   time.Time           `json:"tokenExpires,omitzero"`

	Record   Record         `json:"record,omitzero"`    // filled in as its parts become known; whole from Committed
	FileBase string         `json:"fileBase,omitempty"` // of the names of the identity's files, from Registered; empty means the thing's name
	Replaced *replacedFiles `json:"replaces,omitempty"` // the files of the identity before this one, from Committed
}

// replacedFiles may be overwritten or removed, as long as they have the content that they had when
// the new identity was committed. Their paths are not stored: they could name any file, and
// relative ones another one in the next run.
type replacedFiles struct {
	Base string   `json:"base"`   // of their names; empty for those that are configured
	Sums []string `json:"sha256"` // in the order of Files.all, of those that belong together
}

func (s *state) base() string { return cmp.Or(s.FileBase, s.Record.ThingName) }

// identity returns the identity of a state from CertificateHeld.
func (s *state) identity(f Files) *Identity {
	return &Identity{Record: s.Record, Files: f, Certificate: s.chain[0], Issuers: s.chain[1:], Key: s.key}
}

// open reads key and certificate, and checks what anyone may have written into a journal: a
// checksum is no signature.
func (s *state) open(c *Config) (err error) {
	switch {
	case s.SerialNumber != c.SerialNumber:
		return fmt.Errorf("is of serial number %q", s.SerialNumber)
	case s.Stage == Registered && s.base() == "": // AWS IoT named no thing
	case s.Stage >= Registered && !c.isFileBase(s.base(), s.Record.ThingName):
		return fmt.Errorf("names the thing %q and its files %q", s.Record.ThingName, s.base())
	}
	if r := s.Replaced; r != nil && r.Base != "" {
		if thing, _, _ := strings.Cut(r.Base, "~"); !c.isFileBase(r.Base, thing) {
			return fmt.Errorf("would replace the files %q", r.Base)
		}
	}
	if s.KeyPEM != "" {
		if s.key, err = c.Keys.Open([]byte(s.KeyPEM)); err != nil {
			return err
		}
	}
	if s.CertificatePEM != "" {
		if s.chain, err = parseChain([]byte(s.CertificatePEM)); err != nil {
			return err
		}
	}
	switch {
	case s.key == nil || s.Stage >= CertificateHeld && s.chain == nil:
		return errors.New("key or certificate is missing")
	case s.chain != nil && !awsiot.Matches(s.key, s.chain[0]):
		return errors.New("key and certificate do not match")
	case s.chain != nil && awsiot.CertificateID(s.chain[0]) != s.Record.CertificateID:
		return errors.New("certificate and record do not match")
	}
	return nil
}

// encode writes a line with format, version and checksum, then the state.
func (s *state) encode() ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s %d %s\n%s", stateMagic, stateVersion, checksum(body), body), nil
}

// errDamaged reports that a journal is not what was written.
var errDamaged = errors.New("damaged")

// decodeState reads what encode wrote. It returns errDamaged for anything else, except for a
// journal of another version.
func decodeState(data []byte) (*state, error) {
	header, body, _ := bytes.Cut(data, []byte("\n"))
	var version int
	var sum string
	if _, err := fmt.Sscanf(string(header), stateMagic+" %d %s", &version, &sum); err != nil {
		return nil, errDamaged
	}
	if version != stateVersion {
		return nil, fmt.Errorf("has format version %d, this program reads version %d: use the program that wrote it", version, stateVersion)
	}
	if sum != checksum(body) {
		return nil, errDamaged
	}
	var s state
	if err := awsiot.DecodeJSON(body, &s); err != nil || s.Stage < KeyMade || s.Stage > Committed || s.Sequence == 0 {
		return nil, errDamaged
	}
	return &s, nil
}

func checksum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}
