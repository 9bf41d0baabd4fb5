package awsiot_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"example.com/fleety/device/awsiot"
)

const ecParameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"

// pair returns a key and its certificate, as values and as PEM.
func pair(t testing.TB) (key *ecdsa.PrivateKey, cert *x509.Certificate, keyPEM, certPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return key, cert, encode("EC PRIVATE KEY", sec1), encode("CERTIFICATE", der)
}

func TestPEMIsReadAsPeopleHaveIt(t *testing.T) {
	t.Parallel()
	key, cert, keyPEM, certPEM := pair(t)
	indent := func(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n\t") }
	for name, text := range map[string]string{
		"key first":              keyPEM + certPEM,
		"certificate first":      certPEM + keyPEM,
		"EC parameters first":    ecParameters + keyPEM + certPEM,
		"byte order mark":        "\ufeff" + keyPEM + certPEM,
		"mark where files met":   keyPEM + "\ufeff" + certPEM,
		"carriage returns":       strings.ReplaceAll(keyPEM+certPEM, "\n", "\r\n"),
		"indented":               indent(keyPEM + certPEM),
		"pasted from JSON":       strings.ReplaceAll(keyPEM+certPEM, "\n", `\n`),
		"pasted from JSON, CRLF": `"` + strings.ReplaceAll(keyPEM+certPEM, "\n", `\r\n`) + `"`,
		"no newline between":     strings.TrimSpace(keyPEM) + strings.TrimSpace(certPEM),
		"on one line":            strings.ReplaceAll(keyPEM+certPEM, "\n", " "),
		"each on one line":       strings.ReplaceAll(keyPEM, "\n", `\n`) + "\n" + strings.ReplaceAll(certPEM, "\n", `\n`),
		"carriage returns alone": strings.ReplaceAll(keyPEM+certPEM, "\n", "\r"),
		"blank lines":            strings.ReplaceAll(keyPEM+certPEM, "\n", "\n\n"),
		"Windows-1252 prose":     "\x93claim\x94\r\n" + certPEM + keyPEM,
		"with prose":             "subject=CN = a\n" + certPEM + "\nBag Attributes\n" + keyPEM + "the end",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := awsiot.PrivateKey([]byte(text))
			if err != nil {
				t.Fatalf("key: %v", err)
			}
			if !key.Equal(got.(crypto.PrivateKey)) {
				t.Error("read another key")
			}
			certs, err := awsiot.Certificates([]byte(text))
			if err != nil {
				t.Fatalf("certificates: %v", err)
			}
			if len(certs) != 1 || !certs[0].Equal(cert) {
				t.Errorf("read %d certificates", len(certs))
			}
			if !awsiot.Matches(got, cert) {
				t.Error("key and certificate do not match")
			}
		})
	}
}

func TestEveryCertificateOfABundleIsRead(t *testing.T) {
	t.Parallel()
	_, first, _, a := pair(t)
	_, second, _, b := pair(t)
	certs, err := awsiot.Certificates([]byte("\ufeff" + a + b))
	if err != nil || len(certs) != 2 || !certs[0].Equal(first) || !certs[1].Equal(second) {
		t.Errorf("got %d certificates, %v", len(certs), err)
	}
}

func TestWhatIsNotPEMIsRejectedWithoutQuotingIt(t *testing.T) {
	t.Parallel()
	key, cert, keyPEM, certPEM := pair(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	wide := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(keyPEM)) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	damaged := certPEM + strings.Replace(certPEM, "-\nM", "-\n!", 1)
	for name, tc := range map[string]struct {
		text      string
		key, cert bool // whether it is an error as such
	}{
		"empty":             {" \n", true, true},
		"prose":             {"hello", true, true},
		"DER":               {string(der), true, true},
		"DER certificate":   {string(cert.Raw), true, true},
		"UTF-16":            {string(wide), true, true},
		"UTF-16 unmarked":   {string(wide[2:]), true, true},
		"truncated":         {keyPEM[:len(keyPEM)/2], true, true},
		"only certificate":  {certPEM, true, false},
		"only key":          {keyPEM, false, true},
		"encrypted PKCS #8": {"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n", true, true},
		"encrypted SEC 1":   {"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMAA=\n-----END EC PRIVATE KEY-----\n", true, true},
		"damaged key":       {"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", true, true},
		"one of two":        {damaged, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, keyErr := awsiot.PrivateKey([]byte(tc.text))
			_, certErr := awsiot.Certificates([]byte(tc.text))
			if (keyErr != nil) != tc.key || (certErr != nil) != tc.cert {
				t.Errorf("key: %v, certificate: %v", keyErr, certErr)
			}
			for _, err := range []error{keyErr, certErr} {
				if err != nil && len(tc.text) > 40 && strings.Contains(err.Error(), tc.text[20:40]) {
					t.Errorf("error quotes the text: %v", err)
				}
			}
		})
	}
}

func TestCertificateIDIsTheFingerprint(t *testing.T) {
	t.Parallel()
	_, cert, _, _ := pair(t)
	sum := sha256.Sum256(cert.Raw)
	if got := awsiot.CertificateID(cert); got != hex.EncodeToString(sum[:]) || !awsiot.ValidCertificateID(got) {
		t.Errorf("CertificateID = %s", got)
	}
}

func FuzzPEM(f *testing.F) {
	_, _, keyPEM, certPEM := pair(f)
	f.Add([]byte(ecParameters + keyPEM + certPEM))
	f.Add([]byte("\ufeff" + strings.ReplaceAll(certPEM, "\n", `\n`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		certs, err := awsiot.Certificates(text)
		if err == nil && len(certs) == 0 {
			t.Error("neither certificates nor an error")
		}
		if key, err := awsiot.PrivateKey(text); (key == nil) == (err == nil) {
			t.Errorf("key %v, error %v", key != nil, err)
		}
		if err == nil && !bytes.Contains(text, []byte("BEGIN CERTIFICATE")) {
			t.Error("a certificate from nowhere")
		}
	})
}

// Certificates may be in any order, with others between them.
func TestChainIsFoundAmongOtherCertificates(t *testing.T) {
	t.Parallel()
	issue := func(parent *x509.Certificate, signer *ecdsa.PrivateKey, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	root, rootKey := issue(nil, nil, "root")
	middle, middleKey := issue(root, rootKey, "middle")
	leaf, _ := issue(middle, middleKey, "leaf")
	twin, _ := issue(nil, nil, "middle") // of the same name
	for name, test := range map[string]struct{ others, want []*x509.Certificate }{
		"in order":               {[]*x509.Certificate{middle, root}, []*x509.Certificate{leaf, middle, root}},
		"backwards, with itself": {[]*x509.Certificate{root, middle, leaf}, []*x509.Certificate{leaf, middle, root}},
		"a gap":                  {[]*x509.Certificate{root}, []*x509.Certificate{leaf}},
		"one of the same name":   {[]*x509.Certificate{twin, middle}, []*x509.Certificate{leaf, middle}},
		"twice":                  {[]*x509.Certificate{middle, middle, root, root}, []*x509.Certificate{leaf, middle, root}},
		"nothing":                {nil, []*x509.Certificate{leaf}},
	} {
		got := awsiot.Chain(leaf, test.others)
		if !slices.EqualFunc(got, test.want, (*x509.Certificate).Equal) {
			t.Errorf("%s: %d certificates, want %d", name, len(got), len(test.want))
		}
	}
}
