package provision_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/provision"
)

// pendingKey returns the key that the device's journal holds.
func (d *device) pendingKey(t *testing.T) crypto.PublicKey {
	t.Helper()
	j, err := d.store(t).Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	return j.Key().Public()
}

// steps records the steps that were done.
func steps(into *[]provision.Step) func(*provision.Config) {
	return func(c *provision.Config) {
		c.Progress = func(e provision.Event) {
			if e.Ended && e.Err == nil {
				*into = append(*into, e.Step)
			}
		}
	}
}

func TestLostAnswerDoesNotRegisterTheThingTwice(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	if !d.runProcess(t, eventName(provision.Event{Step: provision.StepRegister, Ended: true})) {
		t.Fatal("it was not killed")
	}
	key := d.pendingKey(t)
	var done []provision.Step
	result, err := d.run(t, steps(&done))
	if err != nil {
		t.Fatal(err)
	}
	want := []provision.Step{provision.StepConnectClaim, provision.StepSubscribe, provision.StepProbe, provision.StepConnectDevice, provision.StepPublishBirth, provision.StepCommit}
	if diff := cmp.Diff(want, done); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if result.Provisioned {
		t.Error("it was not this run that registered the thing")
	}
	if id := d.check(t); !key.(interface{ Equal(crypto.PublicKey) bool }).Equal(id.Key.Public()) {
		t.Error("the device has another key than before")
	}
}

func TestExpiredTokenGetsANewCertificateForTheSameKey(t *testing.T) {
	tests := map[string]time.Duration{
		"known to the device":        2 * time.Hour,
		"unknown, its clock is late": 0,
	}
	for name, later := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, startEmulator(t))
			if !d.runProcess(t, eventName(provision.Event{Step: provision.StepStore, Ended: true})) {
				t.Fatal("it was not killed")
			}
			key := d.pendingKey(t)
			if _, err := d.core.ExpireTokens(); err != nil {
				t.Fatal(err)
			}
			_, err := d.run(t, func(c *provision.Config) {
				c.Session.Now = func() time.Time { return time.Now().Add(later) }
			})
			if err != nil {
				t.Fatal(err)
			}
			if id := d.check(t); !key.(interface{ Equal(crypto.PublicKey) bool }).Equal(id.Key.Public()) {
				t.Error("the device has another key than before")
			}
		})
	}
}

// A token expires within a run, too, while RegisterThing is throttled. The run requests one more
// certificate, and no more than that.
func TestExpiredTokenOfTheRunItself(t *testing.T) {
	for name, expiries := range map[string]int{"once": 1, "always": 100} {
		for _, keys := range []provision.Keys{provision.DeviceKeys, provision.ServiceKeys} {
			t.Run(name+"/"+string(keys), func(t *testing.T) {
				d := newDevice(t, startEmulator(t))
				d.config.Keys = keys
				left, requested := expiries, 0
				d.config.Progress = func(e provision.Event) {
					if e.Step == provision.StepCreate && e.Ended {
						requested++
					}
					if e.Step != provision.StepStore || !e.Ended || left == 0 {
						return
					}
					left--
					if _, err := d.core.ExpireTokens(); err != nil {
						t.Error(err)
					}
				}
				_, err := d.run(t)
				if requested != 2 {
					t.Errorf("%d certificates were requested, want 2", requested)
				}
				if name == "once" && err != nil {
					t.Fatal(err)
				}
				if name == "always" && awsiot.ClassOf(err) != awsiot.Denied {
					t.Errorf("error %v of class %v, want %v", err, awsiot.ClassOf(err), awsiot.Denied)
				}
				left = 0
				if _, err := d.run(t); err != nil {
					t.Fatal(err)
				}
				d.check(t)
			})
		}
	}
}

func TestReprovisioningRetiresTheOldCertificate(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	first, err := d.run(t)
	if err != nil {
		t.Fatal(err)
	}
	old := first.Identity.Record.CertificateID
	second, err := d.run(t, func(c *provision.Config) { c.Reprovision = true })
	if err != nil {
		t.Fatal(err)
	}
	want := "aws iot update-certificate --certificate-id " + old + " --new-status INACTIVE"
	if got := provision.DeactivateCommand(second.Identity.Record); second.Retired != old || got != want {
		t.Errorf("retired %q: %s", second.Retired, got)
	}
	if err := d.core.Registry().UpdateCertificate(old, registry.Inactive); err != nil {
		t.Fatal(err)
	}
	if id := d.check(t); id.Record.Replaces != old || second.Identity.Record.CertificateID != id.Record.CertificateID {
		t.Errorf("record %+v", id.Record)
	}
}

// The birth message has the old certificate retired, also where a full disk delayed the installation.
func TestReplacementThatIsInstalledLateIsAnnounced(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	first, err := d.run(t)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(first.Identity.Files.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(first.Identity.Files.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	d.dir = filepath.Join(t.TempDir(), "other")
	c := d.config
	c.Store = d.store(t)
	journal, err := c.Store.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	for _, step := range []func() error{
		func() error {
			return journal.HoldCertificate(identity.Grant{CertificateID: first.Identity.Record.CertificateID, CertificatePEM: string(text), PrivateKeyPEM: string(key), Token: "t"})
		},
		func() error { return journal.Register(identity.Registration{ThingName: thing}) },
		journal.Commit,
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	var steps []string
	c.Progress = func(e provision.Event) { steps = append(steps, eventName(e)) }
	if err := provision.AttemptAfterCommit(t.Context(), c, journal, first.Identity); err != nil {
		t.Fatal(err)
	}
	if want := eventName(provision.Event{Step: provision.StepPublishBirth, Ended: true}); !slices.Contains(steps, want) {
		t.Errorf("steps: %q", steps)
	}
}

func TestFailedReprovisioningKeepsTheOldIdentityInUse(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	first, err := d.run(t)
	if err != nil {
		t.Fatal(err)
	}
	old := first.Identity.Record.CertificateID
	d.core.Faults.Set(func(e localcore.Exchange) localcore.Fault {
		if e.Operation == awsiot.RegisterThing {
			return rejection(403)
		}
		return localcore.Fault{}
	})
	reprovision := func(c *provision.Config) { c.Reprovision = true }
	if _, err = d.run(t, reprovision); awsiot.ClassOf(err) != awsiot.Denied {
		t.Fatalf("error %v", err)
	}

	// The next boot proves what there is and leaves the replacement pending.
	plain, err := d.run(t)
	if err != nil {
		t.Fatal(err)
	}
	if plain.Identity.Record.CertificateID != old || plain.Provisioned || plain.Pending == nil || plain.Pending.Stage != identity.CertificateHeld {
		t.Errorf("plain run: %+v, pending %+v", plain, plain.Pending)
	}

	// It can be ended, or resumed.
	if _, err := d.store(t).DiscardPending(); err != nil {
		t.Fatal(err)
	}
	if plain, err = d.run(t); err != nil || plain.Pending != nil {
		t.Errorf("after discarding: error %v, pending %+v", err, plain.Pending)
	}
	if _, err = d.run(t, reprovision); awsiot.ClassOf(err) != awsiot.Denied {
		t.Fatalf("error %v", err)
	}
	d.core.Faults.Set(nil)
	before := issued(d.core)
	resumed, err := d.run(t, reprovision)
	if err != nil || resumed.Identity.Record.Replaces != old || issued(d.core) != before {
		t.Errorf("resumed: %+v, error %v, %d certificates more", resumed, err, issued(d.core)-before)
	}
}

// The operator deactivates the older of two active certificates, and the device
// had not taken the newer one into use.
func TestDeniedIdentityGivesWayToARegisteredReplacement(t *testing.T) {
	for name, replace := range map[string]func(*provision.Config){
		"rotation":       func(c *provision.Config) { c.Rotate = true },
		"reprovisioning": func(c *provision.Config) { c.Reprovision = true },
		"damage":         func(c *provision.Config) { c.Rotate = true },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDevice(t, startEmulator(t))
			first, err := d.run(t)
			if err != nil {
				t.Fatal(err)
			}
			old := first.Identity.Record.CertificateID
			_, err = d.run(t, replace, func(c *provision.Config) { c.ThingName = "another" }) // ends it once registered
			if p := d.store(t).Status().Pending; p == nil || p.Stage != identity.Registered {
				t.Fatalf("error %v, pending %+v", err, p)
			}
			if plain, err := d.run(t); err != nil || plain.Identity.Record.CertificateID != old {
				t.Fatalf("while both are active: %+v, error %v", plain, err)
			}
			if err := d.core.Registry().UpdateCertificate(old, registry.Inactive); err != nil {
				t.Fatal(err)
			}
			if name == "damage" {
				if err := os.Remove(filepath.Join(d.dir, thing+".private.key")); err != nil {
					t.Fatal(err)
				}
			}
			result, err := d.run(t)
			if err != nil {
				t.Fatal(err)
			}
			if id := d.check(t); id.Record.Replaces != old || id.Record.CertificateID != result.Identity.Record.CertificateID {
				t.Errorf("record %+v", id.Record)
			}
		})
	}
}

func TestInactiveIdentityIsDenied(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	result, err := d.run(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.core.Registry().UpdateCertificate(result.Identity.Record.CertificateID, registry.Inactive); err != nil {
		t.Fatal(err)
	}
	_, err = d.run(t)
	if awsiot.ClassOf(err) != awsiot.Denied {
		t.Errorf("error %v of class %v", err, awsiot.ClassOf(err))
	}
	if _, err := d.run(t, func(c *provision.Config) { c.Reprovision = true }); err != nil {
		t.Fatalf("replacing it: %v", err)
	}
	d.check(t)
}

func TestBrokenIdentityIsReportedAndCanBeReplaced(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	first, err := d.run(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(d.dir, thing+".private.key")); err != nil {
		t.Fatal(err)
	}
	_, err = d.run(t)
	if broken, ok := errors.AsType[*identity.FileError](err); !ok || !errors.Is(err, identity.ErrBroken) || !strings.HasSuffix(broken.Path, ".private.key") {
		t.Errorf("error %v", err)
	}
	second, err := d.run(t, func(c *provision.Config) { c.Reprovision = true })
	if err != nil {
		t.Fatal(err)
	}
	if second.Retired != first.Identity.Record.CertificateID {
		t.Errorf("retired: %q", second.Retired)
	}
}

func TestUnexpectedThingNameLosesNothing(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	_, err := d.run(t, func(c *provision.Config) { c.ThingName = "fleety_other" })
	got, ok := errors.AsType[*provision.ThingNameError](err)
	if !ok || got.Want != "fleety_other" || got.Got != thing || !awsiot.ValidCertificateID(got.CertificateID) || awsiot.ClassOf(err) != awsiot.Misconfigured {
		t.Fatalf("error %v", err)
	}
	if _, err := d.run(t); err != nil {
		t.Fatal(err)
	}
	d.check(t)
	if got := issued(d.core); got != 1 {
		t.Errorf("%d certificates were issued", got)
	}
	if _, err := d.run(t, func(c *provision.Config) { c.ThingName = "fleety_other" }); awsiot.ClassOf(err) != awsiot.Misconfigured {
		t.Errorf("with an identity: error %v", err)
	}
}

func TestTwoDevicesWithOneSerialNumberBothGetAnIdentity(t *testing.T) {
	core := startEmulator(t)
	for range 2 {
		if _, err := newDevice(t, core).run(t); err != nil {
			t.Fatal(err)
		}
	}
	if active := activeCertificates(t, core); len(active) != 2 {
		t.Errorf("active certificates: %v", active)
	}
}

func TestMissingClaimIsMisconfigured(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	_, err := d.run(t, func(c *provision.Config) { c.Claims = nil })
	if awsiot.ClassOf(err) != awsiot.Misconfigured {
		t.Errorf("error %v of class %v", err, awsiot.ClassOf(err))
	}
	if _, err := os.Stat(d.dir); err == nil {
		if entries, _ := os.ReadDir(d.dir); len(entries) != 0 {
			t.Errorf("left: %v", entries)
		}
	}
}

func TestUnreachableServerIsTemporary(t *testing.T) {
	core := startEmulator(t)
	d := newDevice(t, core)
	if err := core.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := d.config
	c.Store = d.store(t)
	_, err := provision.RunQuickly(ctx, c)
	if awsiot.ClassOf(err) != awsiot.Temporary {
		t.Errorf("error %v of class %v", err, awsiot.ClassOf(err))
	}
}

// TestSecretsStayInTheirFiles looks for every private key and token in all
// that a run says.
func TestSecretsStayInTheirFiles(t *testing.T) {
	for _, keys := range []provision.Keys{provision.DeviceKeys, provision.ServiceKeys} {
		t.Run(string(keys), func(t *testing.T) {
			d := newDevice(t, startEmulator(t))
			d.config.Keys = keys
			d.core.Faults.Set(func(e localcore.Exchange) localcore.Fault {
				if e.Operation == awsiot.RegisterThing && e.Number < 3 {
					return rejection(503)
				}
				return localcore.Fault{DuplicateReply: true}
			})
			var said bytes.Buffer
			var secrets []string
			log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
			_, err := d.run(t, func(c *provision.Config) {
				c.Log, c.Session.Log = log, log
				c.Progress = func(e provision.Event) {
					log.Info("progress", "event", e)
					secrets = append(secrets, secretsIn(t, d.dir)...)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(secrets) == 0 {
				t.Fatal("no secret was seen on disk")
			}
			for _, secret := range secrets {
				if strings.Contains(said.String(), secret) {
					t.Fatalf("a secret of %d characters was said", len(secret))
				}
			}
		})
	}
}

// secretsIn returns what only the owner of a directory may read: the lines of
// keys, and tokens.
func secretsIn(t *testing.T, dir string) []string {
	var secrets []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil // it may have been removed meanwhile
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		text := string(data)
		if _, token, ok := strings.Cut(text, `"token":"`); ok {
			token, _, _ = strings.Cut(token, `"`)
			secrets = append(secrets, token)
		}
		if _, key, ok := strings.Cut(strings.ReplaceAll(text, `\n`, "\n"), "PRIVATE KEY-----\n"); ok {
			line, _, _ := strings.Cut(key, "\n")
			secrets = append(secrets, line)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return secrets
}
