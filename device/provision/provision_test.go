package provision_test

import (
	"context"
	"crypto/tls"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
)

const (
	serial = "2974685"
	thing  = "fleety_" + serial
)

// admit stands in for the hook's binary.
func admit(_ context.Context, r payload.Request) (payload.Response, error) {
	value, _, ok := r.Parameters.String(payload.SerialNumber)
	return payload.Response{AllowProvisioning: ok && len(value) > 6 && value[:6] == payload.SerialPrefix}, nil
}

func startEmulator(t *testing.T, change ...func(*localcore.Config)) *localcore.Server {
	t.Helper()
	c := localcore.Config{
		Templates: "../../templates",
		API:       localcore.NoAPI,
		HookFunc:  admit,
	}
	for _, f := range change {
		f(&c)
	}
	core, err := localcore.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := core.Close(); err != nil {
			t.Error(err)
		}
	})
	return core
}

// A device has a directory and a configuration. Every run opens its store
// anew, as a new process would.
type device struct {
	dir    string
	core   *localcore.Server
	config provision.Config
}

func newDevice(t *testing.T, core *localcore.Server) *device {
	t.Helper()
	claim, err := core.Claim().TLS()
	if err != nil {
		t.Fatal(err)
	}
	host, port := core.Endpoint()
	return &device{
		dir:  filepath.Join(t.TempDir(), "certs"),
		core: core,
		config: provision.Config{
			Session:           session.Options{Endpoint: host, Port: port, RootCAs: core.RootCAs(), Proxy: "direct"},
			Claims:            []*tls.Certificate{claim},
			Template:          localcore.TemplateName,
			Parameters:        map[string]string{payload.SerialNumber: serial, payload.DeviceLocation: "USA"},
			ExpectedThingName: thing,
			Author:            "Wilford Brimley",
		},
	}
}

func (d *device) store(t *testing.T) *identity.Store {
	t.Helper()
	s, err := identity.NewStore(identity.Config{SerialNumber: d.config.Parameters[payload.SerialNumber], Dir: d.dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *device) run(t *testing.T, change ...func(*provision.Config)) (*provision.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := d.config
	c.Store = d.store(t)
	for _, f := range change {
		f(&c)
	}
	return provision.RunQuickly(ctx, c)
}

// check demands that device and cloud agree on one identity.
func (d *device) check(t *testing.T) *identity.Identity {
	t.Helper()
	id, err := d.store(t).Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{id.Record.CertificateID}, activeCertificates(t, d.core)); diff != "" {
		t.Errorf("the device's certificate (-) is not the thing's only active one (+):\n%s", diff)
	}
	if p := d.store(t).Status().Pending; p != nil {
		t.Errorf("the journal is still there: %+v", p)
	}
	return id
}

func TestRunExchangesTheClaimForAnIdentity(t *testing.T) {
	for _, keys := range []provision.Keys{provision.DeviceKeys, provision.ServiceKeys} {
		t.Run(string(keys), func(t *testing.T) {
			d := newDevice(t, startEmulator(t))
			d.config.Keys = keys
			result, err := d.run(t)
			if err != nil {
				t.Fatal(err)
			}
			id := d.check(t)
			if !result.Provisioned {
				t.Error("the result does not say that the thing was registered")
			}
			want := provision.RoundTrips{Claim: 3, Exchange: 3, Device: 1, Total: 7}
			if diff := cmp.Diff(want, result.RoundTrips); diff != "" {
				t.Errorf("round trips (-want +got):\n%s", diff)
			}
			configuration := map[string]any{"FallbackUrl": "https://www.example.com/test-site", "LocationUrl": "https://ameri.ca"}
			if diff := cmp.Diff(configuration, id.Record.DeviceConfiguration); diff != "" {
				t.Errorf("device configuration (-want +got):\n%s", diff)
			}
			if id.Record.ThingName != thing || id.Record.Author != "Wilford Brimley" {
				t.Errorf("record %+v", id.Record)
			}
		})
	}
}

func TestSecondRunOnlyProvesTheIdentity(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	first, err := d.run(t)
	if err != nil {
		t.Fatal(err)
	}
	var steps []provision.Step
	second, err := d.run(t, func(c *provision.Config) {
		c.Claims = nil // it may have been destroyed by now
		c.Progress = func(e provision.Event) {
			if e.Ended && e.Err == nil {
				steps = append(steps, e.Step)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if second.Provisioned {
		t.Error("the second run says that it registered the thing")
	}
	if first.Identity.Record.CertificateID != second.Identity.Record.CertificateID {
		t.Error("the second run has another certificate")
	}
	if diff := cmp.Diff([]provision.Step{provision.StepConnectDevice, provision.StepPublishBirth}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	d.check(t)
}

func TestDeniedSerialNumberLeavesNoIdentity(t *testing.T) {
	d := newDevice(t, startEmulator(t))
	d.config.Parameters = map[string]string{payload.SerialNumber: "1234567", payload.DeviceLocation: "USA"}
	for range 2 {
		_, err := d.run(t)
		if got := awsiot.ClassOf(err); got != awsiot.Denied {
			t.Fatalf("class %v, error %v", got, err)
		}
	}
	if _, err := d.store(t).Load(); !errors.Is(err, identity.ErrNone) {
		t.Errorf("an identity was left: %v", err)
	}
}
