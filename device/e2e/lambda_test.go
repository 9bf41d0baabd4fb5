package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/hook/payload"
)

// The tests below run the Lambda functions of the stack against the emulator, as
// their own processes, with the environment that the stack gives them.

// retire is the function that retires certificates, built for this machine.
var retire = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binDir, "retire")
	return path, runTool("go", "-C", filepath.Join("..", "..", "hook"), "build", "-tags", "lambda.norpc", "-o", path, "./cmd/retire")
})

// lambda runs a function whose calls go to the emulator.
func (r *realm) lambda(t *testing.T, path string, env ...string) *lambdahost.Host {
	t.Helper()
	host, err := lambdahost.Start(t.Context(), lambdahost.Config{
		Path: path, Endpoint: r.APIURL(), Env: env, Timeout: patience, Concurrency: 8, Log: slog.New(r.verdicts),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	return host
}

func (r *realm) statuses(t *testing.T, parties ...party) (all []registry.CertificateStatus) {
	t.Helper()
	for _, p := range parties {
		c, ok := r.Registry().CertificateByID(p.id())
		if !ok {
			t.Fatalf("certificate %s is gone", p.id())
		}
		all = append(all, c.Status)
	}
	return all
}

// A birth message retires the certificates before the one that it was published
// with, and no other, however often it is published and by which party.
func TestProvedCertificateRetiresItsPredecessorsAlone(t *testing.T) {
	r := startRealm(t)
	host := r.lambda(t, build(t, retire), "CLAIM_CERTIFICATES="+r.claim.id())
	rotated, accepted := r.register(t, r.device, "2974685")
	if !accepted {
		t.Fatal("the device did not rotate")
	}
	for _, step := range []struct {
		name      string
		by        party
		thing     string
		want      registry.CertificateStatus // of the old certificate
		principal string                     // in place of by's
	}{
		{"the old one is proved again", r.device, ours, registry.Active, ""},
		{"the other device in its name", r.victim, ours, registry.Active, ""},
		{"the claim in its name", r.claim, ours, registry.Active, ""},
		{"an operator in its name", rotated, ours, registry.Active, "AROAEXAMPLE:operator"},
		{"the new one in another's name", rotated, theirs, registry.Active, ""},
		{"the new one is proved", rotated, ours, registry.Inactive, ""},
		{"its message comes twice", rotated, ours, registry.Inactive, ""},
		{"a message of the old one, late", r.device, ours, registry.Inactive, ""},
	} {
		if step.principal == "" {
			step.principal = step.by.id()
		}
		event, err := json.Marshal(map[string]string{"certificateId": step.principal, "thingName": step.thing})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := host.Invoke(t.Context(), event); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		want := []registry.CertificateStatus{step.want, registry.Active, registry.Active, registry.Active}
		if diff := cmp.Diff(want, r.statuses(t, r.device, rotated, r.victim, r.claim)); diff != "" {
			t.Fatalf("%s: old, new, other device and claim (-want +got):\n%s", step.name, diff)
		}
	}
	r.mustConnect(t, rotated)
	r.check(t, localcore.Event{Action: localcore.ActionTLS, CertificateID: r.device.id(), Reason: "INACTIVE"}, func() {
		if c, err := r.dial(t, r.device); err == nil && c.next() != nil {
			t.Error("the old certificate still connects")
		}
	})
}

// dynamoDB is the endpoint of a DynamoDB with the table serials.
func dynamoDB(t *testing.T) (endpoint string) {
	t.Helper()
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "infra", "node_modules", "dynalite")); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("dynalite is not installed: run npm ci in infra/")
		}
		t.Skip("dynalite is not installed: run npm ci in infra/")
	}
	node := exec.Command("node", filepath.Join(root, "scripts", "dynamodb.mjs"), "serials")
	stdin, err := node.StdinPipe() // its end is the end of the process
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = node.Wait()
	})
	if endpoint, err = bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("starting DynamoDB: %v", err)
	}
	return strings.TrimSpace(endpoint)
}

// TestConcurrentClaimsProvisionOneDevice: many connections ask for one new serial
// number at the same instant, each with a certificate of its own.
func TestConcurrentClaimsProvisionOneDevice(t *testing.T) {
	r := &realm{verdicts: make(verdicts, 4096)}
	started := make(chan struct{})
	var host *lambdahost.Host
	s, err := localcore.Start(t.Context(), localcore.Config{
		Templates: filepath.Join("..", "..", "templates"), Log: slog.New(r.verdicts),
		HookFunc: func(ctx context.Context, request payload.Request) (answer payload.Response, err error) {
			<-started
			event, err := json.Marshal(request)
			if err != nil {
				return answer, err
			}
			result, err := host.Invoke(ctx, event)
			if err != nil {
				return answer, err
			}
			return answer, json.Unmarshal(result, &answer)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r.Server = s
	host = r.lambda(t, build(t, hook), "SERIAL_TABLE=serials", "AWS_ENDPOINT_URL_DYNAMODB="+dynamoDB(t), `DEVICE_LOCATIONS=["USA"]`)
	close(started)
	claim := claimOf(t, s.Claim(), "claim-first")

	for round := range 3 {
		serial := "297468" + string(rune('0'+round))
		type asked struct {
			c     *intruder
			made  party
			token awsiot.Secret
		}
		var all []asked
		for i := range 8 {
			claim.client = "claim-" + string(rune('a'+i))
			c := r.mustConnect(t, claim)
			made, token := c.certificate()
			all = append(all, asked{c, made, token})
		}
		var group sync.WaitGroup
		accepted := make([]bool, len(all))
		for i, a := range all {
			group.Go(func() { _, accepted[i] = a.c.ask(registerTopic, registration(a.token, serial)) })
		}
		group.Wait()
		var provisioned []string
		for i, a := range all {
			if accepted[i] {
				provisioned = append(provisioned, a.made.id())
			}
			a.c.Close()
		}
		if len(provisioned) != 1 {
			t.Fatalf("serial number %s was provisioned %d times", serial, len(provisioned))
		}
		if diff := cmp.Diff(provisioned, r.principals(t, "fleety_"+serial)); diff != "" {
			t.Errorf("the certificate that was accepted (-), those of the thing (+):\n%s", diff)
		}
	}
}
