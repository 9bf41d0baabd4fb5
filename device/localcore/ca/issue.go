package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"time"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

const (
	keyBits    = 2048
	maxCSRSize = 4096 // characters of PEM, by AWS's API model
)

// notAfter ends every certificate that AWS IoT issues.
var notAfter = time.Date(2049, time.December, 31, 23, 59, 59, 0, time.UTC)

// Names as AWS writes them: UTF8String, where crypto/x509 would write PrintableString. The issuer
// is one organizational unit whose text looks like several attributes.
var (
	issuerName    = utf8Name(asn1.ObjectIdentifier{2, 5, 4, 11}, "Amazon Web Services O=Amazon.com Inc. L=Seattle ST=Washington C=US")
	deviceSubject = utf8Name(asn1.ObjectIdentifier{2, 5, 4, 3}, "AWS IoT Certificate")
)

// A Credential is an issued certificate, with its key if the authority made it, in PEM form.
type Credential struct {
	CertificateID  string `json:"certificateId"` // see [awsiot.CertificateID]
	CertificatePEM []byte `json:"certificatePem"`
	PrivateKeyPEM  []byte `json:"privateKey"` // secret; PKCS #1
	PublicKeyPEM   []byte `json:"publicKey"`  // PKIX
}

// String names the certificate; the key does not show.
func (c Credential) String() string { return "certificate " + c.CertificateID }

// GoString is String.
func (c Credential) GoString() string { return c.String() }

// LogValue is String.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// TLS returns the certificate with its key, as crypto/tls takes it. The error is that of a credential
// without a key, as one for a CSR is.
func (c Credential) TLS() (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(c.CertificatePEM, c.PrivateKeyPEM)
	if err != nil {
		return nil, fmt.Errorf("%v with its key: %w", c, err)
	}
	return &pair, nil
}

// A CSRError says what is wrong with a certificate signing request.
type CSRError struct{ Reason string }

// Error returns the reason.
func (e *CSRError) Error() string { return "certificate signing request: " + e.Reason }

// IssueKeys certifies a key that newKey makes, [NewKey] for instance, as CreateKeysAndCertificate does.
func (a *Authority) IssueKeys(newKey func() (*rsa.PrivateKey, error), now time.Time) (c Credential, err error) {
	key, err := newKey()
	if err != nil {
		return c, fmt.Errorf("making a key: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return c, fmt.Errorf("issuing a certificate: %w", err)
	}
	c, err = a.issue(key.Public(), publicDER, deviceSubject, now)
	c.PrivateKeyPEM, c.PublicKeyPEM = encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)), encode("PUBLIC KEY", publicDER)
	return c, err
}

// IssueForCSR certifies the key of a certificate signing request in PEM form
// and keeps its subject. What AWS IoT would reject is a *CSRError.
func (a *Authority) IssueForCSR(csrPEM string, now time.Time) (Credential, error) {
	csr, err := ParseCSR(csrPEM)
	if err != nil {
		return Credential{}, err
	}
	return a.issue(csr.PublicKey, csr.RawSubjectPublicKeyInfo, csr.RawSubject, now)
}

func (a *Authority) issue(public crypto.PublicKey, publicDER, rawSubject []byte, now time.Time) (c Credential, err error) {
	issuer, err := a.issuer()
	if err != nil {
		return c, fmt.Errorf("issuing a certificate: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(publicDER, &info); err != nil {
		return c, fmt.Errorf("issuing a certificate: %w", err)
	}
	keyID := sha1.Sum(info.Key.Bytes) // RFC 5280, 4.2.1.2, method 1
	var serial [20]byte               // all of whose octets count, where crypto/x509 would leave out leading zeros
	rand.Read(serial[:])
	serial[0] = serial[0]&0x7f | 0x40
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]),
		RawSubject:   rawSubject,
		// As in https://docs.aws.amazon.com/cli/latest/reference/iot/describe-certificate.html: clocks
		// differ, and are set back.
		NotBefore: now.Add(-2 * time.Minute),
		NotAfter:  notAfter,
		// The four extensions of AWS's certificates in AWS's order, which crypto/x509 would change.
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 35}, Value: marshal(struct {
				ID []byte `asn1:"tag:0"`
			}{issuer.Leaf.SubjectKeyId})},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 14}, Value: marshal(keyID[:])},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: marshal(struct{}{})},                                        // CA:FALSE is an empty sequence
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: marshal(asn1.BitString{Bytes: []byte{0x80}, BitLength: 1})}, // digitalSignature
		},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Leaf, public, issuer.PrivateKey)
	if err != nil {
		return c, fmt.Errorf("issuing a certificate: %w", err)
	}
	return Credential{CertificateID: awsiot.CertificateID(&x509.Certificate{Raw: der}), CertificatePEM: encode("CERTIFICATE", der)}, nil
}

// ParseCSR reads a request and checks what AWS IoT checks: size, key and signature. The error is a
// *CSRError.
func ParseCSR(csrPEM string) (*x509.CertificateRequest, error) {
	if n := utf8.RuneCountInString(csrPEM); n == 0 || n > maxCSRSize {
		return nil, &CSRError{fmt.Sprintf("has %d characters; 1 to %d are allowed", n, maxCSRSize)}
	}
	block, _ := pem.Decode([]byte(csrPEM))
	if block == nil || (block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST") {
		return nil, &CSRError{"is not in PEM form (BEGIN CERTIFICATE REQUEST)"}
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, &CSRError{err.Error()}
	}
	if err := awsiot.CheckKey(csr.PublicKey); err != nil {
		return nil, &CSRError{err.Error()}
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, &CSRError{"its signature does not fit its key: " + err.Error()}
	}
	return csr, nil
}

// utf8Name encodes a name of one attribute.
func utf8Name(oid asn1.ObjectIdentifier, value string) []byte {
	return marshal(pkix.RDNSequence{{{Type: oid, Value: asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(value)}}}})
}

// marshal encodes a value that cannot fail to be encoded.
func marshal(value any) []byte {
	der, err := asn1.Marshal(value)
	if err != nil {
		panic("ca: encoding a constant: " + err.Error())
	}
	return der
}
