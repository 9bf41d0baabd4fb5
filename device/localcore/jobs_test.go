package localcore_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

func controlPlane(s *localcore.Server) *iot.Client {
	url := s.APIURL()
	return iot.New(iot.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: aws.AnonymousCredentials{}})
}

// startWithThings starts a server with things, all of them in group G.
func startWithThings(t *testing.T, things ...string) free {
	t.Helper()
	s := startFree(t, localcore.Config{})
	if _, err := s.Registry().CreateThingGroup(registry.ThingGroup{Name: "G"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range things {
		if _, err := s.Registry().CreateThing(registry.Thing{Name: name}); err != nil {
			t.Fatal(err)
		}
		if err := s.Registry().AddThingToThingGroup(name, "G"); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (f free) createJob(t *testing.T, id, target string, selection types.TargetSelection) {
	t.Helper()
	_, err := controlPlane(f.Server).CreateJob(t.Context(), &iot.CreateJobInput{
		JobId: &id, Targets: []string{f.ARN(target)}, Document: aws.String(`{"operation":"test"}`), TargetSelection: selection,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html:
// responses to requests of jobs go to the requesting connection, whether it subscribed or not, and
// to no other; notifications go to subscribers.
func TestJobResponsesGoToTheRequester(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T")
	const prefix = "$aws/things/T/jobs/"
	device, other := mustDial(t, s.Server, "T", s.tls), mustDial(t, s.Server, "other", s.tls)
	other.subscribe(t, prefix+"#")
	s.createJob(t, "j", "thing/T", "")
	got, payloads := other.topics(t, 2, prefix)
	if want := []string{"notify", "notify-next"}; !slices.Equal(got, want) {
		t.Errorf("the subscriber got %q, want %q", got, want)
	}
	if e, _ := payloads["notify-next"]["execution"].(map[string]any); e["jobId"] != "j" || e["status"] != "QUEUED" {
		t.Errorf("notified of %v", payloads["notify-next"])
	}
	ask := func(operation, payload string) map[string]any {
		t.Helper()
		if err := device.publish(t, prefix+operation, 1, payload); err != nil {
			t.Fatal(err)
		}
		topics, payloads := device.topics(t, 1, prefix)
		if topics[0] != operation+"/accepted" {
			t.Fatalf("%s: %v", topics[0], payloads)
		}
		return payloads[topics[0]]
	}
	started, _ := ask("start-next", `{"clientToken":"c"}`)["execution"].(map[string]any)
	if document, _ := started["jobDocument"].(map[string]any); started["status"] != "IN_PROGRESS" || document["operation"] != "test" {
		t.Errorf("started %v", started)
	}
	ask("j/update", `{"status":"SUCCEEDED"}`)
	if got, _ := other.topics(t, 2, prefix); !slices.Equal(got, []string{"notify", "notify-next"}) {
		t.Errorf("the subscriber got %q", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/jobs-comm-notifications.html:
// a device that ends an execution gets the response, then notify and notify-next.
func TestJobNotificationsFollowTheResponse(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T")
	const prefix = "$aws/things/T/jobs/"
	device := s.connect(t, 5, "T")
	device.mustSubscribe(0, prefix+"notify", prefix+"notify-next")
	s.createJob(t, "j", "thing/T", "")
	expect := func(topics ...string) {
		t.Helper()
		for _, want := range topics {
			if got := device.receive(packets.Publish).TopicName; got != prefix+want {
				t.Errorf("received %s, want %s", got, want)
			}
		}
	}
	expect("notify", "notify-next")
	device.publish(prefix+"j/update", 0, `{"status":"SUCCEEDED"}`)
	expect("j/update/accepted", "notify", "notify-next")
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-jobs-lifecycle.html:
// a thing that is added to the group of a continuous job is notified of it.
func TestContinuousJobReachesThingsThatJoinItsGroup(t *testing.T) {
	t.Parallel()
	s := startWithThings(t)
	s.createJob(t, "j", "thinggroup/G", types.TargetSelectionContinuous)
	device := mustDial(t, s.Server, "T", s.tls)
	device.subscribe(t, "$aws/things/T/jobs/notify-next")
	ctx, control := t.Context(), controlPlane(s.Server)
	if _, err := control.CreateThing(ctx, &iot.CreateThingInput{ThingName: aws.String("T")}); err != nil {
		t.Fatal(err)
	}
	if _, err := control.AddThingToThingGroup(ctx, &iot.AddThingToThingGroupInput{ThingName: aws.String("T"), ThingGroupName: aws.String("G")}); err != nil {
		t.Fatal(err)
	}
	if got := string(device.next(t).Payload()); !strings.Contains(got, `"jobId":"j"`) {
		t.Errorf("notified of %s", got)
	}
	if _, err := control.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: aws.String("T")}); err != nil {
		t.Fatal(err)
	}
	if got := string(device.next(t).Payload()); strings.Contains(got, "execution") {
		t.Errorf("a deleted thing is notified of %s", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/jobs-management-control-api.html:
// the control plane of jobs works with AWS's own SDK.
func TestJobsControlPlaneWithTheSDK(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T1", "T2", "T3")
	ctx, control := t.Context(), controlPlane(s.Server)
	s.createJob(t, "j", "thinggroup/G", "")
	s.createJob(t, "k", "thing/T1", types.TargetSelectionContinuous)

	described := must(control.DescribeJob(ctx, &iot.DescribeJobInput{JobId: aws.String("j")}))(t).Job
	if *described.JobArn != s.ARN("job/j") || described.Status != types.JobStatusInProgress || *described.JobProcessDetails.NumberOfQueuedThings != 3 ||
		described.TargetSelection != types.TargetSelectionSnapshot || time.Since(*described.CreatedAt) > time.Minute {
		t.Errorf("described %+v", described)
	}
	if document := must(control.GetJobDocument(ctx, &iot.GetJobDocumentInput{JobId: aws.String("j")}))(t).Document; *document != `{"operation":"test"}` {
		t.Errorf("document %s", *document)
	}
	listed := must(control.ListJobs(ctx, &iot.ListJobsInput{TargetSelection: types.TargetSelectionContinuous}))(t).Jobs
	if len(listed) != 1 || *listed[0].JobId != "k" {
		t.Errorf("listed %+v", listed)
	}
	of := must(control.ListJobExecutionsForJob(ctx, &iot.ListJobExecutionsForJobInput{JobId: aws.String("j"), MaxResults: aws.Int32(2)}))(t)
	if len(of.ExecutionSummaries) != 2 || of.NextToken == nil || *of.ExecutionSummaries[0].ThingArn != s.ARN("thing/T1") {
		t.Errorf("executions %+v", of)
	}
	forThing := must(control.ListJobExecutionsForThing(ctx, &iot.ListJobExecutionsForThingInput{ThingName: aws.String("T1"), Status: types.JobExecutionStatusQueued}))(t).ExecutionSummaries
	if len(forThing) != 2 || *forThing[0].JobId != "j" || *forThing[0].JobExecutionSummary.ExecutionNumber != 1 {
		t.Errorf("executions %+v", forThing)
	}
	must(control.UpdateJob(ctx, &iot.UpdateJobInput{JobId: aws.String("j"), Description: aws.String("new"), TimeoutConfig: &types.TimeoutConfig{InProgressTimeoutInMinutes: aws.Int64(5)}}))(t)
	must(control.CancelJobExecution(ctx, &iot.CancelJobExecutionInput{JobId: aws.String("j"), ThingName: aws.String("T1"), StatusDetails: map[string]string{"by": "operator"}}))(t)
	execution := must(control.DescribeJobExecution(ctx, &iot.DescribeJobExecutionInput{JobId: aws.String("j"), ThingName: aws.String("T1"), ExecutionNumber: aws.Int64(1)}))(t).Execution
	if execution.Status != types.JobExecutionStatusCanceled || execution.StatusDetails.DetailsMap["by"] != "operator" || execution.VersionNumber != 2 {
		t.Errorf("execution %+v", execution)
	}
	must(control.DeleteJobExecution(ctx, &iot.DeleteJobExecutionInput{JobId: aws.String("j"), ThingName: aws.String("T1"), ExecutionNumber: aws.Int64(1)}))(t)
	must(control.AssociateTargetsWithJob(ctx, &iot.AssociateTargetsWithJobInput{JobId: aws.String("k"), Targets: []string{s.ARN("thing/T2")}}))(t)
	canceled := must(control.CancelJob(ctx, &iot.CancelJobInput{JobId: aws.String("k"), ReasonCode: aws.String("ENOUGH")}))(t)
	if *canceled.JobId != "k" {
		t.Errorf("canceled %+v", canceled)
	}
	must(control.DeleteJob(ctx, &iot.DeleteJobInput{JobId: aws.String("k")}))(t)

	fails := func(err error, want string) {
		t.Helper()
		var e interface{ ErrorCode() string }
		if !errors.As(err, &e) || e.ErrorCode() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	_, err := control.DescribeJob(ctx, &iot.DescribeJobInput{JobId: aws.String("k")})
	fails(err, "ResourceNotFoundException")
	_, err = control.DeleteJob(ctx, &iot.DeleteJobInput{JobId: aws.String("j")})
	fails(err, "InvalidStateTransitionException")
	_, err = control.CreateJob(ctx, &iot.CreateJobInput{JobId: aws.String("j"), Targets: []string{s.ARN("thing/T1")}, Document: aws.String("{}")})
	fails(err, "ResourceAlreadyExistsException")
	_, err = control.CreateJob(ctx, &iot.CreateJobInput{JobId: aws.String("l"), Targets: []string{s.ARN("thing/T1")}, DocumentSource: aws.String("https://bucket.s3.amazonaws.com/key")})
	fails(err, "InvalidRequestException")
	_, err = control.CancelJobExecution(ctx, &iot.CancelJobExecutionInput{JobId: aws.String("j"), ThingName: aws.String("T2"), ExpectedVersion: aws.Int64(9)})
	fails(err, "VersionConflictException")
}

// must returns the result of a call that must succeed.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// The parts of a job and of an execution that hold nothing are described as empty objects, as in the
// examples of AWS's command line, and CreateJob takes them back.
func TestEmptyPartsOfJobsAreDescribed(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T")
	s.createJob(t, "j", "thing/T", "")
	const empty = `"presignedUrlConfig":{},"jobExecutionsRolloutConfig":{},"timeoutConfig":{}`
	for target, want := range map[string][]string{
		"/jobs/j":          strings.Split(empty, ","),
		"/jobs/j/things":   {`"retryAttempt":0`},
		"/things/T/jobs":   {`"retryAttempt":0`},
		"/things/T/jobs/j": {`"statusDetails":{}`},
	} {
		status, answer := call(t, s.Server, "GET", target, "")
		for _, part := range want {
			if status != http.StatusOK || !strings.Contains(answer, part) {
				t.Errorf("%s: %d %s, want %s", target, status, answer, part)
			}
		}
	}
	body := `{"targets":["` + s.ARN("thing/T") + `"],"document":"{}",` + empty + `}`
	if status, answer := call(t, s.Server, "PUT", "/jobs/k", body); status != http.StatusOK {
		t.Errorf("created with %s: %d %s", empty, status, answer)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/jobs-http-device-api.html:
// a request that is signed for the jobs data plane gets its answer, and any other that of the
// control plane on the same path.
func TestSigningNameSelectsTheJobsDataPlane(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T")
	s.createJob(t, "j", "thing/T", "")
	for path, want := range map[string]map[string]string{
		"/things/T/jobs":   {"iot-jobs-data": `"queuedJobs":[`, "iot": `"executionSummaries":[`, "": `"executionSummaries":[`},
		"/things/T/jobs/j": {"iot-jobs-data": `"jobDocument":"{\"operation\":\"test\"}"`, "iot": `"thingArn":`, "": `"thingArn":`},
	} {
		for service, part := range want {
			status, answer := call(t, s.Server, "GET", path, "", func(r *http.Request) {
				if service != "" {
					const hash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of no body
					err := v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: "any", SecretAccessKey: "any"}, r, hash, service, "us-east-1", time.Now())
					if err != nil {
						t.Error(err)
					}
				}
			})
			if status != http.StatusOK || !strings.Contains(answer, part) {
				t.Errorf("%s signed for %q: %d %s", path, service, status, answer)
			}
			query := url.Values{"X-Amz-Credential": {"any/20260102/us-east-1/" + service + "/aws4_request"}}
			if status, answer := call(t, s.Server, "GET", path+"?"+query.Encode(), ""); status != http.StatusOK || !strings.Contains(answer, part) {
				t.Errorf("%s signed for %q in its query: %d %s", path, service, status, answer)
			}
		}
	}
}

// awsEnvironment keeps the AWS command line from any real account.
func awsEnvironment(t *testing.T, s *localcore.Server) []string {
	none := filepath.Join(t.TempDir(), "none")
	return append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") }),
		"AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=",
		"AWS_MAX_ATTEMPTS=1", "AWS_CONFIG_FILE="+none, "AWS_SHARED_CREDENTIALS_FILE="+none, "AWS_ENDPOINT_URL="+s.APIURL())
}

// awsCLI returns what runs the AWS command line against a server.
func awsCLI(t *testing.T, s *localcore.Server) func(arguments ...string) map[string]any {
	t.Helper()
	if testing.Short() {
		t.Skip("the AWS command line takes a second for each command")
	}
	if _, err := exec.LookPath("aws"); err != nil {
		missing(t, "the aws command line", "AWS CLI 1 or 2")
	}
	env := awsEnvironment(t, s)
	return func(arguments ...string) map[string]any {
		t.Helper()
		command := exec.CommandContext(t.Context(), "aws", append([]string{"--output", "json"}, arguments...)...)
		command.Env, command.Stderr = env, t.Output()
		out, err := command.Output()
		if err != nil {
			t.Fatalf("aws %q: %v", arguments, err)
		}
		var answer map[string]any
		if len(out) > 0 {
			if err := json.Unmarshal(out, &answer); err != nil {
				t.Fatalf("aws %q: %s", arguments, out)
			}
		}
		return answer
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_Operations_AWS_IoT_Jobs_Data_Plane.html:
// the AWS command line runs a job from its creation to its end, and keeps a shadow meanwhile.
func TestAWSCommandLineRunsAJob(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T")
	run := awsCLI(t, s.Server)
	run("iot", "create-job", "--job-id", "j", "--targets", s.ARN("thing/T"), "--document", `{"operation":"test"}`)
	if pending := run("iot-jobs-data", "get-pending-job-executions", "--thing-name", "T"); len(pending["queuedJobs"].([]any)) != 1 {
		t.Errorf("pending %v", pending)
	}
	started := run("iot-jobs-data", "start-next-pending-job-execution", "--thing-name", "T", "--status-details", "step=1", "--step-timeout-in-minutes", "5")
	if e := started["execution"].(map[string]any); e["jobDocument"] != `{"operation":"test"}` || e["status"] != "IN_PROGRESS" || e["approximateSecondsBeforeTimedOut"] == nil {
		t.Errorf("started %v", e)
	}
	described := run("iot-jobs-data", "describe-job-execution", "--thing-name", "T", "--job-id", "$next", "--no-include-job-document")
	if e := described["execution"].(map[string]any); e["jobId"] != "j" || e["jobDocument"] != nil {
		t.Errorf("described %v", e)
	}
	run("iot-jobs-data", "update-job-execution", "--thing-name", "T", "--job-id", "j", "--status", "SUCCEEDED", "--expected-version", "2")
	if job := run("iot", "describe-job", "--job-id", "j")["job"].(map[string]any); job["status"] != "COMPLETED" {
		t.Errorf("job %v", job)
	}
	in, out := filepath.Join(t.TempDir(), "request"), filepath.Join(t.TempDir(), "document")
	if err := os.WriteFile(in, []byte(`{"state":{"reported":{"version":2}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	run("iot-data", "update-thing-shadow", "--thing-name", "T", "--payload", "fileb://"+in, out)
	run("iot-data", "get-thing-shadow", "--thing-name", "T", out)
	document, err := os.ReadFile(out)
	if err != nil || !strings.Contains(string(document), `"version":2`) {
		t.Errorf("shadow %s, %v", document, err)
	}
	if listed := run("iot-data", "list-named-shadows-for-thing", "--thing-name", "T"); len(listed["results"].([]any)) != 0 {
		t.Errorf("listed %v", listed)
	}
}

// What of CreateJob is not emulated is rejected by its name, never dropped.
func TestParametersOfJobsThatAreNotEmulatedAreRejected(t *testing.T) {
	t.Parallel()
	s := startWithThings(t, "T")
	for parameter, value := range map[string]string{
		"documentSource":             `"https://s3.amazonaws.com/bucket/document"`,
		"destinationPackageVersions": `["arn"]`, "namespaceId": `"ns"`,
		"schedulingConfig": `{"startTime":"2030-01-01T00:00"}`,
	} {
		status, answer := call(t, s.Server, "PUT", "/jobs/j", `{"targets":["`+s.ARN("thing/T")+`"],"document":"{}","`+parameter+`":`+value+`}`)
		if status != http.StatusBadRequest || !strings.Contains(answer, parameter) {
			t.Errorf("%s: %d %s", parameter, status, answer)
		}
	}
	for operation, request := range map[string]string{
		"CreateJobTemplate": "PUT /job-templates/t", "ListJobTemplates": "GET /job-templates",
	} {
		method, path, _ := strings.Cut(request, " ")
		if status, answer := call(t, s.Server, method, path, ""); status != http.StatusNotFound || !strings.Contains(answer, operation) {
			t.Errorf("%s: %d %s", operation, status, answer)
		}
	}
}
