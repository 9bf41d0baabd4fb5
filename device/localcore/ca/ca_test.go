package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *ca.Authority {
	t.Helper()
	a, err := ca.Open(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// issue returns a certificate for a key of the authority.
func issue(t *testing.T, now time.Time) (ca.Credential, *x509.Certificate) {
	t.Helper()
	c, err := open(t, "").IssueKeys(ca.NewKey, now)
	if err != nil {
		t.Fatal(err)
	}
	return c, parse(t, c)
}

func parse(t *testing.T, c ca.Credential) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(c.CertificatePEM)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func csrFor(t *testing.T, key any, template *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// An attribute is one of a name, with its ASN.1 type.
type attribute struct {
	OID   string
	Tag   int
	Value string
}

// attributes decodes a name with one attribute in each set.
func attributes(t *testing.T, raw []byte) []attribute {
	t.Helper()
	type pair struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type setSET []pair
	var sets []setSET
	if rest, err := asn1.Unmarshal(raw, &sets); err != nil || len(rest) > 0 {
		t.Fatalf("name %x: %v", raw, err)
	}
	var out []attribute
	for _, set := range sets {
		for _, p := range set {
			out = append(out, attribute{p.Type.String(), p.Value.Tag, string(p.Value.Bytes)})
		}
	}
	return out
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-certs-create.html:
// a certificate has AWS's issuer and subject, a serial of 20 octets,
// sha256WithRSAEncryption, RSA of 2048 bits, and ends with the year 2049. It begins two minutes before
// it is issued: https://docs.aws.amazon.com/cli/latest/reference/iot/describe-certificate.html.
func TestIssuedCertificateLooksLikeAWSs(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	issued, c := issue(t, now)
	if c.Version != 3 {
		t.Errorf("version %d", c.Version)
	}
	if n := len(c.SerialNumber.Bytes()); n != 20 {
		t.Errorf("the serial has %d octets", n)
	}
	if c.SignatureAlgorithm != x509.SHA256WithRSA {
		t.Errorf("signed with %v", c.SignatureAlgorithm)
	}
	issuer := []attribute{{"2.5.4.11", asn1.TagUTF8String, "Amazon Web Services O=Amazon.com Inc. L=Seattle ST=Washington C=US"}}
	if diff := cmp.Diff(issuer, attributes(t, c.RawIssuer)); diff != "" {
		t.Errorf("issuer %s", diff)
	}
	subject := []attribute{{"2.5.4.3", asn1.TagUTF8String, "AWS IoT Certificate"}}
	if diff := cmp.Diff(subject, attributes(t, c.RawSubject)); diff != "" {
		t.Errorf("subject %s", diff)
	}
	if !c.NotBefore.Equal(now.Add(-2 * time.Minute)) {
		t.Errorf("not before %v", c.NotBefore)
	}
	if !c.NotAfter.Equal(time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC)) || !bytes.Contains(c.Raw, []byte("491231235959Z")) {
		t.Errorf("not after %v", c.NotAfter)
	}
	key, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() != 2048 || key.E != 65537 {
		t.Errorf("key %T", c.PublicKey)
	}
	if sum := sha256.Sum256(c.Raw); issued.CertificateID != hex.EncodeToString(sum[:]) {
		t.Errorf("id %s", issued.CertificateID)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/device-certs-create.html:
// a certificate has key ids, CA:FALSE and digitalSignature, the latter two
// critical, and no other extension.
func TestExtensionsAreAWSsInAWSsOrder(t *testing.T) {
	t.Parallel()
	_, c := issue(t, time.Now())
	type extension struct {
		OID      string
		Critical bool
	}
	var got []extension
	for _, e := range c.Extensions {
		got = append(got, extension{e.Id.String(), e.Critical})
	}
	want := []extension{{"2.5.29.35", false}, {"2.5.29.14", false}, {"2.5.29.19", true}, {"2.5.29.15", true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("CA %v, key usage %v", c.IsCA, c.KeyUsage)
	}
	if len(c.ExtKeyUsage) > 0 || len(c.DNSNames) > 0 || len(c.CRLDistributionPoints) > 0 || len(c.IssuingCertificateURL) > 0 {
		t.Error("there is an extension that AWS has not")
	}
	if len(c.SubjectKeyId) != 20 || len(c.AuthorityKeyId) != 20 {
		t.Errorf("key ids %x and %x", c.SubjectKeyId, c.AuthorityKeyId)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateKeysAndCertificate.html:
// the private key is PKCS #1 and the certificate one PEM block without a chain.
func TestPEMFormsAreAWSs(t *testing.T) {
	t.Parallel()
	issued, c := issue(t, time.Now())
	block, rest := pem.Decode(issued.CertificatePEM)
	if block == nil || block.Type != "CERTIFICATE" || !bytes.Equal(block.Bytes, c.Raw) || len(rest) > 0 || !bytes.HasSuffix(issued.CertificatePEM, []byte("\n")) {
		t.Error("the certificate is not one PEM block with a newline at its end")
	}
	block, rest = pem.Decode(issued.PrivateKeyPEM)
	if block == nil || block.Type != "RSA PRIVATE KEY" || len(rest) > 0 {
		t.Fatal("the private key is not PKCS #1")
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil || !key.PublicKey.Equal(c.PublicKey) {
		t.Errorf("the private key is not that of the certificate: %v", err)
	}
	block, _ = pem.Decode(issued.PublicKeyPEM)
	if block == nil || block.Type != "PUBLIC KEY" {
		t.Error("the public key is not PKIX")
	}
}

func TestCredentialServesTLSWithItsKey(t *testing.T) {
	a := open(t, "")
	own, err := a.IssueKeys(ca.NewKey, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := own.TLS()
	if err != nil || !awsiot.Matches(pair.PrivateKey.(crypto.Signer), pair.Leaf) || awsiot.CertificateID(pair.Leaf) != own.CertificateID {
		t.Errorf("%v, %v", pair, err)
	}
	signed, err := a.IssueForCSR(csrFor(t, p256(t), &x509.CertificateRequest{}), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if pair, err := signed.TLS(); err == nil {
		t.Errorf("%v without a key", pair)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateCertificateFromCsr.html:
// a CSR's subject is kept and its extensions are not, and RSA signs keys on
// curves too.
func TestSubjectOfTheCSRIsKept(t *testing.T) {
	t.Parallel()
	subject := pkix.Name{CommonName: "device 7", Organization: []string{"Acme"}, SerialNumber: "2974685"}
	key := p256(t)
	issued, err := open(t, "").IssueForCSR(csrFor(t, key, &x509.CertificateRequest{Subject: subject, DNSNames: []string{"ignored.example"}}), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, issued)
	want, err := asn1.Marshal(subject.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.RawSubject, want) {
		t.Errorf("subject %v", c.Subject)
	}
	if c.SignatureAlgorithm != x509.SHA256WithRSA || !key.PublicKey.Equal(c.PublicKey) {
		t.Errorf("signed with %v", c.SignatureAlgorithm)
	}
	if len(c.DNSNames) > 0 || issued.PrivateKeyPEM != nil {
		t.Error("more was certified than AWS does")
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateCertificateFromCsr.html:
// the same CSR gives another certificate each time.
func TestSameCSRTwiceGivesTwoCertificates(t *testing.T) {
	t.Parallel()
	a, csr, now := open(t, ""), csrFor(t, p256(t), &x509.CertificateRequest{}), time.Now()
	first, err1 := a.IssueForCSR(csr, now)
	second, err2 := a.IssueForCSR(csr, now)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if first.CertificateID == second.CertificateID {
		t.Error("both have one id")
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateCertificateFromCsr.html:
// a CSR has 4096 characters at most, a signature that fits, and a key of an
// allowed kind.
func TestCSRThatAWSRejects(t *testing.T) {
	t.Parallel()
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := csrFor(t, p256(t), &x509.CertificateRequest{})
	block, _ := pem.Decode([]byte(good))
	spoilt := bytes.Clone(block.Bytes)
	spoilt[len(spoilt)-1] ^= 1
	for name, test := range map[string]struct{ csr, reason string }{
		"empty":           {"", "0 characters"},
		"too long":        {good + strings.Repeat("\n", 4097-len(good)), "4097 characters"},
		"no PEM":          {"hello", "PEM"},
		"a certificate":   {string(open(t, "").RootPEM()), "PEM"},
		"no DER":          {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")})), "asn1"},
		"P-224":           {csrFor(t, p224, &x509.CertificateRequest{}), "P-224"},
		"wrong signature": {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: spoilt})), "signature"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(t, "").IssueForCSR(test.csr, time.Now())
			rejection, ok := errors.AsType[*ca.CSRError](err)
			if !ok || !strings.Contains(rejection.Reason, test.reason) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateCertificateFromCsr.html:
// a CSR may have a key on P-256, P-384 or P-521.
func TestKeysThatAWSAccepts(t *testing.T) {
	t.Parallel()
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		t.Run(name, func(t *testing.T) {
			key, err := ecdsa.GenerateKey(curve, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := open(t, "").IssueForCSR(csrFor(t, key, &x509.CertificateRequest{}), time.Now()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestServerCertificateVerifiesForItsHosts(t *testing.T) {
	t.Parallel()
	a := open(t, "")
	server, err := a.ServerCertificate("localhost", "127.0.0.1", "::1", "*.iot.us-east-1.amazonaws.com")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(server.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.RootPEM())
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "abc-ats.iot.us-east-1.amazonaws.com"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Error(err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "example.com"}); err == nil {
		t.Error("it verifies for any host")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/x509-client-certs.html:
// device certificates do not chain to the root of the server's certificate.
func TestDeviceCertificatesDoNotChainToTheServerRoot(t *testing.T) {
	t.Parallel()
	a := open(t, "")
	issued, err := a.IssueForCSR(csrFor(t, p256(t), &x509.CertificateRequest{}), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.RootPEM())
	if _, err := parse(t, issued).Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("it chains")
	}
}

func TestAuthorityIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := open(t, dir), open(t, dir)
	if !bytes.Equal(first.RootPEM(), second.RootPEM()) {
		t.Error("the root changed")
	}
	info, err := os.Stat(filepath.Join(dir, "authority.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file %v, %v", info, err)
	}
}

func TestSpoiltAuthorityIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "authority.pem")
	open(t, dir)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string // key and certificate of the issuer, then those of the root
	for block, rest := pem.Decode(whole); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, string(pem.EncodeToMemory(block)))
	}
	if len(blocks) != 4 || strings.Join(blocks, "") != string(whole) {
		t.Fatalf("the file has %d blocks", len(blocks))
	}
	for name, text := range map[string]string{
		"no PEM":                    "spoilt",
		"empty":                     "",
		"a key alone":               blocks[0],
		"the issuer alone":          blocks[0] + blocks[1],
		"no certificate of a root":  blocks[0] + blocks[1] + blocks[2],
		"no certificate of issuer":  blocks[0] + blocks[2] + blocks[3],
		"certificates changed over": blocks[0] + blocks[3] + blocks[2] + blocks[1],
		"cut in a block":            string(whole[:len(whole)-40]),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ca.Open(dir, false); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v", name, err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != text {
			t.Errorf("%s: the file was overwritten", name)
		}
	}
}

func FuzzIssueForCSR(f *testing.F) {
	a, err := ca.Open("", false)
	if err != nil {
		f.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add([]byte{0x30, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		csr := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
		issued, err := a.IssueForCSR(csr, time.Now())
		if (issued.CertificateID == "") == (err == nil) {
			t.Errorf("certificate %v with error %v", issued, err)
		}
	})
}

func BenchmarkIssueForCSR(b *testing.B) {
	a, err := ca.Open("", false)
	if err != nil {
		b.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		b.Fatal(err)
	}
	csr := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	for b.Loop() {
		if _, err := a.IssueForCSR(csr, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

// A fast issuer differs in its signature alone, and its key is kept like another.
func TestFastIssuerSignsOnACurve(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var issuers []*x509.Certificate
	for _, fast := range []bool{true, false} { // the second opens what the first made
		a, err := ca.Open(dir, fast)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		issued, err := a.IssueForCSR(csrFor(t, key, &x509.CertificateRequest{}), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		c := parse(t, issued)
		if c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
			t.Errorf("signed with %v", c.SignatureAlgorithm)
		}
		issuers = append(issuers, c)
	}
	if diff := cmp.Diff(issuers[0].AuthorityKeyId, issuers[1].AuthorityKeyId); diff != "" {
		t.Errorf("another issuer after it was opened again: %s", diff)
	}
}
