package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
)

// newCertificate issues a certificate whose serial number is the one of AWS's example, page
// use-policy-variables.
func newCertificate(t *testing.T, issuer, subject []pkix.AttributeTypeAndValue) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber:    new(big.Int).SetUint64(0x921285cbb7a5e086),
		Subject:         pkix.Name{ExtraNames: subject},
		ExtraExtensions: []pkix.Extension{alternativeNames(t, oidSubjectAlternative), alternativeNames(t, oidIssuerAlternative)},
	}
	parent := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{ExtraNames: issuer}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func alternativeNames(t *testing.T, oid asn1.ObjectIdentifier) pkix.Extension {
	t.Helper()
	directory, err := asn1.Marshal(pkix.Name{Organization: []string{"Example Corp"}, Country: []string{"US"}}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	context := func(tag int, contents []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: tag == tagDirectory, Bytes: contents}
	}
	names := []asn1.RawValue{
		context(tagDNS, []byte("example.com")),
		context(tagDNS, []byte("*.example.com")),
		context(tagDNS, []byte("third.example.com")),
		context(tagIP, net.IPv4(1, 2, 3, 4).To4()),
		context(tagEmail, []byte("device@example.com")),
		context(tagURI, []byte("https://example.com/a")),
		context(tagDirectory, directory),
	}
	if oid.Equal(oidIssuerAlternative) { // crypto/x509 rejects it elsewhere
		names = append(names, context(tagIP, []byte{1}))
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oid, Value: value}
}

func attribute(arc int, value string) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, arc}, Value: value}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/cert-policy-variables.html:
// a policy can use subject, issuer, serial number and alternative names of the client's
// certificate.
func TestCertificateVariables(t *testing.T) {
	var subject []pkix.AttributeTypeAndValue
	names := slices.DeleteFunc(slices.Clone(nameFields), func(a attributeName) bool { return a.tag != 0 })
	for _, known := range names {
		subject = append(subject, attribute(known.oid, "my "+known.name))
	}
	subject = append(subject,
		attribute(6, "DE"), attribute(6, "FR"), attribute(6, "IT"), attribute(6, "ES"), attribute(6, "PT"),
		attribute(10, "Wild*"), attribute(10, `Any, "Company"`), attribute(10, strings.Repeat("x", maxValue+1)),
	)
	c := newCertificate(t, []pkix.AttributeTypeAndValue{attribute(11, "Amazon Web Services O=Amazon.com Inc.")}, subject)
	digest := sha256.Sum256(c.Raw)

	tests := map[string][]string{
		"iot:CertificateId":                             {hex.EncodeToString(digest[:])},
		"iot:Certificate.SerialNumber":                  {"10525622389124227206"},
		"iot:Certificate.Issuer.OrganizationalUnit":     {`Amazon Web Services O\=Amazon.com Inc.`},
		"iot:Certificate.Issuer.CommonName":             nil,
		"iot:Certificate.Subject.Country":               {"my Country"},
		"iot:Certificate.Subject.Country.0":             {"my Country"},
		"iot:Certificate.Subject.Country.1":             {"DE"},
		"iot:Certificate.Subject.Country.4":             {"ES"},
		"iot:Certificate.Subject.Country.5":             nil,
		"iot:Certificate.Subject.Country.List":          {"my Country", "DE", "FR", "IT", "ES"},
		"iot:Certificate.Subject.Country.-1":            nil,
		"iot:Certificate.Subject.Country.all":           nil,
		"iot:Certificate.Subject.Organization.1":        nil,
		"iot:Certificate.Subject.Organization.2":        {`Any\, \"Company\"`},
		"iot:Certificate.Subject.Organization.3":        nil,
		"iot:Certificate.Subject.Organization.List":     {"my Organization", `Any\, \"Company\"`},
		"iot:Certificate.Subject.AlternativeName.Other": nil,
		"iot:Certificate.Other":                         nil,
	}
	for _, known := range names {
		tests["iot:Certificate.Subject."+known.name] = []string{"my " + known.name}
	}
	for _, side := range []string{"Subject", "Issuer"} {
		prefix := "iot:Certificate." + side + ".AlternativeName."
		tests[prefix+"DNSName"] = []string{"example.com"}
		tests[prefix+"DNSName.1"] = nil
		tests[prefix+"DNSName.List"] = []string{"example.com", "third.example.com"}
		tests[prefix+"IPAddress"] = []string{"1.2.3.4"}
		tests[prefix+"IPAddress.1"] = nil
		tests[prefix+"RFC822Name"] = []string{"device@example.com"}
		tests[prefix+"UniformResourceIdentifier"] = []string{"https://example.com/a"}
		tests[prefix+"DirectoryName"] = []string{"O=Example Corp,C=US"}
	}
	r := &Request{Session: &Session{Certificate: c}}
	for name, want := range tests {
		k := parseKey(name)
		if diff := cmp.Diff(want, k.values(nil, r)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/cert-policy-variables.html:
// a field that the certificate does not have resolves to nothing.
func TestCertificateAvailableKeys(t *testing.T) {
	c := newCertificate(t, []pkix.AttributeTypeAndValue{attribute(11, "OU")}, []pkix.AttributeTypeAndValue{attribute(3, "a"), attribute(6, "#")})
	k := parseKey("iot:Certificate.AvailableKeys")
	got := map[string]bool{}
	for _, name := range k.values(nil, &Request{Session: &Session{Certificate: c}}) {
		got[name] = true
	}
	for name, want := range map[string]bool{
		"iot:Certificate.SerialNumber":                    true,
		"iot:Certificate.Subject.CommonName":              true,
		"iot:Certificate.Issuer.OrganizationalUnit":       true,
		"iot:Certificate.Subject.AlternativeName.DNSName": true,
		"iot:Certificate.Subject.Country":                 false,
		"iot:Certificate.Issuer.CommonName":               false,
	} {
		if got[name] != want {
			t.Errorf("%s is available: %t, want %t", name, got[name], want)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/certificate-policy-examples.html:
// policies compare fields of the certificate in resources and conditions.
func TestCertificatePolicies(t *testing.T) {
	issued := func(organizations ...string) *Session {
		subject := []pkix.AttributeTypeAndValue{attribute(3, "device-7")}
		for _, o := range organizations {
			subject = append(subject, attribute(10, o))
		}
		return &Session{ClientID: "client1", Certificate: newCertificate(t, nil, subject)}
	}
	example, both, other := issued("Example Corp"), issued("AnyCompany", "Example Corp"), issued("AnyCompany", "Other")
	publish := func(s *Session, topic string) *Request { return request(s, "iot:Publish", "topic/"+topic) }

	organization := document(t, allow("iot:Publish", "topic/my/topic/${iot:ClientId}").
		when("ForAllValues:StringEquals", "iot:Certificate.Subject.Organization.List", "Example Corp", "AnyCompany"))
	runChecks(t, organization,
		check{publish(example, "my/topic/client1"), true},
		check{publish(both, "my/topic/client1"), true},
		check{publish(other, "my/topic/client1"), false})

	second := document(t, allow("iot:Publish", "topic/${iot:Certificate.Subject.Organization.1}"))
	runChecks(t, second,
		check{publish(other, "Other"), true},
		check{publish(example, "Other"), false},
		check{publish(example, "${iot:Certificate.Subject.Organization.1}"), false})

	named := document(t, allow("iot:Publish", "topic/${iot:CertificateId}", "topic/${iot:Certificate.Subject.CommonName}"))
	runChecks(t, named,
		check{publish(example, awsiot.CertificateID(example.Certificate)), true},
		check{publish(example, awsiot.CertificateID(other.Certificate)), false},
		check{publish(example, "device-7"), true},
		check{publish(stranger("client1"), "device-7"), false})
}
