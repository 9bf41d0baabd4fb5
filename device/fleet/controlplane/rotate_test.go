package controlplane_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/fleet/controlplane"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// lamps creates things, and returns them as targets with one that is no thing.
func lamps(t *testing.T, core *localcore.Server, n int) (targets []controlplane.Target) {
	t.Helper()
	for i := range n + 1 {
		name := fmt.Sprintf("lamp_%03d", i)
		targets = append(targets, controlplane.Target{ThingName: name})
		if i == n {
			break
		}
		if _, err := core.Registry().CreateThing(registry.Thing{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	return targets
}

// report reports an execution as its device would.
func report(t *testing.T, core *localcore.Server, job, thing, status string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, core.APIURL()+"/things/"+thing+"/jobs/"+job, strings.NewReader(fmt.Sprintf(`{"status":%q,"statusDetails":{"reason":"why"}}`, status)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/iot-jobs-data/aws4_request, SignedHeaders=host, Signature=any")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	if answer.StatusCode != 200 {
		t.Fatal(answer.Status)
	}
}

func jobIDs(t *testing.T, run *controlplane.Run) (ids []string) {
	t.Helper()
	out, err := run.Client.ListJobs(t.Context(), &iot.ListJobsInput{})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range out.Jobs {
		ids = append(ids, aws.ToString(j.JobId))
	}
	return ids
}

// TestRotateCreatesOneJobForAHundredThings has a thing that does not exist, runs twice, and waits
// for what devices report, and for one that is removed meanwhile.
func TestRotateCreatesOneJobForAHundredThings(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	targets := lamps(t, core, 101)
	dry, rec := newRun(core, false)
	got, err := dry.Rotate(t.Context(), targets, "night")
	if err != nil || got.Things != 101 || got.Gone != 1 || len(got.Jobs) != 0 || len(rec.found) != 102 || len(jobIDs(t, dry)) != 0 {
		t.Fatalf("%+v, %v, found %d", got, err, len(rec.found))
	}
	run, _ := newRun(core, true)
	done, err := run.Rotate(t.Context(), targets, "night")
	if err != nil || done.Things != 101 || len(done.Jobs) != 2 || len(jobIDs(t, run)) != 2 {
		t.Fatalf("%+v, %v", done, err)
	}
	again, _ := newRun(core, true)
	if repeated, err := again.Rotate(t.Context(), targets, "night"); err != nil || !cmp.Equal(repeated, done) || len(jobIDs(t, run)) != 2 {
		t.Errorf("repeated: %+v, %v", repeated, err)
	}
	waiting, stop := context.WithCancelCause(t.Context())
	stop(errors.New("enough"))
	if err := run.AwaitJobs(waiting, &done); err == nil {
		t.Error("waited for nothing")
	}
	if _, err := run.Client.DeleteThing(t.Context(), &iot.DeleteThingInput{ThingName: aws.String("lamp_009")}); err != nil {
		t.Fatal(err)
	}
	removed := func(r *http.Request) bool { return r.URL.Path == "/things/lamp_009/jobs/"+done.Jobs[0] }
	run.Client = iot.New(run.Client.Options(), func(o *iot.Options) { o.HTTPClient = goneClient{awshttp.NewBuildableClient(), removed} })
	for i := range 101 {
		if i == 9 {
			continue
		}
		status := map[int]string{5: "FAILED", 7: "REJECTED"}[i]
		if status == "" {
			status = "SUCCEEDED"
		}
		report(t, core, done.Jobs[i/100], fmt.Sprintf("lamp_%03d", i), status)
	}
	if err := run.AwaitJobs(t.Context(), &done); err != nil {
		t.Fatal(err)
	}
	want := map[types.JobExecutionStatus]int{"SUCCEEDED": 98, "FAILED": 1, "REJECTED": 1, "REMOVED": 1}
	failed := []controlplane.Unsuccessful{{ThingName: "lamp_005", Status: "FAILED", Reason: "why"}, {ThingName: "lamp_007", Status: "REJECTED", Reason: "why"}, {ThingName: "lamp_009", Status: "REMOVED"}}
	if diff := cmp.Diff(want, done.Results) + cmp.Diff(failed, done.Unsuccessful); diff != "" {
		t.Error(diff)
	}
}

// TestRotateResumesFromJournal stops a run in its middle and repeats it with more things.
func TestRotateResumesFromJournal(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	all := lamps(t, core, 5)
	path := t.TempDir() + "/done.txt"
	for i, test := range []struct {
		targets         []controlplane.Target
		things, resumed int
		jobs            int // to wait for, those of earlier runs included
	}{{all[:3], 3, 0, 1}, {all, 2, 3, 2}, {all, 0, 5, 2}} {
		journal, err := controlplane.OpenJournal(path, "rotation")
		if err != nil {
			t.Fatal(err)
		}
		run, _ := newRun(core, true)
		run.Journal = journal
		done, err := run.Rotate(t.Context(), test.targets, "night")
		if err != nil || done.Things != test.things || done.Resumed != test.resumed || len(done.Jobs) != test.jobs {
			t.Errorf("run %d: %+v, %v", i, done, err)
		}
		if err := journal.Close(); err != nil {
			t.Error(err)
		}
	}
	run, _ := newRun(core, true)
	if ids := jobIDs(t, run); len(ids) != 2 {
		t.Errorf("jobs %v", ids)
	}
}

// A journal outlives its jobs.
func TestRotateWaitsForNoJobThatWasDeleted(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	run, _ := newRun(core, true)
	done, err := run.Rotate(t.Context(), lamps(t, core, 101), "night")
	if err != nil || len(done.Jobs) != 2 {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := run.Client.DeleteJob(t.Context(), &iot.DeleteJobInput{JobId: &done.Jobs[0], Force: true}); err != nil {
		t.Fatal(err)
	}
	report(t, core, done.Jobs[1], "lamp_100", "SUCCEEDED")
	if err := run.AwaitJobs(t.Context(), &done); err != nil || !maps.Equal(done.Results, map[types.JobExecutionStatus]int{types.JobExecutionStatusSucceeded: 1}) {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestResponseWithoutItsContentIsAnError has a proxy answer in the place of AWS IoT, without a body.
func TestResponseWithoutItsContentIsAnError(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	claim := controlplane.Target{CertificateID: core.Claim().CertificateID}
	things := lamps(t, core, 1)[:1]
	whole, _ := newRun(core, true)
	done, err := whole.Rotate(t.Context(), things, "whole")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string // what the paths of the requests begin with
		do   func(*controlplane.Run) error
	}{
		{"/certificates/", func(r *controlplane.Run) error {
			_, err := r.Revoke(t.Context(), []controlplane.Target{claim}, types.CertificateStatusRevoked)
			return err
		}},
		{"/policies/", func(r *controlplane.Run) error {
			_, err := r.Revoke(t.Context(), []controlplane.Target{claim}, types.CertificateStatusRevoked)
			return err
		}},
		{"/things/", func(r *controlplane.Run) error {
			_, err := r.Rotate(t.Context(), things, "night")
			return err
		}},
		{"/jobs/", func(r *controlplane.Run) error { return r.AwaitJobs(t.Context(), &done) }},
	} {
		run, _ := newRun(core, true)
		run.Client = iot.New(run.Client.Options(), func(o *iot.Options) { o.HTTPClient = emptyClient{awshttp.NewBuildableClient(), test.path} })
		if err := test.do(run); !errors.Is(err, controlplane.ErrIncomplete) {
			t.Errorf("no response for %s: error %v, want ErrIncomplete", test.path, err)
		}
	}
	if ids := jobIDs(t, whole); len(ids) != 1 {
		t.Errorf("jobs %v", ids)
	}
	if certificates, _ := statuses(core); certificates[claim.CertificateID] != registry.Active {
		t.Errorf("the claim is %s", certificates[claim.CertificateID])
	}
}

// TestAnyResponseWithoutItsContentChangesNothing leaves the content of one response out, in turn, of
// runs on devices that are to be kept: a claim, a certificate of two things, and a thing that has the
// claim.
func TestAnyResponseWithoutItsContentChangesNothing(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	made := enroll(t, core, "2974680000001", 2)
	claim, shared := core.Claim().CertificateID, made.Devices[0].CertificateID
	whole, _ := newRun(core, true)
	for _, id := range []string{claim, shared} {
		if _, err := whole.Client.AttachThingPrincipal(t.Context(), &iot.AttachThingPrincipalInput{
			ThingName: &made.Devices[1].ThingName, Principal: aws.String("arn:aws:iot:us-east-1:123456789012:cert/" + id),
		}); err != nil {
			t.Fatal(err)
		}
	}
	certificates, things := statuses(core)
	for name, do := range map[string]func(*controlplane.Run) (controlplane.Counts, error){
		"revoke": func(r *controlplane.Run) (controlplane.Counts, error) {
			return r.Revoke(t.Context(), []controlplane.Target{{CertificateID: claim}, {CertificateID: shared}}, types.CertificateStatusRevoked)
		},
		"cleanup": func(r *controlplane.Run) (controlplane.Counts, error) {
			return r.CleanupReport(t.Context(), &fleet.Report{Started: made.Started, ElapsedSeconds: made.ElapsedSeconds, Devices: made.Devices[:1]})
		},
		"cleanup of a type": func(r *controlplane.Run) (controlplane.Counts, error) { return r.CleanupType(t.Context(), "fleety") },
	} {
		for _, body := range []string{"", "{}"} {
			for n := 1; ; n++ {
				client := &emptyNthClient{BuildableClient: awshttp.NewBuildableClient(), body: body}
				client.left.Store(int32(n))
				run, _ := newRun(core, true)
				run.Client = iot.New(run.Client.Options(), func(o *iot.Options) { o.HTTPClient = client })
				counts, err := do(run)
				if client.left.Load() > 0 { // there were fewer
					if err != nil || counts.Certificates+counts.Things > 0 {
						t.Errorf("%s: %+v, %v", name, counts, err)
					}
					break
				}
				if !errors.Is(err, controlplane.ErrIncomplete) {
					t.Errorf("%s, response %d is %q: %+v, error %v, want ErrIncomplete", name, n, body, counts, err)
				}
			}
			if c, left := statuses(core); !maps.Equal(c, certificates) || !slices.Equal(left, things) {
				t.Fatalf("%s with responses %q changed certificates to %v, things to %v", name, body, c, left)
			}
		}
	}
}

// emptyNthClient answers one of the requests that change nothing with another body.
type emptyNthClient struct {
	*awshttp.BuildableClient
	body string
	left atomic.Int32 // until that one
}

func (c *emptyNthClient) Do(r *http.Request) (*http.Response, error) {
	if (r.Method == http.MethodGet || strings.HasPrefix(r.URL.Path, "/attached-policies/")) && c.left.Add(-1) == 0 {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(c.body))}, nil
	}
	return c.BuildableClient.Do(r)
}

// emptyClient answers reads below a path without a body.
type emptyClient struct {
	*awshttp.BuildableClient
	path string
}

func (c emptyClient) Do(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, c.path) {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}, nil
	}
	return c.BuildableClient.Do(r)
}

// TestRotateFindsTheThingOfACertificate also has a certificate of no thing.
func TestRotateFindsTheThingOfACertificate(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	made := enroll(t, core, "2974680000001", 1)
	run, _ := newRun(core, true)
	done, err := run.Rotate(t.Context(), []controlplane.Target{
		{CertificateID: made.Devices[0].CertificateID},
		{CertificateID: core.Claim().CertificateID},
		{CertificateID: strings.Repeat("0", 64)},
	}, "night")
	if err != nil || done.Things != 1 || done.Gone != 2 {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestRotateResumesThingsThatTwoTargetsName rotates a thing by its name, and later by both names too.
func TestRotateResumesThingsThatTwoTargetsName(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	made := enroll(t, core, "2974680000001", 1).Devices[0]
	name, certificate := controlplane.Target{ThingName: made.ThingName}, controlplane.Target{CertificateID: made.CertificateID}
	path := t.TempDir() + "/done.txt"
	for i, targets := range [][]controlplane.Target{{name}, {certificate, name}, {certificate}} {
		run, _ := newRun(core, true)
		var err error
		if run.Journal, err = controlplane.OpenJournal(path, "rotation"); err != nil {
			t.Fatal(err)
		}
		done, err := run.Rotate(t.Context(), targets, "night")
		if err != nil || len(jobIDs(t, run)) != 1 || done.Resumed != min(i, 1)*len(targets) {
			t.Errorf("run %d: %+v, %v", i, done, err)
		}
		if err := run.Journal.Close(); err != nil {
			t.Error(err)
		}
	}
	// A new journal, for two targets that are begun at once.
	for _, resumed := range []int{0, 2} {
		run, _ := newRun(core, true)
		var err error
		if run.Journal, err = controlplane.OpenJournal(path+"2", "rotation"); err != nil {
			t.Fatal(err)
		}
		done, err := run.Rotate(t.Context(), []controlplane.Target{certificate, name}, "day")
		if err != nil || len(jobIDs(t, run)) != 2 || done.Resumed != resumed {
			t.Errorf("both: %+v, %v", done, err)
		}
		if err := run.Journal.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestTokenThatIsRepeatedEndsAList has a server name the same next page for ever.
func TestTokenThatIsRepeatedEndsAList(t *testing.T) {
	t.Parallel()
	core := startEmulator(t)
	made := enroll(t, core, "2974680000001", 1)
	whole, _ := newRun(core, true)
	rotation, err := whole.Rotate(t.Context(), []controlplane.Target{{ThingName: made.Devices[0].ThingName}}, "night")
	if err != nil {
		t.Fatal(err)
	}
	certificates, things := statuses(core)
	for name, do := range map[string]func(*controlplane.Run) error{
		"the things of a certificate": func(r *controlplane.Run) error {
			_, err := r.Revoke(t.Context(), []controlplane.Target{{CertificateID: made.Devices[0].CertificateID}}, types.CertificateStatusRevoked)
			return err
		},
		"the certificates of a thing": func(r *controlplane.Run) error {
			_, err := r.Revoke(t.Context(), []controlplane.Target{{ThingName: made.Devices[0].ThingName}}, types.CertificateStatusRevoked)
			return err
		},
		"the things of a type": func(r *controlplane.Run) error {
			_, err := r.CleanupType(t.Context(), "fleety")
			return err
		},
		"the things of a group": func(r *controlplane.Run) error {
			_, err := r.ThingsInGroup(t.Context(), "fleet-provisioning-group")
			return err
		},
		"the executions of a job": func(r *controlplane.Run) error {
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			return r.AwaitJobs(ended, &rotation)
		},
	} {
		run, _ := newRun(core, true)
		run.Client = iot.New(run.Client.Options(), func(o *iot.Options) {
			o.HTTPClient = &repeatingClient{BuildableClient: awshttp.NewBuildableClient()}
		})
		if err := do(run); !errors.Is(err, controlplane.ErrIncomplete) {
			t.Errorf("%s: error %v, want ErrIncomplete", name, err)
		}
	}
	if c, left := statuses(core); !maps.Equal(c, certificates) || !slices.Equal(left, things) {
		t.Errorf("changed certificates to %v, things to %v", c, left)
	}
}

// repeatingClient has each list continue with the same page, and gives up after a hundred of them.
type repeatingClient struct {
	*awshttp.BuildableClient
	requests atomic.Int32
}

func (c *repeatingClient) Do(r *http.Request) (*http.Response, error) {
	if c.requests.Add(1) > 100 {
		return nil, errors.New("a hundred requests")
	}
	query := r.URL.Query()
	query.Del("nextToken")
	query.Del("marker")
	r.URL.RawQuery = query.Encode()
	response, err := c.BuildableClient.Do(r)
	if err != nil || response.StatusCode != http.StatusOK {
		return response, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	body = bytes.Replace(body, []byte("{"), []byte(`{"nextToken":"again","nextMarker":"again",`), 1)
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return response, err
}
