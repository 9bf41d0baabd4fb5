package e2e

import (
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/localcore"
)

// rivals returns two devices that claim to be the same one, and a cloud whose
// hook looks at the certificates that a thing has.
func rivals(t *testing.T) (*cloud, [2]*device) {
	t.Helper()
	c := startCloud(t, func(c *localcore.Config) {
		c.HookFunc, c.Hook, c.API = nil, build(t, hook), ""
	})
	_, port := c.Endpoint()
	var devices [2]*device
	for i, flow := range flows {
		devices[i] = newDevice(t, build(t, shipped), t.TempDir(), "2974685", flow, c, port)
	}
	return c, devices
}

func TestSecondDeviceWithTheSameSerialNumberIsDenied(t *testing.T) {
	t.Parallel()
	c, devices := rivals(t)
	first, second := devices[0], devices[1]
	first.mustRun(t)
	o := second.run(t)
	if o.code != 3 {
		t.Errorf("exit code %d, want 3:\n%s", o.code, o.stderr)
	}
	if second.load(t) != nil {
		t.Error("the second device has an identity")
	}
	first.checkWhole(t, c)
	if o := first.mustRun(t); o.result.Provisioned {
		t.Error("the first device was provisioned again")
	}
}

// The hook asks and AWS IoT registers, so that both may be provisioned. Each that
// is has an identity of its own that works.
func TestDevicesWithTheSameSerialNumberAtOnceDoNotMix(t *testing.T) {
	t.Parallel()
	for range 3 {
		c, devices := rivals(t)
		var outcomes [2]outcome
		var both sync.WaitGroup
		for i, d := range devices {
			both.Go(func() { outcomes[i] = d.run(t) })
		}
		both.Wait()
		var in []string
		for i, d := range devices {
			switch id := d.load(t); {
			case outcomes[i].code == 0 && id != nil:
				in = append(in, certificateID(t, id))
				d.mustRun(t) // the identity connects and publishes
			case outcomes[i].code != 3 || id != nil:
				t.Errorf("exit code %d, identity %v:\n%s", outcomes[i].code, id, outcomes[i].stderr)
			}
		}
		if len(in) == 0 {
			t.Error("neither was provisioned")
		}
		active := c.active(t, devices[0].thing())
		slices.Sort(in)
		slices.Sort(active)
		if diff := cmp.Diff(in, active); diff != "" {
			t.Errorf("certificates of the devices (-) and the thing's ACTIVE ones (+):\n%s", diff)
		}
	}
}

// certificateID returns the id of the certificate itself, which the record
// must name.
func certificateID(t *testing.T, id *identity.Identity) string {
	t.Helper()
	got := awsiot.CertificateID(id.Certificate)
	if got != id.Record.CertificateID {
		t.Errorf("the record names certificate %s, the file holds %s", id.Record.CertificateID, got)
	}
	return got
}
