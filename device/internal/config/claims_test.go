package config_test

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/config"
)

// Several claims are tried in the order of the configuration, those of the plain keys first.
func TestClaimsAreInTheOrderOfTheConfiguration(t *testing.T) {
	one, two, plain := config.Paths{CertificatePath: "1.pem", PrivateKeyPath: "1.key"}, config.Paths{CertificatePath: "/2.pem", PrivateKeyPath: "2.key"},
		config.Paths{CertificatePath: "c.pem", PrivateKeyPath: "c.key"}
	byDefault := config.Paths{CertificatePath: "certs/fleet-provisioning.certificate.pem", PrivateKeyPath: "certs/fleet-provisioning.private.key"}
	for name, test := range map[string]struct {
		bootstrap string
		environ   []string
		want      []config.Paths
	}{
		"none":            {"", nil, []config.Paths{byDefault}},
		"list alone":      {"claims: [{certificatepath: 1.pem, privatekeypath: 1.key}, {certificatepath: /2.pem, privatekeypath: 2.key}]", nil, []config.Paths{one, two}},
		"keys and list":   {"certificatepath: c.pem\n  privatekeypath: c.key\n  claims:\n    - {CertificatePath: 1.pem, PRIVATEKEYPATH: 1.key}", nil, []config.Paths{plain, one}},
		"empty list":      {"claims: []", nil, []config.Paths{byDefault}},
		"nothing":         {"claims:", nil, []config.Paths{byDefault}},
		"the environment": {"claims: []", []string{`IOT_DEVICE_BOOTSTRAP_CLAIMS=[{"certificatepath":"1.pem","privatekeypath":"1.key"}]`}, []config.Paths{one}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := load(t, good+"bootstrap:\n  "+test.bootstrap+"\n", config.Sources{Environ: test.environ})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, c.AllClaims()); diff != "" {
				t.Error(diff)
			}
			for _, claim := range test.want {
				if reserved := c.Identity().Reserved; !slices.Contains(reserved, claim.CertificatePath) || !slices.Contains(reserved, claim.PrivateKeyPath) {
					t.Errorf("the identity may overwrite %+v", claim)
				}
			}
		})
	}
}

// What is wrong with the list is reported with its line.
func TestClaimsThatCannotBeReadAreProblems(t *testing.T) {
	for name, test := range map[string]struct {
		yaml string
		line int
	}{
		"no list":        {"claims: c.pem", 5},
		"no mapping":     {"claims:\n    - c.pem", 6},
		"unknown key":    {"claims:\n    - {certificatepath: c.pem, privatekeypath: c.key}\n    - {certificatepath: c.pem, keypath: c.key}", 7},
		"a key twice":    {"claims:\n    - {certificatepath: c.pem, certificatePath: d.pem, privatekeypath: c.key}", 6},
		"no text":        {"claims:\n    - {certificatepath: [c.pem], privatekeypath: c.key}", 6},
		"no private key": {"claims:\n    - {certificatepath: c.pem}", 5},
		"an empty path":  {"claims:\n    - {certificatepath: c.pem, privatekeypath: }", 5},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, good+"bootstrap:\n  "+test.yaml+"\n", config.Sources{})
			problems, _ := errors.AsType[config.Problems](err)
			if len(problems) != 1 || problems[0].Origin.Line != test.line {
				t.Errorf("problems %+v, want one in line %d", problems, test.line)
			}
		})
	}
	for _, value := range []string{"c.pem", `{}`, `[{"certificatepath":"c.pem"}]`, `[{"certificatepath":"c.pem","privatekeypath":"c.key","x":1}]`, `[] []`, `[]]`, `[]}`} {
		if _, err := load(t, good, config.Sources{Flags: []config.Setting{{Key: "bootstrap.claims", Value: value, Flag: "--set"}}}); awsiot.ClassOf(err) != awsiot.Misconfigured {
			t.Errorf("%s: %v", value, err)
		}
	}
}

// A claim that cannot be read is a warning if another one can.
func TestBrokenClaimIsAWarningIfAnotherWorks(t *testing.T) {
	c, err := load(t, good+"bootstrap:\n  cacertificatepath: r.pem\n  claims: [{certificatepath: missing.pem, privatekeypath: missing.key},"+
		" {certificatepath: a.pem, privatekeypath: b.key}, {certificatepath: b.pem, privatekeypath: b.key}]\n", config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := newPair(t, pkcs8), newPair(t, pkcs8)
	for name, data := range map[string]string{"r.pem": a.certificate, "a.pem": a.certificate, "b.pem": b.certificate, "b.key": b.key} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, warnings, err := c.Check(true)
	if err != nil || len(f.Claims) != 1 || f.Claims[0].Path != "b.pem" || len(warnings) != 3 { // two files and a pair
		t.Errorf("claims %+v, warnings %q, error %v", f.Claims, warnings, err)
	}
	if err := os.Remove("b.key"); err != nil {
		t.Fatal(err)
	}
	if f, _, err = c.Check(true); err == nil || len(f.Claims) != 0 {
		t.Errorf("claims %+v, error %v", f.Claims, err)
	}
}

// Claims that are valid now are tried before those that are not.
func TestClaimsThatAreValidNowAreFirst(t *testing.T) {
	p := newPair(t, pkcs8)
	f, _, err := check(t, p, p.certificate, true)
	if err != nil {
		t.Fatal(err)
	}
	expired := f.Claims[0]
	expired.Path = "expired.pem"
	leaf, pairOf := *expired.Certificate.Leaf, *expired.Certificate
	leaf.NotAfter = now.Add(-time.Hour)
	pairOf.Leaf, expired.Certificate = &leaf, &pairOf
	f.Claims = append([]config.LoadedClaim{expired}, f.Claims...)
	if err := f.ClaimTime(now); err != nil || f.Claims[1].Path != "expired.pem" {
		t.Errorf("%v, first %s", err, f.Claims[0].Path)
	}
	if err := f.ClaimTime(now.AddDate(1, 0, 0)); err == nil {
		t.Error("no error where none is valid")
	}
}
