package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
)

// A signer is a CA.
type signer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// sign makes a certificate for a key. A signer without a certificate signs its own.
func (s *signer) sign(t *testing.T, name string, key crypto.PublicKey, isCA bool) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true,
	}
	parent := s.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, s.key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

// newChain makes CAs that each sign the next one, and returns the last of them with its chain.
func newChain(t *testing.T, names ...string) (ca *signer, chain []*x509.Certificate) {
	t.Helper()
	for _, name := range names {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		next := &signer{key: key}
		if ca == nil {
			ca = next
		}
		next.cert = ca.sign(t, name, key.Public(), true)
		ca, chain = next, append([]*x509.Certificate{next.cert}, chain...)
	}
	return ca, chain
}

// The chain that comes with a certificate is kept with it, in the journal and in the files, and
// presented.
func TestChainIsKeptWithItsCertificate(t *testing.T) {
	ca, issuers := newChain(t, "Root", "Plant")
	dir := t.TempDir()
	s := realStore(t, dir)
	j, err := s.Begin()
	must(t, err)
	must(t, j.MakeKey())
	leaf := ca.sign(t, serial, j.Key().Public(), false)
	var text []byte
	var raw [][]byte
	for _, c := range append([]*x509.Certificate{leaf}, issuers...) {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		raw = append(raw, c.Raw)
	}
	must(t, j.HoldCertificate(Grant{CertificateID: awsiot.CertificateID(leaf), CertificatePEM: string(text), Token: "t", TokenExpires: time.Now().Add(time.Hour)}))
	for range 2 { // the second time as read from the disk
		if diff := cmp.Diff(raw, j.TLS().Certificate); diff != "" || !j.TLS().Leaf.Equal(leaf) {
			t.Errorf("journal at %s: %s", j.Stage(), diff)
		}
		must(t, j.Close())
		j, err = s.Begin()
		must(t, err)
	}
	must(t, errors.Join(j.Register(Registration{ThingName: "fleety_" + serial}), j.Commit()))
	installed, err := j.Install()
	must(t, errors.Join(err, j.Close()))
	loaded, err := realStore(t, dir).Load()
	must(t, err)
	for name, id := range map[string]*Identity{"installed": installed, "loaded": loaded} {
		if diff := cmp.Diff(raw, id.TLS().Certificate); diff != "" || len(id.Issuers) != 2 || !id.Certificate.Equal(leaf) || !id.Record.NotAfter.Equal(leaf.NotAfter) {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if data, err := os.ReadFile(loaded.Files.Certificate); err != nil || string(data) != string(text) {
		t.Errorf("certificate file: %v\n%s", err, data)
	}

	// What does not belong to the chain is not presented, and no reason to fail.
	_, others := newChain(t, "Other")
	more := append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: others[0].Raw})...)
	must(t, os.WriteFile(loaded.Files.Certificate, more, 0o644))
	if loaded, err = realStore(t, dir).Load(); err != nil || len(loaded.TLS().Certificate) != 3 {
		t.Errorf("with another certificate in the file: %+v, %v", loaded, err)
	}
	// A chain that was cut off is a damage: the program wrote it whole.
	must(t, os.WriteFile(loaded.Files.Certificate, text[:len(text)-40], 0o644))
	if _, err := realStore(t, dir).Load(); !isBroken(err) {
		t.Errorf("with a chain that was cut off: %v", err)
	}
}

func isBroken(err error) bool {
	ok := errors.Is(err, ErrBroken)
	return ok
}
