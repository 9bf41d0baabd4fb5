package controlplane_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/fleet"
	"example.com/fleety/device/fleet/controlplane"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startEmulator(t *testing.T) *localcore.Server {
	t.Helper()
	core, err := localcore.Start(t.Context(), localcore.Config{Templates: "../../../templates", HookFunc: func(context.Context, payload.Request) (payload.Response, error) {
		return payload.Response{AllowProvisioning: true}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { core.Close() })
	return core
}

// enroll enrolls n devices from a serial number on.
func enroll(t *testing.T, core *localcore.Server, first string, n int) *fleet.Report {
	t.Helper()
	claim, err := core.Claim().TLS()
	if err != nil {
		t.Fatal(err)
	}
	serials, err := fleet.NewSerials(payload.SerialPrefix, first, n)
	if err != nil {
		t.Fatal(err)
	}
	host, port := core.Endpoint()
	r, err := fleet.Enroll(t.Context(), fleet.Config{Serials: serials, Device: func(serial string) provision.Config {
		return provision.Config{
			Session:    session.Options{Endpoint: host, Port: port, RootCAs: core.RootCAs(), Proxy: "direct"},
			Claims:     []*tls.Certificate{claim},
			Template:   localcore.TemplateName,
			Parameters: map[string]string{payload.SerialNumber: serial, payload.DeviceLocation: "USA"},
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A recorder keeps what runs find, by serial number or thing.
type recorder struct {
	mu    sync.Mutex
	found map[string]controlplane.Device // under mu
}

// A lateDetacher answers DetachThingPrincipal at once and carries it out seconds later, as AWS IoT
// does: when a deletion was rejected because of it.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_DetachThingPrincipal.html
type lateDetacher struct {
	*awshttp.BuildableClient
	onDetach func() // unless it is nil
	mu       sync.Mutex
	pending  []*http.Request // under mu
}

func (l *lateDetacher) Do(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, "/principals") {
		if l.onDetach != nil {
			l.onDetach()
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.pending = append(l.pending, r.Clone(context.WithoutCancel(r.Context())))
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	response, err := l.BuildableClient.Do(r)
	if err != nil || r.Method != http.MethodDelete || response.StatusCode < 400 {
		return response, err
	}
	return response, l.detach()
}

func (l *lateDetacher) detach() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, pending := range l.pending {
		response, err := l.BuildableClient.Do(pending)
		if err != nil {
			return err
		}
		response.Body.Close()
	}
	l.pending = nil
	return nil
}

func newRun(core *localcore.Server, apply bool) (*controlplane.Run, *recorder) {
	rec := &recorder{found: map[string]controlplane.Device{}}
	return &controlplane.Run{
		Client: iot.New(iot.Options{
			BaseEndpoint: aws.String(core.APIURL()), Region: "us-east-1", Credentials: aws.AnonymousCredentials{},
			HTTPClient: &lateDetacher{BuildableClient: awshttp.NewBuildableClient()},
		}),
		Apply: apply, Rate: 1000,
		Found: func(d controlplane.Device) {
			rec.mu.Lock()
			defer rec.mu.Unlock()
			rec.found[d.Target.String()] = d
		},
	}, rec
}

// statuses returns the statuses of all certificates by id, and the names of all things.
func statuses(core *localcore.Server) (map[string]registry.CertificateStatus, []string) {
	certificates := map[string]registry.CertificateStatus{}
	for _, c := range core.Registry().ListCertificates() {
		certificates[c.ID] = c.Status
	}
	var things []string
	for _, thing := range core.Registry().ListThings() {
		things = append(things, thing.Name)
	}
	return certificates, things
}

// TestCleanupRemovesWhatTheRunMade has two runs in one registry, of which one is cleaned up; one of
// its things has another certificate since then.
func TestCleanupRemovesWhatTheRunMade(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	core.Faults.Set(func(e localcore.Exchange) localcore.Fault { // leaves a certificate that is not registered
		if e.Operation == awsiot.RegisterThing && e.Number == 3 {
			return localcore.Fault{Reject: &awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidRequest"}}
		}
		return localcore.Fault{}
	})
	made := enroll(t, core, "2974680000001", 4)
	core.Faults.Set(nil)
	other := enroll(t, core, "2974689000001", 2)
	i := slices.IndexFunc(made.Devices, func(d fleet.Device) bool { return d.Outcome == fleet.Enrolled })
	shared := made.Devices[i].ThingName
	if err := core.Registry().AttachThingPrincipal(shared, other.Devices[0].CertificateID, registry.NonExclusive); err != nil {
		t.Fatal(err)
	}
	certificatesBefore, thingsBefore := statuses(core)

	want := controlplane.Counts{Certificates: 4, Things: 2, Shared: 1}
	dry, rec := newRun(core, false)
	if got, err := dry.CleanupReport(t.Context(), made); err != nil || got != want {
		t.Errorf("a dry run found %+v, %v", got, err)
	}
	certificates, things := statuses(core)
	if diff := cmp.Diff(certificatesBefore, certificates) + cmp.Diff(thingsBefore, things); diff != "" {
		t.Errorf("a dry run changed something:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"2974680000001", "2974680000002", "2974680000003", "2974680000004"}, slices.Sorted(maps.Keys(rec.found))); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}

	run, _ := newRun(core, true)
	if got, err := run.CleanupReport(t.Context(), made); err != nil || got != want {
		t.Errorf("removed %+v, %v", got, err)
	}
	certificates, things = statuses(core)
	if len(certificates) != 3 || !slices.Equal(things, []string{shared, "fleety_2974689000001", "fleety_2974689000002"}) {
		t.Errorf("left are %v, %v", certificates, things)
	}
	run, _ = newRun(core, true)
	if got, err := run.CleanupReport(t.Context(), made); err != nil || got != (controlplane.Counts{Gone: 4}) {
		t.Errorf("once more: %+v, %v", got, err)
	}
}

// TestCleanupKeepsWhatTheRunDidNotMake has reports that name certificates of others, as an edited,
// stale or hostile report does.
func TestCleanupKeepsWhatTheRunDidNotMake(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	live := enroll(t, core, "2974681000001", 1).Devices[0]
	made := enroll(t, core, "2974682000001", 1)
	device := made.Devices[0]
	claim := core.Claim().CertificateID
	hour := time.Hour
	api, _ := newRun(core, true)
	// A claim that was made a moment before the run, as the first one always is, with a policy that
	// allows everything.
	fresh, err := api.Client.CreateKeysAndCertificate(t.Context(), &iot.CreateKeysAndCertificateInput{SetAsActive: true})
	if err == nil {
		_, err = api.Client.CreatePolicy(t.Context(), &iot.CreatePolicyInput{PolicyName: aws.String("all"), PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`)})
	}
	if err == nil {
		_, err = api.Client.AttachPolicy(t.Context(), &iot.AttachPolicyInput{PolicyName: aws.String("all"), Target: fresh.CertificateArn})
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*fleet.Report){
		"the claim":                        func(r *fleet.Report) { r.Devices[0].CertificateID = claim },
		"the claim, of a half-way failure": func(r *fleet.Report) { r.Devices[0].CertificateID, r.Devices[0].ThingName = claim, "" },
		"the claim, unknown to the report": func(r *fleet.Report) { r.ClaimCertificateID, r.Devices[0].CertificateID = "", claim },
		"a live device's certificate":      func(r *fleet.Report) { r.Devices[0].CertificateID = live.CertificateID },
		"a live device's, without a thing": func(r *fleet.Report) { r.Devices[0].CertificateID, r.Devices[0].ThingName = live.CertificateID, "" },
		"a live device's, with its thing": func(r *fleet.Report) {
			r.Devices[0].CertificateID, r.Devices[0].ThingName = live.CertificateID, live.ThingName
		},
		"another thing for the certificate": func(r *fleet.Report) { r.Devices[0].ThingName = live.ThingName },
		"another serial number":             func(r *fleet.Report) { r.Devices[0].SerialNumber = "2974681000001" },
		"a run before":                      func(r *fleet.Report) { r.Started = r.Started.Add(-hour) },
		"a run after":                       func(r *fleet.Report) { r.Started = r.Started.Add(hour) },
	} {
		r := *made
		r.Devices = []fleet.Device{device}
		change(&r)
		before, things := statuses(core)
		run, rec := newRun(core, true)
		got, err := run.CleanupReport(t.Context(), &r)
		if err != nil || got != (controlplane.Counts{Kept: 1}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		for _, d := range rec.found {
			if d.Kept == "" {
				t.Errorf("%s: no reason in %+v", name, d)
			}
		}
		after, thingsAfter := statuses(core)
		if diff := cmp.Diff(before, after) + cmp.Diff(things, thingsAfter); diff != "" {
			t.Errorf("%s: changed\n%s", name, diff)
		}
	}
	// With a claim that is attached to the very thing, too.
	if err := core.Registry().AttachThingPrincipal(device.ThingName, claim, registry.NonExclusive); err != nil {
		t.Fatal(err)
	}
	run, _ := newRun(core, true)
	if got, err := run.CleanupType(t.Context(), "fleety"); err != nil || got.Kept != 1 || got.Things != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if certificates, _ := statuses(core); certificates[claim] != registry.Active || certificates[device.CertificateID] != registry.Active {
		t.Errorf("left are %v", certificates)
	}
}

// TestCleanupTypeRemovesEveryThingOfTheType has more things than one page, and one of another type.
func TestCleanupTypeRemovesEveryThingOfTheType(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	made := enroll(t, core, "2974680000001", 3)
	api, _ := newRun(core, true)
	ctx := t.Context()
	if _, err := api.Client.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("lamp")}); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if _, err := api.Client.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("spare_" + string(rune('A'+i/26)) + string(rune('a'+i%26))), ThingTypeName: aws.String("fleety")}); err != nil {
			t.Fatal(err)
		}
	}
	want := controlplane.Counts{Certificates: 3, Things: 303}
	for _, apply := range []bool{false, true} {
		run, _ := newRun(core, apply)
		if got, err := run.CleanupType(ctx, "fleety"); err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
	}
	certificates, things := statuses(core)
	if len(certificates) != 1 || !slices.Equal(things, []string{"lamp"}) {
		t.Errorf("left are %v, %v, of %d devices", certificates, things, len(made.Devices))
	}
}

// TestInterruptedCleanupIsCompletedByTheNext interrupts one between the steps of a device, of whose
// thing nothing would lead to its certificate any more.
func TestInterruptedCleanupIsCompletedByTheNext(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	enroll(t, core, "2974680000001", 20) // more than are in progress at once
	ctx, interrupt := context.WithCancel(t.Context())
	run, _ := newRun(core, true)
	client := &lateDetacher{BuildableClient: awshttp.NewBuildableClient(), onDetach: interrupt}
	run.Client = iot.New(run.Client.Options(), func(o *iot.Options) { o.HTTPClient = client })
	if counts, err := run.CleanupType(ctx, "fleety"); !errors.Is(err, context.Canceled) || counts.Failed != 0 {
		t.Errorf("%+v, %v", counts, err)
	}
	if err := client.detach(); err != nil {
		t.Fatal(err)
	}
	run, _ = newRun(core, true)
	if _, err := run.CleanupType(t.Context(), "fleety"); err != nil {
		t.Error(err)
	}
	if certificates, things := statuses(core); len(certificates) != 1 || len(things) != 0 {
		t.Errorf("left are %v, %v", certificates, things)
	}
}

// A cutClient sends some requests that change something, and none after those, as a process that is
// killed.
type cutClient struct {
	*awshttp.BuildableClient
	changes atomic.Int64 // that are left
}

func (c *cutClient) Do(r *http.Request) (*http.Response, error) {
	looks := r.Method == http.MethodGet || strings.HasPrefix(r.URL.Path, "/attached-policies/")
	if !looks && c.changes.Add(-1) < 0 {
		return nil, &aws.RequestCanceledError{Err: errors.New("killed")} // which is not retried
	}
	return c.BuildableClient.Do(r)
}

// TestKilledCleanupOfATypeIsCompletedFromItsJournal kills one before each of its changes to a
// device. A certificate that somebody has activated again since then is kept.
func TestKilledCleanupOfATypeIsCompletedFromItsJournal(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	api, _ := newRun(core, true)
	killed := func(n int) (device fleet.Device, cleanup func(iot.HTTPClient) (controlplane.Counts, error)) {
		device = enroll(t, core, fmt.Sprintf("29746800000%02d", n), 1).Devices[0]
		path := t.TempDir() + "/done.txt"
		cleanup = func(client iot.HTTPClient) (controlplane.Counts, error) {
			journal, err := controlplane.OpenJournal(path, "cleanup")
			if err != nil {
				t.Fatal(err)
			}
			defer journal.Close()
			run, _ := newRun(core, true)
			run.Journal = journal
			run.Client = iot.New(run.Client.Options(), func(o *iot.Options) { o.HTTPClient = client })
			return run.CleanupType(t.Context(), "fleety")
		}
		client := &cutClient{BuildableClient: awshttp.NewBuildableClient()}
		client.changes.Store(int64(n))
		if counts, err := cleanup(client); err == nil {
			t.Fatalf("after %d changes: %+v", n, counts)
		}
		return device, cleanup
	}
	alive := awshttp.NewBuildableClient()
	for n := range 6 { // deactivate, detach two policies and the thing, delete thing and certificate
		_, cleanup := killed(n)
		if counts, err := cleanup(alive); err != nil || counts.Certificates != 1 {
			t.Errorf("after %d changes: %+v, %v", n, counts, err)
		}
		if certificates, things := statuses(core); len(certificates) != 1 || len(things) != 0 {
			t.Errorf("after %d changes: left are %v, %v", n, certificates, things)
		}
		if counts, err := cleanup(alive); err != nil || counts != (controlplane.Counts{}) {
			t.Errorf("after %d changes, once more: %+v, %v", n, counts, err)
		}
	}
	device, cleanup := killed(4)
	if _, err := api.Client.UpdateCertificate(t.Context(), &iot.UpdateCertificateInput{CertificateId: &device.CertificateID, NewStatus: types.CertificateStatusActive}); err != nil {
		t.Fatal(err)
	}
	counts, err := cleanup(alive)
	if certificates, _ := statuses(core); err != nil || counts != (controlplane.Counts{Things: 1, Kept: 1}) || certificates[device.CertificateID] != registry.Active {
		t.Errorf("active again: %+v, %v; left are %v", counts, err, certificates)
	}
}

// TestKeptDevicesAreNotResumedFrom revokes a device once what kept it is gone.
func TestKeptDevicesAreNotResumedFrom(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	device := enroll(t, core, "2974680000001", 1).Devices[0]
	if err := core.Registry().AttachThingPrincipal(device.ThingName, core.Claim().CertificateID, registry.NonExclusive); err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/done.txt"
	for _, want := range []controlplane.Counts{{Kept: 1}, {Certificates: 1}, {Resumed: 1}} {
		journal, err := controlplane.OpenJournal(path, "revoked")
		if err != nil {
			t.Fatal(err)
		}
		run, _ := newRun(core, true)
		run.Journal = journal
		got, err := run.Revoke(t.Context(), []controlplane.Target{{ThingName: device.ThingName}}, types.CertificateStatusRevoked)
		if err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
		if err := journal.Close(); err != nil {
			t.Error(err)
		}
		if want.Kept > 0 {
			if err := core.Registry().DetachThingPrincipal(device.ThingName, core.Claim().CertificateID); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestClaimIsFoundHoweverItsPolicyIsWritten has policies as PHP and others encode JSON.
func TestClaimIsFoundHoweverItsPolicyIsWritten(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	api, _ := newRun(core, true)
	for name, topic := range map[string]string{
		"plain": "topic/$aws/certificates/create/*", "slashes": `topic\/$aws\/provisioning-templates\/T\/provision\/*`, "dollar": `topic/\u0024aws/certificates/create/*`,
		"letters": `topic/\u0024\u0061ws\u002Fcertificates\u002fcreate/*`,
	} {
		claim, err := api.Client.CreateKeysAndCertificate(t.Context(), &iot.CreateKeysAndCertificateInput{SetAsActive: true})
		if err == nil {
			_, err = api.Client.CreatePolicy(t.Context(), &iot.CreatePolicyInput{PolicyName: &name, PolicyDocument: aws.String(
				`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:us-east-1:123456789012:` + topic + `"}]}`)})
		}
		if err == nil {
			_, err = api.Client.AttachPolicy(t.Context(), &iot.AttachPolicyInput{PolicyName: &name, Target: claim.CertificateArn})
		}
		if err != nil {
			t.Fatal(err)
		}
		run, _ := newRun(core, true)
		got, err := run.Revoke(t.Context(), []controlplane.Target{{CertificateID: *claim.CertificateId}}, types.CertificateStatusRevoked)
		if err != nil || got != (controlplane.Counts{Kept: 1}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestRevokeResumesFromJournal repeats a run of two devices with all of them.
func TestRevokeResumesFromJournal(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	made := enroll(t, core, "2974680000001", 6)
	path := t.TempDir() + "/done.txt"
	var targets []controlplane.Target
	for _, d := range made.Devices {
		targets = append(targets, controlplane.Target{ThingName: d.ThingName})
	}
	var total int
	for _, begun := range []int{2, 6, 6} {
		journal, err := controlplane.OpenJournal(path, "revoked of all")
		if err != nil {
			t.Fatal(err)
		}
		run, rec := newRun(core, true)
		run.Journal = journal
		got, err := run.Revoke(t.Context(), targets[:begun], types.CertificateStatusRevoked)
		if err != nil || len(rec.found) != got.Certificates || got.Resumed != total {
			t.Errorf("%+v, found %d, %v", got, len(rec.found), err)
		}
		total += got.Certificates
		if err := journal.Close(); err != nil {
			t.Error(err)
		}
	}
	if certificates, _ := statuses(core); total != 6 {
		t.Errorf("%d were revoked: %v", total, certificates)
	}
	if _, err := controlplane.OpenJournal(path, "revoked of others"); err == nil {
		t.Error("the journal of another operation was accepted")
	}
}

// TestJournalThatWasCutOffLosesOneDevice has what a full disk leaves. The devices are ones that do
// not exist: they are done, too.
func TestJournalThatWasCutOffLosesOneDevice(t *testing.T) {
	t.Parallel()
	run, _ := newRun(startEmulator(t), true)
	path := t.TempDir() + "/done.txt"
	targets := []controlplane.Target{{ThingName: "a"}, {ThingName: "b"}, {ThingName: "c"}, {ThingName: "d"}}
	for _, want := range []controlplane.Counts{{Gone: 4}, {Gone: 1, Resumed: 3}, {Resumed: 4}} {
		var err error
		if run.Journal, err = controlplane.OpenJournal(path, "revoked"); err != nil {
			t.Fatal(err)
		}
		if got, err := run.Revoke(t.Context(), targets, types.CertificateStatusRevoked); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
		if err := run.Journal.Close(); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want.Gone == 4 {
			text = text[:len(text)-1]
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestJournalOfTwoRunsThatBeganAtOnceIsRead has both find the file empty.
func TestJournalOfTwoRunsThatBeganAtOnceIsRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "done.txt")
	const header = "# iot_fleet revoked"
	for first, ours := range map[string]bool{
		"": true, header: true, header + header: true,
		"\na .": false, header + " at eu-west-1": false, header + header + " at eu-west-1": false, "# iot_fleet": false,
	} {
		if err := os.WriteFile(path, []byte(first), 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := controlplane.OpenJournal(path, "revoked")
		if (err == nil) != ours {
			t.Errorf("a file that begins with %q: error %v", first, err)
		}
		if err == nil {
			j.Close()
		}
	}
}

// A goneClient does not find what some requests are about: somebody else has removed it.
type goneClient struct {
	*awshttp.BuildableClient
	gone func(*http.Request) bool
}

func (c goneClient) Do(r *http.Request) (*http.Response, error) {
	if !c.gone(r) {
		return c.BuildableClient.Do(r)
	}
	return &http.Response{
		StatusCode: http.StatusNotFound, Body: http.NoBody, Request: r,
		Header: http.Header{"X-Amzn-Errortype": {"ResourceNotFoundException"}},
	}, nil
}

// TestWhatOthersRemoveMeanwhileIsNoFailure has two operators who do the same.
func TestWhatOthersRemoveMeanwhileIsNoFailure(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	enroll(t, core, "2974680000001", 2)
	run, _ := newRun(core, true)
	changes := func(r *http.Request) bool {
		return r.Method != http.MethodGet && !strings.HasPrefix(r.URL.Path, "/attached-policies/") // which is a list
	}
	run.Client = iot.New(run.Client.Options(), func(o *iot.Options) { o.HTTPClient = goneClient{awshttp.NewBuildableClient(), changes} })
	targets, err := run.ThingsOfType(t.Context(), "fleety")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := run.Revoke(t.Context(), targets, types.CertificateStatusRevoked); err != nil || got != (controlplane.Counts{Certificates: 2}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := run.CleanupType(t.Context(), "fleety"); err != nil || got != (controlplane.Counts{Certificates: 2, Things: 2}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestFailingDevicesDoNotStopOthers has targets that AWS IoT rejects, more in all than end a run that
// fails all the time, and one target twice.
func TestFailingDevicesDoNotStopOthers(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	made := enroll(t, core, "2974680000001", 2)
	run, rec := newRun(core, true)
	targets := []controlplane.Target{{ThingName: made.Devices[0].ThingName}, {ThingName: made.Devices[0].ThingName}}
	for i := range 120 {
		if i == 60 {
			targets = append(targets, controlplane.Target{CertificateID: made.Devices[1].CertificateID}, controlplane.Target{ThingName: "fleety_nobody"})
		}
		targets = append(targets, controlplane.Target{CertificateID: fmt.Sprintf("%063xz", i)})
	}
	got, err := run.Revoke(t.Context(), targets, types.CertificateStatusRevoked)
	if want := (controlplane.Counts{Certificates: 2, Gone: 1, Failed: 120}); err == nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if d := rec.found[targets[5].String()]; d.Err == nil {
		t.Errorf("no reason in %+v", d)
	}
}

func TestReadTargets(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0af1", 16)
	for name, test := range map[string]struct {
		text string
		want []controlplane.Target // nil for an error
	}{
		"one column":       {"a\nb\n", []controlplane.Target{{ThingName: "a"}, {ThingName: "b"}}},
		"certificate ids":  {id + "\nb", []controlplane.Target{{CertificateID: id}, {ThingName: "b"}}},
		"header":           {"thingName\na", []controlplane.Target{{ThingName: "a"}}},
		"named column":     {"x,CERTIFICATEID\n1," + id, []controlplane.Target{{CertificateID: id}}},
		"byte order mark":  {"\ufeffthingName\r\na\r\n", []controlplane.Target{{ThingName: "a"}}},
		"mark and quotes":  {"\ufeff\"Region\",\"thingName\"\r\n\"USA\",\"a\"\r\n", []controlplane.Target{{ThingName: "a"}}},
		"mark alone":       {"\ufeff", nil},
		"names in words":   {"Region,Thing Name \nUSA,a\n", []controlplane.Target{{ThingName: "a"}}},
		"other spaces":     {"Region;Thing\u00a0Name\u00a0:\u200b\n1;a\n", []controlplane.Target{{ThingName: "a"}}},
		"a name like ours": {"x,thing-name-1\n", []controlplane.Target{{ThingName: "x"}}},
		"names in snakes":  {"region,certificate_id\nUSA," + id + "\n", []controlplane.Target{{CertificateID: id}}},
		"quotes, comments": {"# old\n\"a\", stolen\n", []controlplane.Target{{ThingName: "a"}}},
		"empty":            {"", nil},
		"header only":      {"thingName\n", nil},
		"spaces within":    {"a b\n", nil},
		"bad later line":   {"a\nb;c\n", nil},
		"column missing":   {"x,thingName\n1\n", nil},
		"semicolons":       {"# a, b\n\"Name, old\";Thing Name\r\n1;a\r\n", []controlplane.Target{{ThingName: "a"}}},
		"tabs, no region":  {"Region\tthingName\n\ta\n", []controlplane.Target{{ThingName: "a"}}},
		"rows of nothing":  {" \nthingName,x\n  \na,1\n,\n", []controlplane.Target{{ThingName: "a"}}},
		"no name in a row": {"thingName,x\n,1\n", nil},
		"capitals":         {strings.ToUpper(id) + "\n", []controlplane.Target{{CertificateID: id}}},
		"certificate ARNs": {"certificateArn\narn:aws-cn:iot:cn-north-1:123456789012:cert/" + id + "\n", []controlplane.Target{{CertificateID: id}}},
		"ARN of a thing":   {"arn:aws:iot:us-east-1:123456789012:thing/a\n", nil}, // which may be of another Region
		"things like ids":  {"thingName\n" + id + "\n", []controlplane.Target{{ThingName: id}}},
		"ids like things":  {"certificateId\na\n", nil},
	} {
		got, err := controlplane.ReadTargets(strings.NewReader(test.text))
		if diff := cmp.Diff(test.want, got); diff != "" || (err != nil) != (test.want == nil) {
			t.Errorf("%s: %v (-want +got)\n%s", name, err, diff)
		}
	}
}
