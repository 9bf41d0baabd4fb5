package conformance_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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
	core, c := start(t, *only)
	before := owned(core)
	report, err := conformance.Run(t.Context(), c)
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
	if n := report.Count(conformance.Skipped); n > 0 {
		t.Errorf("%d checks were skipped", n)
	}
	var transcript bytes.Buffer
	if err := report.WriteTranscript(&transcript); err != nil {
		t.Fatal(err)
	}
	if found := secrets.FindString(transcript.String()); found != "" {
		t.Errorf("the transcript has a secret: %s", found)
	}
	if diff := cmp.Diff(before, owned(core)); diff != "" || len(report.LeftOver) > 0 {
		t.Errorf("left over: %q\n%s", report.LeftOver, diff)
	}
	t.Logf("%.1f s, %d the same", report.Seconds, report.Count(conformance.Same))
}

// secrets matches what no transcript may have. A token of the emulator has more characters than the
// word that stands for it.
var secrets = regexp.MustCompile(`PRIVATE KEY-----.{0,40}|123456789012|(?i:(?:ownershipToken|accessToken)[\\]*":[ ]*[\\]*"[^"<\\]{20}.{20})`)

// start starts an emulator, and returns how to check it.
func start(t *testing.T, pattern string) (*localcore.Server, conformance.Config) {
	t.Helper()
	core, err := localcore.Start(t.Context(), localcore.Config{ListenALPN: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	checks, err := conformance.Checks()
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(pattern)
	checks = slices.DeleteFunc(checks, func(c conformance.Check) bool { return !wanted.MatchString(c.Open + " " + c.Behavior + " " + c.File) })
	host, port := core.Endpoint()
	return core, conformance.Config{
		Endpoint: net.JoinHostPort(host, strconv.Itoa(port)), ALPNPort: core.PortALPN(), API: core.APIURL(), Roots: core.RootCAs(),
		Role: "arn:aws:iam::123456789012:role/any", Checks: checks,
	}
}

func TestInterruptedRunDeletesWhatItMade(t *testing.T) {
	t.Parallel()
	core, c := start(t, "registry|policies|jobs")
	before := owned(core)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var answers atomic.Int32
	c.API = changed(t, core, func(*http.Response) {
		if answers.Add(1) == 100 {
			cancel()
		}
	})
	report, err := conformance.Run(ctx, c)
	if !errors.Is(err, context.Canceled) || report.Count(conformance.Skipped) == 0 {
		t.Errorf("error %v, %d were skipped", err, report.Count(conformance.Skipped))
	}
	if diff := cmp.Diff(before, owned(core)); diff != "" || len(report.LeftOver) > 0 {
		t.Errorf("left over: %q\n%s", report.LeftOver, diff)
	}
}

// changed returns the address of a proxy that changes the answers of the emulator's API.
func changed(t *testing.T, core *localcore.Server, change func(*http.Response)) string {
	t.Helper()
	api, err := url.Parse(core.APIURL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(api) },
		ModifyResponse: func(r *http.Response) error { change(r); return nil },
	})
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// Credentials that may create certificates and nothing else leave one, which the error names.
func TestPreparationNamesWhatItLeaves(t *testing.T) {
	t.Parallel()
	core, c := start(t, "shadow")
	c.API = changed(t, core, func(r *http.Response) {
		if r.Request.URL.Path != "/certificates" {
			r.StatusCode = http.StatusForbidden
		}
	})
	_, err := conformance.Run(t.Context(), c)
	if !errors.Is(err, conformance.ErrDenied) || !strings.Contains(err.Error(), "; could not delete certificates/") {
		t.Errorf("error %v", err)
	}
}

// An endpoint that answers otherwise is reported with what AWS documents and what it answered. It
// is a proxy that changes one status.
func TestDifferenceIsReported(t *testing.T) {
	t.Parallel()
	core, c := start(t, "A policy that exists|A default version of a policy must exist")
	c.API = changed(t, core, func(r *http.Response) {
		if r.StatusCode == http.StatusConflict {
			r.StatusCode = http.StatusBadRequest
		}
	})
	report, err := conformance.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report.Results {
		want := conformance.Same
		if strings.HasPrefix(r.Behavior, "A policy that exists") {
			want = conformance.Differs
			if r.Want != "409 ResourceAlreadyExistsException" || !strings.HasPrefix(r.Got, "400 ResourceAlreadyExistsException") {
				t.Errorf("want %q, got %q", r.Want, r.Got)
			}
		}
		if r.Verdict != want {
			t.Errorf("%s: %s (%s)", r.Behavior, r.Verdict, r.Got)
		}
	}
	var junit bytes.Buffer
	if err := report.WriteJUnit(&junit); err != nil || !strings.Contains(junit.String(), `tests="2" failures="1"`) {
		t.Errorf("JUnit: %v\n%s", err, junit.String())
	}
}

// An endpoint that no check can connect to is no endpoint that differs, and nothing is left at its
// API.
func TestUnreachableEndpoint(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent.Close()
	for name, change := range map[string]func(*conformance.Config){
		"no API":          func(c *conformance.Config) { c.API = "http://127.0.0.1:1" },
		"no MQTT":         func(c *conformance.Config) { c.Endpoint = silent.Addr().String() },
		"root of another": func(c *conformance.Config) { c.Roots = x509.NewCertPool() },
	} {
		t.Run(name, func(t *testing.T) {
			core, c := start(t, "shadow")
			before := owned(core)
			change(&c)
			if _, err := conformance.Run(t.Context(), c); !errors.Is(err, conformance.ErrUnreachable) {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(before, owned(core)); diff != "" {
				t.Errorf("left over:\n%s", diff)
			}
		})
	}
}

// owned counts what a run must not leave. Certificates that were never registered AWS IoT deletes
// by itself.
func owned(core *localcore.Server) map[string]int {
	r := core.Registry()
	n := map[string]int{
		"things": len(r.ListThings()), "policies": len(r.ListPolicies()), "templates": len(r.ListProvisioningTemplates()),
		"types": len(r.ListThingTypes("")),
	}
	if groups, err := r.ListThingGroups("", false); err == nil {
		n["groups"] = len(groups)
	}
	for _, c := range r.ListCertificates() {
		if c.Status != registry.PendingActivation {
			n["certificates"]++
		}
	}
	return n
}
