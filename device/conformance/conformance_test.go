package conformance_test

import (
	"flag"
	"net"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/conformance"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

var only = flag.String("check", "", "run the checks that match this pattern only")

// The emulator does what AWS documents, wherever that can be seen from outside.
func TestEmulatorConforms(t *testing.T) {
	t.Parallel()
	core, err := localcore.Start(t.Context(), localcore.Config{ListenALPN: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	checks, err := conformance.Checks()
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(*only)
	var chosen []conformance.Check
	for _, c := range checks {
		if pattern.MatchString(c.Behavior) || pattern.MatchString(c.Open) && c.Open != "" {
			chosen = append(chosen, c)
		}
	}
	before := owned(core)
	host, port := core.Endpoint()
	report, err := conformance.Run(t.Context(), conformance.Config{
		Endpoint: net.JoinHostPort(host, strconv.Itoa(port)), ALPNPort: core.PortALPN(), API: core.APIURL(), Roots: core.RootCAs(),
		Role: "arn:aws:iam::123456789012:role/any", Checks: chosen,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		switch r.Verdict {
		case conformance.Differs, conformance.Failed:
			t.Errorf("%s %s %s: want %s, got %s", r.Open, r.Verdict, r.Behavior, r.Want, r.Got)
			for _, line := range r.Transcript {
				t.Log(line)
			}
		case conformance.Recorded:
			t.Logf("%s %s: %s", r.Open, r.Behavior, r.Got)
		}
	}
	if n := report.Count(conformance.Skipped); n > 1 && *only == "" {
		t.Errorf("%d checks were skipped", n)
	}
	if diff := cmp.Diff(before, owned(core)); diff != "" || len(report.LeftOver) > 0 {
		t.Errorf("left over: %q\n%s", report.LeftOver, diff)
	}
	t.Logf("%.1f s, %d the same", report.Seconds, report.Count(conformance.Same))
}

// owned counts what a run must not leave. Certificates that were never
// registered AWS IoT deletes by itself.
func owned(core *localcore.Server) map[string]int {
	r := core.Registry()
	n := map[string]int{
		"things": len(r.ListThings(registry.ThingFilter{})), "policies": len(r.ListPolicies()), "templates": len(r.ListProvisioningTemplates()),
		"types": len(r.ListThingTypes("")),
	}
	if groups, err := r.ListThingGroups(registry.ThingGroupFilter{}); err == nil {
		n["groups"] = len(groups)
	}
	for _, c := range r.ListCertificates() {
		if c.Status != registry.PendingActivation {
			n["certificates"]++
		}
	}
	return n
}
