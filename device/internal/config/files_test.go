package config_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/config"
)

// now is when the claim of these tests is valid: for a day before and after.
var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// A pair is a claim certificate with its key, in PEM form.
type pair struct{ certificate, key string }

func newPair(t *testing.T, marshal func(*ecdsa.PrivateKey) (kind string, der []byte, err error)) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "claim"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(24 * time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	kind, der, err := marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return pair{encode("CERTIFICATE", certificate), encode(kind, der)}
}

func pkcs8(key *ecdsa.PrivateKey) (string, []byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return "PRIVATE KEY", der, err
}

func sec1(key *ecdsa.PrivateKey) (string, []byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	return "EC PRIVATE KEY", der, err
}

// check writes the three files and checks a good configuration with them.
func check(t *testing.T, p pair, roots string, claim bool) (*config.Files, []string, error) {
	t.Helper()
	c, err := load(t, good+"bootstrap: {certificatepath: c.pem, privatekeypath: c.key, cacertificatepath: r.pem}\n", config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"c.pem": p.certificate, "c.key": p.key, "r.pem": roots} {
		if data != "" {
			if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return c.Check(claim)
}

func TestCheckTakesEveryFormOfKey(t *testing.T) {
	forms := map[string]func(*ecdsa.PrivateKey) (string, []byte, error){"PKCS 8": pkcs8, "SEC 1": sec1}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, form)
			f, warnings, err := check(t, p, p.certificate, true)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("warnings %q, error %v", warnings, err)
			}
			if len(f.Claims) != 1 || f.Roots == nil || f.Claims[0].Certificate.Leaf == nil {
				t.Errorf("incomplete: %+v", f)
			}
		})
	}
}

func TestCheckFindsAllThatIsWrongWithTheFiles(t *testing.T) {
	p, other := newPair(t, pkcs8), newPair(t, pkcs8)
	tests := map[string]struct {
		pair  pair
		roots string
		want  []string
	}{
		"nothing there": {pair{}, "", []string{
			"device.yaml:4:79: r.pem: no such file or directory; copy the root certificates there; to use the Amazon roots of this program, rename the file, and remove bootstrap.cacertificatepath where it is set",
			"device.yaml:4:30: c.pem: no such file or directory; copy the claim there, or correct the paths in the bootstrap section",
			"device.yaml:4:53: c.key: no such file or directory; copy the claim there, or correct the paths in the bootstrap section",
		}},
		"key of another certificate": {pair{p.certificate, other.key}, p.certificate, []string{
			"device.yaml:4:53: the key c.key does not belong to the certificate c.pem; use the two files that were made together",
		}},
		"files swapped": {pair{p.key, p.certificate}, p.certificate, []string{
			"device.yaml:4:30: c.pem: no certificate in it, only private key; copy the claim there, or correct the paths in the bootstrap section",
			`device.yaml:4:53: c.key: no private key in it, only certificate; copy the claim there, or correct the paths in the bootstrap section`,
		}},
		"encrypted key": {pair{p.certificate, strings.ReplaceAll(p.key, "PRIVATE", "ENCRYPTED PRIVATE")}, p.certificate, []string{
			"device.yaml:4:53: c.key: the private key is encrypted, which is not supported: decrypt it with openssl pkey; copy the claim there, or correct the paths in the bootstrap section",
		}},
		"damaged key": {pair{p.certificate, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, p.certificate, []string{
			"device.yaml:4:53: c.key: the private key is damaged, or of a kind that cannot sign; copy the claim there, or correct the paths in the bootstrap section",
		}},
		"roots that are none": {p, "hello", []string{
			"device.yaml:4:79: r.pem: not in PEM form: it has no line -----BEGIN …-----; copy the root certificates there; to use the Amazon roots of this program, rename the file, and remove bootstrap.cacertificatepath where it is set",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := check(t, tt.pair, tt.roots, true)
			if err == nil {
				t.Fatal("no problem found")
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClaimIsNotAskedForOnceItIsNotNeeded(t *testing.T) {
	p := newPair(t, pkcs8)
	f, _, err := check(t, pair{}, p.certificate, false)
	if err != nil {
		t.Fatal(err)
	}
	if f.Claims != nil {
		t.Error("there is a claim")
	}
}

func TestCheckWarnsOfWhatShouldNotStay(t *testing.T) {
	p := newPair(t, pkcs8)
	_, _, err := check(t, p, p.certificate, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod("c.key", 0o640); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(t.Context(), config.Sources{Path: "device.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := c.Check(true)
	want := []string{"the private key c.key is readable by others (mode 0640); run \"chmod 600 c.key\""}
	if diff := cmp.Diff(want, warnings); diff != "" || err != nil {
		t.Errorf("error %v, warnings (-want +got):\n%s", err, diff)
	}
	c.Bootstrap.PrivateKeyPath, c.Bootstrap.CertificatePath = c.Bootstrap.CertificatePath, c.Bootstrap.PrivateKeyPath
	if _, warnings, err := c.Check(true); err == nil || warnings != nil { // others may read a certificate
		t.Errorf("exchanged files: error %v, warnings %q", err, warnings)
	}
	for _, path := range []string{os.DevNull, "."} { // which others need
		if w := config.ReadableByOthers(path); w != nil {
			t.Errorf("%s: %q", path, w)
		}
	}
}

func TestClaimIsValidForItsTime(t *testing.T) {
	p := newPair(t, pkcs8)
	f, _, err := check(t, p, p.certificate, true)
	if err != nil {
		t.Fatal(err)
	}
	leaf := f.Claims[0].Certificate.Leaf
	for name, tt := range map[string]struct {
		at   time.Time
		want time.Time // in the error; zero for none
	}{
		"now":           {now, time.Time{}},
		"clock at 1970": {time.Unix(0, 0), leaf.NotBefore},
		"expired":       {now.Add(25 * time.Hour), leaf.NotAfter},
	} {
		t.Run(name, func(t *testing.T) {
			err := f.ClaimTime(tt.at)
			e, got := errors.AsType[*awsiot.ValidityError](err)
			if got == tt.want.IsZero() || got && (!strings.Contains(e.Error(), tt.want.UTC().Format(time.RFC3339)) || awsiot.ClassOf(err) != awsiot.Temporary) {
				t.Errorf("got %v of class %v", err, awsiot.ClassOf(err))
			}
		})
	}
}

// People have their files as editors, openssl and e-mail leave them.
func TestCheckReadsFilesAsPeopleHaveThem(t *testing.T) {
	p, other := newPair(t, sec1), newPair(t, sec1)
	parameters := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	for name, tt := range map[string]struct {
		pair  pair
		roots string
		count int
	}{
		"EC PARAMETERS before the key":    {pair{p.certificate, parameters + p.key}, p.certificate, 1},
		"byte order mark":                 {pair{"\ufeff" + p.certificate, "\ufeff" + p.key}, "\ufeff" + p.certificate + other.certificate, 2},
		"certificate and key in one file": {pair{p.key + p.certificate, p.certificate + p.key}, p.certificate, 1},
		"chain, the claim's own one last": {pair{other.certificate + p.certificate, p.key}, p.certificate, 1},
		"pasted line ends":                {pair{strings.ReplaceAll(p.certificate, "\n", `\n`), strings.ReplaceAll(p.key, "\n", `\n`)}, p.certificate, 1},
		"indented, with carriage returns": {pair{"  " + strings.ReplaceAll(p.certificate, "\n", "\r\n  "), p.key}, p.certificate, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f, _, err := check(t, tt.pair, tt.roots, true)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Bundle) != tt.count || len(f.Claims) != 1 || !bytes.Equal(f.Claims[0].Certificate.Certificate[0], f.Claims[0].Certificate.Leaf.Raw) {
				t.Errorf("%d roots, claims %v", len(f.Bundle), f.Claims)
			}
		})
	}
}

func TestAmazonRootsAreUsedWhereNoBundleIsNamed(t *testing.T) {
	p := newPair(t, pkcs8)
	c, err := load(t, good, config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	f, _, err := c.Check(false)
	if err != nil || len(f.Bundle) != 5 {
		t.Fatalf("%d roots, %v", len(f.Bundle), err)
	}
	write(t, "certs/root.ca.bundle.pem", p.certificate)
	if f, _, err = c.Check(false); err != nil || len(f.Bundle) != 1 {
		t.Errorf("with a bundle in the default place: %d roots, %v", len(f.Bundle), err)
	}
	write(t, "certs/root.ca.bundle.pem", "torn")
	if _, _, err = c.Check(false); err == nil {
		t.Error("a damaged bundle in the default place was passed over")
	}
	if c, err = load(t, good+"bootstrap: {cacertificatepath: certs/root.ca.bundle.pem}\n", config.Sources{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err = c.Check(false); err == nil {
		t.Error("a bundle that is named may be missing")
	}
}

// The script that downloads the roots pins their fingerprints; the program has the same ones, and
// no others.
func TestAmazonRootsAreThoseOfTheScript(t *testing.T) {
	script, err := os.ReadFile(filepath.Join("..", "..", "..", "scripts", "create-root-ca-bundle.sh"))
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, c := range config.AmazonRoots() {
		got = append(got, awsiot.CertificateID(c)) // SHA-256 of the DER, as the script has it
	}
	want = append(want, regexp.MustCompile(`\b[0-9a-f]{64}\b`).FindAllString(string(script), -1)...)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fingerprints of the script (-) and of the program (+):\n%s", diff)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
