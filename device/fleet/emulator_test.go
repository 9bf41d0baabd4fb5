package fleet_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// admit stands in for the hook's binary.
func admit(_ context.Context, r payload.Request) (payload.Response, error) {
	serial, _, _ := r.Parameters.String(payload.SerialNumber)
	return payload.Response{AllowProvisioning: strings.HasPrefix(serial, payload.SerialPrefix)}, nil
}

func startEmulator(t testing.TB, change ...func(*localcore.Config)) *localcore.Server {
	t.Helper()
	c := localcore.Config{Templates: "../../templates", API: localcore.NoAPI, HookFunc: admit}
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

// stableAddress returns a free address on which an emulator can start again. Its port is below those
// that systems take for outgoing connections, 32768 and more on Linux: one of those may be
// another's by then.
func stableAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// newConfig describes n devices against the core.
func newConfig(t testing.TB, core *localcore.Server, n int) fleet.Config {
	t.Helper()
	claim, err := core.Claim().TLS()
	if err != nil {
		t.Fatal(err)
	}
	serials, err := fleet.NewSerials(payload.SerialPrefix, "", n)
	if err != nil {
		t.Fatal(err)
	}
	host, port := core.Endpoint()
	roots := core.RootCAs()
	return fleet.Config{
		Serials: serials,
		Device: func(serial string) provision.Config {
			return provision.Config{
				Session:           session.Options{Endpoint: host, Port: port, RootCAs: roots, Proxy: "direct"},
				Claims:            []*tls.Certificate{claim},
				Template:          localcore.TemplateName,
				Parameters:        map[string]string{payload.SerialNumber: serial, payload.DeviceLocation: "USA"},
				ExpectedThingName: "fleety_" + serial,
			}
		},
	}
}

func enroll(t testing.TB, c fleet.Config) *fleet.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, err := fleet.Enroll(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// checkRegistry demands that the emulator knows exactly the devices of the reports, each with the one
// active certificate that its report names.
func checkRegistry(t *testing.T, core *localcore.Server, reports ...*fleet.Report) {
	t.Helper()
	want := map[string][]string{}
	for _, r := range reports {
		for _, d := range r.Devices {
			if d.Outcome == fleet.Enrolled || d.Outcome == fleet.Already {
				want[d.ThingName] = []string{d.CertificateID}
			}
		}
	}
	if diff := cmp.Diff(want, activeCertificates(t, core)); diff != "" {
		t.Errorf("report (-) and registry (+) differ:\n%s", diff)
	}
}

// activeCertificates returns the ids of every thing's active certificates.
func activeCertificates(t *testing.T, core *localcore.Server) map[string][]string {
	t.Helper()
	r := core.Registry()
	active := map[string][]string{}
	for _, thing := range r.ListThings() {
		attachments, err := r.ListThingPrincipals(thing.Name)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range attachments {
			if c, ok := r.CertificateByID(a.CertificateID); ok && c.Status == registry.Active {
				active[thing.Name] = append(active[thing.Name], a.CertificateID)
			}
		}
	}
	return active
}

func stagesOf(r *fleet.Report) map[fleet.Stage]int64 {
	counts := map[fleet.Stage]int64{}
	for _, s := range r.Stages {
		counts[s.Stage] = s.Count
	}
	return counts
}

func sum(counts []int) (total int) {
	for _, n := range counts {
		total += n
	}
	return total
}
