package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
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

// A Certificate is an issued device certificate.
type Certificate struct {
	ID  string // see [awsiot.CertificateID]
	PEM []byte
	// Of a key that the authority made, else nil: PKCS #1 and PKIX.
	PrivateKeyPEM, PublicKeyPEM []byte
}

// A CSRError says what is wrong with a certificate signing request.
type CSRError struct{ Reason string }

// Error returns the reason.
func (e *CSRError) Error() string { return "certificate signing request: " + e.Reason }

// IssueForKey certifies a key that the authority made for a device, as
// CreateKeysAndCertificate does.
func (a *Authority) IssueForKey(key *rsa.PrivateKey, now time.Time) (*Certificate, error) {
	publicDER, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	c, err := a.issue(key.Public(), publicDER, deviceSubject, now)
	if err != nil {
		return nil, err
	}
	c.PrivateKeyPEM, c.PublicKeyPEM = encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)), encode("PUBLIC KEY", publicDER)
	return c, nil
}

// IssueForCSR certifies the key of a certificate signing request in PEM form
// and keeps its subject. What AWS IoT would reject is a *CSRError.
func (a *Authority) IssueForCSR(csrPEM string, now time.Time) (*Certificate, error) {
	csr, err := ParseCSR(csrPEM)
	if err != nil {
		return nil, err
	}
	return a.issue(csr.PublicKey, csr.RawSubjectPublicKeyInfo, csr.RawSubject, now)
}

func (a *Authority) issue(public crypto.PublicKey, publicDER, rawSubject []byte, now time.Time) (*Certificate, error) {
	issuer, err := a.issuer()
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(publicDER, &info); err != nil {
		return nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	keyID := sha1.Sum(info.Key.Bytes) // RFC 5280, 4.2.1.2, method 1
	template := &x509.Certificate{
		SerialNumber: newSerial(),
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
		return nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	return &Certificate{ID: awsiot.CertificateID(&x509.Certificate{Raw: der}), PEM: encode("CERTIFICATE", der)}, nil
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
