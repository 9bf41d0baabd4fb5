package provision_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
)

// A childConfig configures a device in a process of its own, by
// the environment.
type childConfig struct {
	Port                int
	Roots               []byte
	ClaimCert, ClaimKey []byte
	Dir                 string
	Keys                provision.Keys
	Reprovision         bool
	KillAt              string // the event to be killed at, as eventName gives it
}

const childVariable = "PROVISION_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		os.Exit(beDevice(text))
	}
	goleak.VerifyTestMain(m)
}

func eventName(e provision.Event) string {
	return fmt.Sprintf("%s/%t", e.Step, e.Ended)
}

// beDevice runs once and returns an exit code. At the event KillAt it ends as
// with kill -9.
func beDevice(text string) int {
	var c childConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	claim, err := tls.X509KeyPair(c.ClaimCert, c.ClaimKey)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.Roots)
	store, err := identity.NewStore(identity.Config{SerialNumber: serial, Dir: c.Dir})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err = provision.RunQuickly(ctx, provision.Config{
		Store:             store,
		Session:           session.Options{Endpoint: "localhost", Port: c.Port, RootCAs: roots, Proxy: "direct"},
		Claims:            []*tls.Certificate{&claim},
		Template:          localcore.TemplateName,
		Parameters:        map[string]string{payload.SerialNumber: serial, payload.DeviceLocation: "USA"},
		ExpectedThingName: thing,
		Keys:              c.Keys,
		Reprovision:       c.Reprovision,
		Progress: func(e provision.Event) {
			if eventName(e) == c.KillAt {
				killSelf()
			}
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func killSelf() {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		panic(err)
	}
	if err := self.Kill(); err != nil {
		panic(err)
	}
	select {}
}

// process returns the device as a process of its own, not yet started.
func (d *device) process(t *testing.T, killAt string) *exec.Cmd {
	t.Helper()
	host, port := d.core.Endpoint()
	if d.config.Session.Port != 0 {
		port = d.config.Session.Port
	}
	if host != "localhost" {
		t.Fatalf("core is at %s", host)
	}
	text, err := json.Marshal(childConfig{
		Port: port, Roots: d.core.RootPEM(), Dir: d.dir, Keys: d.config.Keys, KillAt: killAt,
		ClaimCert: d.core.Claim().CertificatePEM, ClaimKey: d.core.Claim().PrivateKeyPEM,
		Reprovision: d.config.Reprovision,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	return cmd
}

// runProcess runs the device; killed says that it came to the event.
func (d *device) runProcess(t *testing.T, killAt string) (killed bool) {
	t.Helper()
	out, err := d.process(t, killAt).CombinedOutput()
	exit, failed := errors.AsType[*exec.ExitError](err)
	if failed && exit.ExitCode() == -1 {
		return true
	}
	if err != nil {
		t.Fatalf("device: %v\n%s", err, out)
	}
	return false
}

// events returns those of an undisturbed run, in order.
func events(t *testing.T, keys provision.Keys) []string {
	d := newDevice(t, startEmulator(t))
	d.config.Keys = keys
	var names []string
	if _, err := d.run(t, func(c *provision.Config) {
		c.Progress = func(e provision.Event) { names = append(names, eventName(e)) }
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestKillAtAnyStepEndsWithOneIdentity(t *testing.T) {
	for _, keys := range []provision.Keys{provision.DeviceKeys, provision.ServiceKeys} {
		if keys == provision.ServiceKeys && testing.Short() {
			break // for each run the emulator makes an RSA key
		}
		for _, event := range events(t, keys) {
			t.Run(string(keys)+"/"+event, func(t *testing.T) {
				t.Parallel()
				d := newDevice(t, startEmulator(t))
				d.config.Keys = keys
				if !d.runProcess(t, event) {
					t.Fatal("it was not killed")
				}
				d.runProcess(t, "")
				d.check(t)
			})
		}
	}
}

func TestTwoKillsEndWithOneIdentity(t *testing.T) {
	if testing.Short() {
		t.Skip("starts dozens of processes")
	}
	points := []provision.Event{
		{Step: provision.StepStore, Ended: true},
		{Step: provision.StepRegister, Ended: true},
		{Step: provision.StepPublishBirth, Ended: true},
		{Step: provision.StepCommit},
	}
	for _, first := range points {
		for _, second := range points {
			t.Run(eventName(first)+"+"+eventName(second), func(t *testing.T) {
				t.Parallel()
				d := newDevice(t, startEmulator(t))
				d.runProcess(t, eventName(first))
				d.runProcess(t, eventName(second)) // may come too late for it
				d.runProcess(t, "")
				d.check(t)
			})
		}
	}
}

// TestConnectionsCutAtAnyStepEndWithOneIdentity cuts every connection as a step
// begins, the prepared one included.
func TestConnectionsCutAtAnyStepEndWithOneIdentity(t *testing.T) {
	for _, event := range events(t, provision.DeviceKeys) {
		t.Run(event, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t, startEmulator(t))
			l, port := newLink(t, d.config.Session.Port)
			d.config.Session.Port = port
			cut := false
			_, err := d.run(t, func(c *provision.Config) {
				c.Progress = func(e provision.Event) {
					if eventName(e) == event && !cut {
						cut = true
						l.cut()
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if !cut {
				t.Fatal("the link was not cut")
			}
			d.check(t)
		})
	}
}

func TestSecondRunAtOnceIsLockedOut(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	var second error
	_, err := d.run(t, func(c *provision.Config) {
		c.Progress = func(e provision.Event) {
			if e.Step == provision.StepRegister && !e.Ended {
				_, second = d.run(t)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	locked, ok := errors.AsType[*identity.LockedError](second)
	if !ok || locked.PID != os.Getpid() {
		t.Errorf("the second run ended with %v", second)
	}
	d.check(t)
}

func TestNothingButTheIdentityIsLeft(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	if _, err := d.run(t); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), thing+".") {
			t.Errorf("left: %s", filepath.Join(d.dir, e.Name()))
		}
	}
}
