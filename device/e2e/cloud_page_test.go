package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/hook/payload"
)

// An operator runs the commands of docs/cloud.md against an emulator.
type operator struct {
	core  *localcore.Server
	later atomic.Int64 // by how much the clock of the emulator is ahead, as a time.Duration
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	if _, err := exec.LookPath("aws"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("the aws command line is not installed")
		}
		t.Skip("the aws command line is not installed")
	}
	o := &operator{}
	core, err := localcore.Start(t.Context(), localcore.Config{
		Templates: filepath.Join("..", "..", "templates"),
		Now:       func() time.Time { return time.Now().Add(time.Duration(o.later.Load())) },
		HookFunc: func(context.Context, payload.Request) (payload.Response, error) {
			return payload.Response{AllowProvisioning: true}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := core.Close(); err != nil {
			t.Error(err)
		}
	})
	o.core = core
	return o
}

// certificate gives a thing a certificate, as provisioning does; without a
// thing it is a claim that nothing is attached to.
func (o *operator) certificate(t *testing.T, thing string) (id string) {
	t.Helper()
	r := o.core.Registry()
	c, err := r.CreateCertificate(registry.Certificate{PEM: unusedCertificate(t), Status: registry.Active})
	if err != nil {
		t.Fatal(err)
	}
	if thing == "" {
		return c.ID
	}
	_, err = r.CreateThing(registry.Thing{Name: thing, Type: localcore.ThingTypeName})
	err = errors.Join(err,
		r.AttachThingPrincipal(thing, c.ID, registry.NonExclusive),
		r.AttachPolicy(localcore.DevicePolicyName, registry.CertificateTarget(c.ID)),
		r.AttachPolicy(localcore.RotationPolicyName, registry.CertificateTarget(c.ID)))
	if err != nil {
		t.Fatal(err)
	}
	return c.ID
}

func unusedCertificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (o *operator) run(t *testing.T, script string) (stdout string) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	command := exec.CommandContext(t.Context(), "sh", "-euc", script)
	environment := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	command.Env = append(environment, "AWS_ENDPOINT_URL="+o.core.APIURL(),
		"AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=",
		"AWS_MAX_ATTEMPTS=1", "AWS_CONFIG_FILE="+none, "AWS_SHARED_CREDENTIALS_FILE="+none)
	var stderr strings.Builder
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, script, &stderr)
	}
	return string(output)
}

func (o *operator) status(t *testing.T, id string) registry.CertificateStatus {
	t.Helper()
	c, ok := o.core.Registry().CertificateByID(id)
	if !ok {
		return "gone"
	}
	return c.Status
}

// page returns the commands under a heading of docs/cloud.md.
func page(t *testing.T, heading string) string {
	t.Helper()
	return block(t, "cloud.md", heading, "sh")
}

// block returns the first block of code in a language under a heading of a page.
func block(t *testing.T, name, heading, language string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	_, code, hasCode := strings.Cut(section, "```"+language+"\n")
	code, _, _ = strings.Cut(code, "```")
	if !found || !hasCode {
		t.Fatalf("docs/%s has no %s under %q", name, language, heading)
	}
	return code
}

func TestCommandsOfTheCloudPageForOneDevice(t *testing.T) {
	t.Parallel()
	for heading, want := range map[string]registry.CertificateStatus{
		"Provision a device again": registry.Inactive,
		"Revoke a device":          registry.Revoked,
	} {
		t.Run(heading, func(t *testing.T) {
			o := newOperator(t)
			ours, other := o.certificate(t, "fleety_2974685"), o.certificate(t, "fleety_2974686")
			o.run(t, page(t, heading))
			if got := o.status(t, ours); got != want {
				t.Errorf("the device's certificate is %s, want %s", got, want)
			}
			if got := o.status(t, other); got != registry.Active {
				t.Errorf("another device's certificate is %s", got)
			}
		})
	}
}

func TestCommandsOfTheCloudPageForAnOldClaim(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	old := o.certificate(t, "")
	o.run(t, "old="+o.core.ARN("cert/"+old)+"\n"+page(t, "Rotate the claim"))
	if got := o.status(t, old); got != "gone" {
		t.Errorf("the old claim is %s", got)
	}
}

func TestCommandsOfTheCloudPageRemoveEverything(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	certificates := []string{o.certificate(t, "fleety_2974685"), o.certificate(t, "fleety_2974686")}
	commands, last, found := strings.Cut(page(t, "Remove everything"), "sleep 300")
	if !found {
		t.Fatal("the page does not wait")
	}
	_, last, _ = strings.Cut(last, "\n")
	o.run(t, `for policy in GoIoTDevicePolicy GoIoTRotationPolicy; do
	aws iot create-policy-version --set-as-default --policy-name $policy --policy-document "$(aws iot get-policy --policy-name $policy --query policyDocument --output text)"
done`)
	o.run(t, commands)
	o.later.Store(int64(5 * time.Minute))
	o.run(t, last)

	left := o.run(t, "aws iot list-things --query 'things[].thingName' --output text; aws iot list-thing-types --query 'thingTypes[].thingTypeName' --output text; aws iot list-policies --query 'policies[].policyName' --output text")
	if diff := cmp.Diff([]string{localcore.ClaimPolicyName}, strings.Fields(left)); diff != "" {
		t.Errorf("what is left differs (-want +got):\n%s", diff)
	}
	for _, id := range certificates {
		if got := o.status(t, id); got != "gone" {
			t.Errorf("certificate %s is %s", id, got)
		}
	}
}
