package fleet_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// TestCleanupRemovesWhatARunMadeAndNothingElse has two runs in one registry, of
// which one is cleaned up; one of its things has got another certificate since.
func TestCleanupRemovesWhatARunMadeAndNothingElse(t *testing.T) {
	core := startCore(t, func(c *localcore.Config) { c.API = "" })
	core.Faults.Set(refuseThird()) // leaves a certificate that is not registered
	c := newConfig(t, core, 4)
	made := enrol(t, c)
	core.Faults.Set(nil)
	other := newConfig(t, core, 2)
	var err error
	if other.Serials, err = fleet.NewSerials("297468", "2974689000001", 2); err != nil {
		t.Fatal(err)
	}
	stays := enrol(t, other)
	i := slices.IndexFunc(made.Devices, func(d fleet.Device) bool { return d.Outcome == fleet.Enrolled })
	shared := made.Devices[i].ThingName
	if err := core.Registry().AttachThingPrincipal(shared, stays.Devices[0].CertificateID, registry.NonExclusive); err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	var serials []string
	cleanup := &fleet.Cleanup{
		Client: iot.New(iot.Options{BaseEndpoint: aws.String(core.APIURL()), Region: "us-east-1", Credentials: aws.AnonymousCredentials{}}),
		Found: func(r fleet.Remains) {
			mu.Lock()
			defer mu.Unlock()
			serials = append(serials, r.SerialNumber)
		},
	}
	before := activeCertificates(t, core)
	want := fleet.Cleaned{Certificates: 4, Things: 2, Shared: 1}
	got, err := cleanup.Run(t.Context(), made)
	if err != nil || got != want {
		t.Errorf("a dry run found %+v, %v", got, err)
	}
	if diff := cmp.Diff(before, activeCertificates(t, core)); diff != "" {
		t.Errorf("a dry run changed something:\n%s", diff)
	}
	slices.Sort(serials)
	if diff := cmp.Diff([]string{"2974680000001", "2974680000002", "2974680000003", "2974680000004"}, serials); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}

	cleanup.Delete = true
	if got, err = cleanup.Run(t.Context(), made); err != nil || got != want {
		t.Errorf("removed %+v, %v", got, err)
	}
	left := map[string][]string{shared: {stays.Devices[0].CertificateID}}
	for _, d := range stays.Devices {
		left[d.ThingName] = []string{d.CertificateID}
	}
	if diff := cmp.Diff(left, activeCertificates(t, core)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if n := len(core.Registry().ListCertificates()); n != 1+len(stays.Devices) {
		t.Errorf("%d certificates are left", n)
	}
	if got, err = cleanup.Run(t.Context(), made); err != nil || got != (fleet.Cleaned{Gone: 4}) {
		t.Errorf("once more: %+v, %v", got, err)
	}
}
