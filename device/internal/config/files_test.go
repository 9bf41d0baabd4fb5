package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
func check(t *testing.T, p pair, roots string, at time.Time, claim bool) (*config.Files, []string, error) {
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
	return c.Check(at, claim)
}

func TestCheckTakesEveryFormOfKey(t *testing.T) {
	forms := map[string]func(*ecdsa.PrivateKey) (string, []byte, error){"PKCS 8": pkcs8, "SEC 1": sec1}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, form)
			f, warnings, err := check(t, p, p.certificate, now, true)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("warnings %q, error %v", warnings, err)
			}
			if f.Claim == nil || f.Roots == nil || f.Claim.Leaf == nil {
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
		at    time.Time
		want  []string
	}{
		"nothing there": {pair{}, "", now, []string{
			"device.yaml:4:79: r.pem: no such file or directory; run scripts/create-root-ca-bundle.sh, or set bootstrap.cacertificatepath",
			"device.yaml:4:30: c.pem: no such file or directory; run scripts/create-keys-and-cert.sh, or set the paths in the bootstrap section",
			"device.yaml:4:53: c.key: no such file or directory; run scripts/create-keys-and-cert.sh, or set the paths in the bootstrap section",
		}},
		"key of another certificate": {pair{p.certificate, other.key}, p.certificate, now, []string{
			"device.yaml:4:53: the key c.key does not belong to the certificate c.pem; use the two files that were made together",
		}},
		"files swapped": {pair{p.key, p.certificate}, p.certificate, now, []string{
			"device.yaml:4:30: c.pem is not a certificate in PEM form; run scripts/create-keys-and-cert.sh, or set the paths in the bootstrap section",
			`device.yaml:4:53: c.key: holds "CERTIFICATE", not a private key; run scripts/create-keys-and-cert.sh, or set the paths in the bootstrap section`,
		}},
		"encrypted key": {pair{p.certificate, strings.ReplaceAll(p.key, "PRIVATE", "ENCRYPTED PRIVATE")}, p.certificate, now, []string{
			"device.yaml:4:53: c.key: the private key is encrypted, which is not supported; run scripts/create-keys-and-cert.sh, or set the paths in the bootstrap section",
		}},
		"damaged key": {pair{p.certificate, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, p.certificate, now, []string{
			"device.yaml:4:53: c.key: the private key is damaged or of an unknown kind; run scripts/create-keys-and-cert.sh, or set the paths in the bootstrap section",
		}},
		"expired": {p, p.certificate, now.Add(25 * time.Hour), []string{
			"device.yaml:4:30: the claim c.pem expired on 2026-05-02 12:00 UTC; get a new claim with scripts/create-keys-and-cert.sh, and deploy its ARN",
		}},
		"clock at 1970": {p, p.certificate, time.Unix(0, 0), []string{
			"device.yaml:4:30: the claim c.pem is valid from 2026-04-30 12:00 UTC, and this device's clock says 1970-01-01 00:00 UTC; set the clock",
		}},
		"roots that are none": {p, "hello", now, []string{
			"device.yaml:4:79: r.pem holds no certificate in PEM form; run scripts/create-root-ca-bundle.sh, or set bootstrap.cacertificatepath",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := check(t, tt.pair, tt.roots, tt.at, true)
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
	f, _, err := check(t, pair{}, p.certificate, now, false)
	if err != nil {
		t.Fatal(err)
	}
	if f.Claim != nil {
		t.Error("there is a claim")
	}
}

func TestCheckWarnsOfWhatShouldNotStay(t *testing.T) {
	p := newPair(t, pkcs8)
	_, _, err := check(t, p, p.certificate, now, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod("c.key", 0o640); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Sources{Path: "device.yaml", Flags: []config.Setting{
		{Key: "server.endpoint", Value: "abc123.iot.us-east-1.amazonaws.com", Flag: "--set"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := c.Check(now, true)
	want := []string{
		"the private key c.key is readable by others (mode 0640); run: chmod 600 c.key",
		`server.endpoint "abc123.iot.us-east-1.amazonaws.com" is the legacy kind, whose root is no longer trusted; put in what "aws iot describe-endpoint --endpoint-type iot:Data-ATS" prints`,
	}
	if diff := cmp.Diff(want, warnings); diff != "" || err != nil {
		t.Errorf("error %v, warnings (-want +got):\n%s", err, diff)
	}
}
