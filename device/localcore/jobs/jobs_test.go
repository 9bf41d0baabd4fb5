package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/jobs"
)

// A memory is a store of the test.
type memory map[string][]byte

func (m memory) Each(f func(string, []byte) error) error {
	for key, value := range m {
		if err := f(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (m memory) Save(records map[string][]byte) error {
	maps.Copy(m, records)
	maps.DeleteFunc(m, func(_ string, value []byte) bool { return value == nil })
	return nil
}

// A fleet is a registry: thing names by group; "" has the things of no group.
type fleet map[string][]string

func (f fleet) HasThing(name string) bool {
	for _, things := range f {
		if slices.Contains(things, name) {
			return true
		}
	}
	return false
}

func (f fleet) Members(group string) ([]string, error) {
	things, ok := f[group]
	if !ok {
		return nil, errors.New("no such group")
	}
	return things, nil
}

func arn(resource string) string { return "arn:aws:iot:us-east-1:123456789012:" + resource }

// A bench is a service in a bubble of synctest, whose clock begins at @0.
type bench struct {
	*testing.T
	*jobs.Service
	fleet fleet
	store memory
	full  bool               // nothing can be stored
	stop  context.CancelFunc // of the service's Run

	mu        sync.Mutex
	published []string // "TOPIC PAYLOAD"
}

// Each and Save are those of the store.
func (b *bench) Each(f func(string, []byte) error) error { return b.store.Each(f) }

func (b *bench) Save(records map[string][]byte) error {
	if b.full {
		return errors.New("no space left on device")
	}
	return b.store.Save(records)
}

// bubble runs f with a service whose registry has things T1 to T4 in group G, and U.
func bubble(t *testing.T, f func(*bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, fleet: fleet{"G": {"T1", "T2", "T3", "T4"}, "": {"U"}}, store: memory{}}
		b.restart()
		f(b)
	})
}

// restart opens the service on its store.
func (b *bench) restart() {
	b.Helper()
	if b.stop != nil {
		b.stop()
		synctest.Wait()
	}
	s, err := jobs.Open(jobs.Config{HasThing: b.fleet.HasThing, Members: b.fleet.Members, ARN: arn, Store: b,
		Event: func(jobs.Event) {}, Now: time.Now, Log: slog.New(slog.DiscardHandler), Publish: func(m awsiot.Message) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.published = append(b.published, m.Topic+" "+string(m.Payload))
		}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	b.Service, b.stop = s, stop
	go s.Run(ctx)
	synctest.Wait() // it follows the registry
}

// create creates a job for a target such as thing/U; settings is JSON.
func (b *bench) create(id, target, settings string) {
	b.Helper()
	n := jobs.NewJob{Document: `{"operation":"test"}`}
	if settings != "" {
		if err := json.Unmarshal([]byte(settings), &n); err != nil {
			b.Fatal(err)
		}
	}
	n.Targets = []string{arn(target)}
	if _, err := b.CreateJob(id, n); err != nil {
		b.Fatal(err)
	}
}

// request sends an MQTT request of a thing, "THING/jobs/… PAYLOAD", and returns
// "accepted PAYLOAD" or "rejected PAYLOAD".
func (b *bench) request(r string) string {
	b.Helper()
	topic, payload, _ := strings.Cut(r, " ")
	t, ok := awsiot.ParseJobsTopic("$aws/things/" + topic)
	if !ok {
		b.Fatalf("%s is no topic of a request", topic)
	}
	var replies []string
	b.Handle(t, []byte(payload), func(m awsiot.Message) {
		replies = append(replies, strings.TrimPrefix(m.Topic, t.String()+"/")+" "+string(m.Payload))
	})
	if len(replies) != 1 {
		b.Fatalf("%d replies: %q", len(replies), replies)
	}
	return replies[0]
}

// notified compares what was published since the last call: "notify THING" or
// "notify-next THING", then JSON.
func (b *bench) notified(want ...string) {
	b.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(want) != len(b.published) {
		b.Fatalf("published %q, want %q", b.published, want)
	}
	for i, got := range b.published {
		words := strings.SplitN(want[i], " ", 3)
		topic, payload, _ := strings.Cut(got, " ")
		if topic != "$aws/things/"+words[1]+"/jobs/"+words[0] {
			b.Errorf("published on %s, want %s", topic, want[i])
		}
		if len(words) == 3 {
			same(b.T, words[2], payload)
		}
	}
	b.published = nil
}

// follow lets the service see that its registry changed.
func (b *bench) follow() {
	b.RegistryChanged()
	synctest.Wait()
}

// silent drops what was published so far.
func (b *bench) silent() {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published = nil
}

var moment = regexp.MustCompile(`@(\d+)`)

// same compares JSON; in want, @N stands for N seconds after the start.
func same(t *testing.T, want, got string) {
	t.Helper()
	want = moment.ReplaceAllStringFunc(want, func(m string) string {
		n, _ := strconv.Atoi(m[1:])
		return strconv.Itoa(946684800 + n)
	})
	var w, g any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("%v in %s", err, want)
	}
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("got %s\n%s", got, diff)
	}
}

// expect compares the response to a request: its kind, then JSON.
func (b *bench) expect(request, want string) {
	b.Helper()
	kind, payload, _ := strings.Cut(want, " ")
	gotKind, got, _ := strings.Cut(b.request(request), " ")
	if kind != gotKind {
		b.Fatalf("%s: %s %s, want %s", request, gotKind, got, want)
	}
	same(b.T, payload, got)
}

// rejected compares the code of the response to a request.
func (b *bench) rejected(request string, code awsiot.JobsErrorCode) {
	b.Helper()
	kind, payload, _ := strings.Cut(b.request(request), " ")
	var e awsiot.JobsError
	if json.Unmarshal([]byte(payload), &e); kind != "rejected" || e.Code != code || e.Message == "" {
		b.Errorf("%s: %s %s, want %s", request, kind, payload, code)
	}
}

// statuses returns the statuses of a job's executions, by thing and number.
func (b *bench) statuses(id string) string {
	b.Helper()
	all, err := b.JobExecutions(id, "")
	if err != nil {
		b.Fatal(err)
	}
	var out []string
	for _, e := range all {
		out = append(out, fmt.Sprintf("%s/%d:%s", e.ThingName, e.ExecutionNumber, e.Status))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (b *bench) hasStatuses(id, want string) {
	b.Helper()
	synctest.Wait()
	if got := b.statuses(id); got != want {
		b.Errorf("executions of %s: %s, want %s", id, got, want)
	}
}

func (b *bench) hasStatus(id string, want jobs.JobStatus) {
	b.Helper()
	j, err := b.DescribeJob(id)
	if err != nil || j.Status != want {
		b.Errorf("job %s is %s (%v), want %s", id, j.Status, err, want)
	}
}

// fails compares the code of an error.
func (b *bench) fails(err error, code awsiot.JobsErrorCode) {
	b.Helper()
	if e, ok := errors.AsType[*awsiot.JobsError](err); !ok || e.Code != code {
		b.Errorf("got %v, want %s", err, code)
	}
}

const queuedU = `{"jobId":"j","queuedAt":@0,"lastUpdatedAt":@0,"executionNumber":1,"versionNumber":1}`

// Each case is of https://docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html.
func TestJobsDeviceAPI(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		page string
		run  func(*bench)
	}{
		"GetPendingJobExecutions lists what is in progress and what is queued": {run: func(b *bench) {
			b.expect(`U/jobs/get {"clientToken":"c"}`, `accepted {"inProgressJobs":[],"queuedJobs":[],"timestamp":@0,"clientToken":"c"}`)
			b.create("j", "thing/U", "")
			b.create("k", "thing/U", "")
			b.request(`U/jobs/k/update {"status":"IN_PROGRESS"}`)
			b.expect(`U/jobs/get`, `accepted {"inProgressJobs":[{"jobId":"k","queuedAt":@0,"startedAt":@0,"lastUpdatedAt":@0,"executionNumber":1,"versionNumber":2}],
				"queuedJobs":[`+queuedU+`],"timestamp":@0}`)
		}},
		"StartNextPendingJobExecution starts the oldest execution and sets its details": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			time.Sleep(5 * time.Second)
			b.create("k", "thing/U", "")
			b.expect(`U/jobs/start-next {"statusDetails":{"step":"1"},"clientToken":"c"}`, `accepted {"execution":{"jobId":"j","thingName":"U",
				"jobDocument":{"operation":"test"},"status":"IN_PROGRESS","statusDetails":{"step":"1"},"queuedAt":@0,"startedAt":@5,"lastUpdatedAt":@5,
				"versionNumber":2,"executionNumber":1},"timestamp":@5,"clientToken":"c"}`)
		}},
		"StartNextPendingJobExecution returns an execution in progress first, its details unchanged": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.create("k", "thing/U", "")
			b.request(`U/jobs/k/update {"status":"IN_PROGRESS","statusDetails":{"step":"1"}}`)
			b.expect(`U/jobs/start-next {"statusDetails":{"step":"2"}}`, `accepted {"execution":{"jobId":"k","thingName":"U",
				"jobDocument":{"operation":"test"},"status":"IN_PROGRESS","statusDetails":{"step":"1"},"queuedAt":@0,"startedAt":@0,"lastUpdatedAt":@0,
				"versionNumber":2,"executionNumber":1},"timestamp":@0}`)
		}},
		"StartNextPendingJobExecution has no execution when none is pending": {run: func(b *bench) {
			b.expect(`U/jobs/start-next {"clientToken":"c"}`, `accepted {"timestamp":@0,"clientToken":"c"}`)
		}},
		"DescribeJobExecution of $next describes the next pending execution": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.expect(`U/jobs/$next/get`, `accepted {"execution":{"jobId":"j","thingName":"U","jobDocument":{"operation":"test"},"status":"QUEUED",
				"queuedAt":@0,"lastUpdatedAt":@0,"versionNumber":1,"executionNumber":1},"timestamp":@0}`)
		}},
		"DescribeJobExecution leaves the document out on request": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.expect(`U/jobs/j/get {"includeJobDocument":false,"executionNumber":1}`, `accepted {"execution":{"jobId":"j","thingName":"U","status":"QUEUED",
				"queuedAt":@0,"lastUpdatedAt":@0,"versionNumber":1,"executionNumber":1},"timestamp":@0}`)
			b.rejected(`U/jobs/j/get {"executionNumber":2}`, awsiot.JobsResourceNotFound)
		}},
		"UpdateJobExecution returns state and document on request only": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.expect(`U/jobs/j/update {"status":"IN_PROGRESS","clientToken":"c"}`, `accepted {"timestamp":@0,"clientToken":"c"}`)
			b.expect(`U/jobs/j/update {"status":"IN_PROGRESS","statusDetails":{"a":"b"},"includeJobExecutionState":true,"includeJobDocument":true}`,
				`accepted {"executionState":{"status":"IN_PROGRESS","statusDetails":{"a":"b"},"versionNumber":3},"jobDocument":{"operation":"test"},"timestamp":@0}`)
			b.expect(`U/jobs/j/update {"status":"SUCCEEDED","includeJobExecutionState":true}`,
				`accepted {"executionState":{"status":"SUCCEEDED","statusDetails":{"a":"b"},"versionNumber":4},"timestamp":@0}`)
		}},
		"UpdateJobExecution with another version than the current one is a VersionMismatch with the state": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			const request = `U/jobs/j/update {"status":"IN_PROGRESS","expectedVersion":7,"clientToken":"c"}`
			b.rejected(request, awsiot.JobsVersionMismatch)
			if got := b.request(request); !strings.Contains(got, `"executionState":{"status":"QUEUED","versionNumber":1}`) || !strings.Contains(got, `"clientToken":"c"`) {
				b.Error(got)
			}
			b.expect(`U/jobs/j/update {"status":"IN_PROGRESS","expectedVersion":1}`, `accepted {"timestamp":@0}`)
		}},
		"status details that an update does not give stay as they are": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.request(`U/jobs/start-next {"statusDetails":{"a":"b"}}`)
			b.expect(`U/jobs/j/update {"status":"IN_PROGRESS","includeJobExecutionState":true}`,
				`accepted {"executionState":{"status":"IN_PROGRESS","statusDetails":{"a":"b"},"versionNumber":3},"timestamp":@0}`)
			b.expect(`U/jobs/j/update {"status":"IN_PROGRESS","statusDetails":{"c":"d"},"includeJobExecutionState":true}`,
				`accepted {"executionState":{"status":"IN_PROGRESS","statusDetails":{"c":"d"},"versionNumber":4},"timestamp":@0}`)
		}},
		"a clientToken is returned in responses and errors": {run: func(b *bench) {
			b.expect(`U/jobs/get {"clientToken":"a b"}`, `accepted {"inProgressJobs":[],"queuedJobs":[],"timestamp":@0,"clientToken":"a b"}`)
			if got := b.request(`U/jobs/j/get {"clientToken":"a b"}`); !strings.HasPrefix(got, "rejected ") || !strings.Contains(got, `"clientToken":"a b"`) {
				b.Error(got)
			}
		}},
		"an execution that is queued can be rejected by its device at once": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.expect(`U/jobs/j/update {"status":"REJECTED","statusDetails":{"why":"old"}}`, `accepted {"timestamp":@0}`)
			b.hasStatuses("j", "U/1:REJECTED")
		}},
		"an execution that has ended cannot be updated": {page: "jobs-api", run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.request(`U/jobs/j/update {"status":"SUCCEEDED"}`)
			b.rejected(`U/jobs/j/update {"status":"IN_PROGRESS"}`, awsiot.JobsInvalidStateTransition)
			if got := b.request(`U/jobs/j/update {"status":"IN_PROGRESS"}`); !strings.Contains(got, `"executionState":{"status":"SUCCEEDED","versionNumber":2}`) {
				b.Error(got)
			}
			b.rejected(`U/jobs/j/get`, awsiot.JobsTerminalStateReached)
		}},
		"an execution that does not exist is a ResourceNotFound": {page: "jobs-api", run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.rejected(`U/jobs/k/update {"status":"IN_PROGRESS"}`, awsiot.JobsResourceNotFound)
			b.rejected(`T1/jobs/j/get`, awsiot.JobsResourceNotFound)
		}},
		"a payload that is no JSON is InvalidJson": {page: "jobs-api", run: func(b *bench) {
			b.rejected(`U/jobs/get {`, awsiot.JobsInvalidJSON)
			b.rejected("U/jobs/get {\"clientToken\":\"\xff\"}", awsiot.JobsInvalidJSON)
		}},
		"a topic of no operation is an InvalidTopic": {page: "jobs-api", run: func(b *bench) {
			b.rejected(`U/jobs/list {}`, awsiot.JobsInvalidTopic)
			b.rejected(`U/jobs/j/cancel {}`, awsiot.JobsInvalidTopic)
		}},
		"a status that a device cannot set is an InvalidRequest": {page: "jobs-api", run: func(b *bench) {
			b.create("j", "thing/U", "")
			for _, status := range []string{"CANCELED", "TIMED_OUT", "REMOVED", "", "DONE"} {
				b.rejected(`U/jobs/j/update {"status":"`+status+`"}`, awsiot.JobsInvalidRequest)
			}
			b.rejected(`U/jobs/j/update {"status":"QUEUED"}`, awsiot.JobsInvalidStateTransition)
			b.rejected(`U/jobs/j/update {"status":7}`, awsiot.JobsInvalidRequest)
		}},
		"status details that break their limits are an InvalidRequest": {page: "jobs-api", run: func(b *bench) {
			b.create("j", "thing/U", "")
			for _, details := range []string{`{"a b":"x"}`, `{"a":""}`, `{"a":"x\n"}`, `{"a":"` + strings.Repeat("x", 1025) + `"}`} {
				b.rejected(`U/jobs/j/update {"status":"IN_PROGRESS","statusDetails":`+details+`}`, awsiot.JobsInvalidRequest)
				b.rejected(`U/jobs/start-next {"statusDetails":`+details+`}`, awsiot.JobsInvalidRequest)
			}
			b.rejected(`U/jobs/j/update {"status":"IN_PROGRESS","stepTimeoutInMinutes":10081}`, awsiot.JobsInvalidRequest)
			b.rejected(`U/jobs/start-next {"stepTimeoutInMinutes":-1}`, awsiot.JobsInvalidRequest)
			// https://docs.aws.amazon.com/iot/latest/apireference/API_JobExecutionStatusDetails.html
			for _, escape := range []string{`\n`, `\u007f`, `\u200b`, `\ufeff`, `\u00ad`, `\ue000`, `\u0378`} {
				b.rejected(`U/jobs/j/update {"status":"IN_PROGRESS","statusDetails":{"a":"b`+escape+`"}}`, awsiot.JobsInvalidRequest)
			}
			b.expect(`U/jobs/j/update {"status":"IN_PROGRESS","statusDetails":{"a":"\u00e9 \ufffd \ud83d\ude00"}}`, `accepted {"timestamp":@0}`)
		}},
	} {
		t.Run(name, func(t *testing.T) { bubble(t, test.run) })
	}
}

// Each case is of https://docs.aws.amazon.com/iot/latest/developerguide/jobs-comm-notifications.html.
func TestJobsNotifications(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		page string
		run  func(*bench)
	}{
		"a first execution is in notify and in notify-next, with version 1 and its document": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.notified(`notify U {"timestamp":@0,"jobs":{"QUEUED":[`+queuedU+`]}}`,
				`notify-next U {"timestamp":@0,"execution":{"jobId":"j","status":"QUEUED","queuedAt":@0,"lastUpdatedAt":@0,"versionNumber":1,"executionNumber":1,"jobDocument":{"operation":"test"}}}`)
		}},
		"an execution behind another is in notify alone": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.silent()
			b.create("k", "thing/U", "")
			b.notified(`notify U {"timestamp":@0,"jobs":{"QUEUED":[` + queuedU + `,` + strings.Replace(queuedU, `"j"`, `"k"`, 1) + `]}}`)
		}},
		"starting the first execution, and its progress, send no notification": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.silent()
			b.request(`U/jobs/start-next`)
			b.request(`U/jobs/j/update {"status":"IN_PROGRESS","statusDetails":{"a":"b"}}`)
			b.notified()
		}},
		"a later execution that is started becomes the next one": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.create("k", "thing/U", "")
			b.silent()
			b.request(`U/jobs/k/update {"status":"IN_PROGRESS"}`)
			b.notified(`notify-next U {"timestamp":@0,"execution":{"jobId":"k","status":"IN_PROGRESS","queuedAt":@0,"startedAt":@0,"lastUpdatedAt":@0,"versionNumber":2,"executionNumber":1,"jobDocument":{"operation":"test"}}}`)
		}},
		"the end of the first execution notifies of the list and of the next one": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.create("k", "thing/U", "")
			b.silent()
			b.request(`U/jobs/j/update {"status":"SUCCEEDED"}`)
			b.notified(`notify U`, `notify-next U`)
			b.request(`U/jobs/k/update {"status":"REJECTED"}`)
			b.notified(`notify U {"timestamp":@0,"jobs":{}}`, `notify-next U {"timestamp":@0}`)
		}},
		"the end of an execution behind the first is in notify alone": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.create("k", "thing/U", "")
			b.silent()
			b.request(`U/jobs/k/update {"status":"FAILED"}`)
			b.notified(`notify U {"timestamp":@0,"jobs":{"QUEUED":[` + queuedU + `]}}`)
		}},
		"an execution that is deleted by force leaves an empty list": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.request(`U/jobs/start-next`)
			b.silent()
			if err := b.DeleteJobExecution("U", "j", 1, true); err != nil {
				b.Fatal(err)
			}
			b.notified(`notify U {"timestamp":@0,"jobs":{}}`, `notify-next U {"timestamp":@0}`)
			b.hasStatuses("j", "")
		}},
		"a notification lists ten executions at most": {run: func(b *bench) {
			for i := range 12 {
				b.silent()
				b.create(fmt.Sprint("j", i), "thing/U", "")
			}
			b.notified(`notify U`)
			b.create("k", "thing/U", "")
			b.mu.Lock()
			defer b.mu.Unlock()
			if n := strings.Count(b.published[0], `"jobId"`); n != 10 {
				b.Errorf("%d executions are listed", n)
			}
		}},
		"a job deleted by force leaves the lists of its things": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thinggroup/G", "")
			b.silent()
			b.fails(b.DeleteJob("j", false), awsiot.JobsInvalidStateTransition)
			if err := b.DeleteJob("j", true); err != nil {
				b.Fatal(err)
			}
			b.notified(`notify T1`, `notify-next T1`, `notify T2`, `notify-next T2`, `notify T3`, `notify-next T3`, `notify T4`, `notify-next T4`)
			b.restart()
			if len(b.Jobs()) != 0 {
				b.Error("the job is still there")
			}
		}},
	} {
		t.Run(name, func(t *testing.T) { bubble(t, test.run) })
	}
}

// Each case is of https://docs.aws.amazon.com/iot/latest/developerguide/jobs-configurations-details.html.
func TestJobConfigurations(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		page string
		run  func(*bench)
	}{
		"an execution times out when its in-progress timer expires": {run: func(b *bench) {
			b.create("j", "thing/U", `{"timeoutConfig":{"inProgressTimeoutInMinutes":20}}`)
			time.Sleep(time.Hour) // the timer starts with the execution
			b.request(`U/jobs/start-next`)
			b.silent()
			time.Sleep(20*time.Minute - time.Second)
			b.notified()
			time.Sleep(time.Second)
			b.notified(`notify U {"timestamp":@4800,"jobs":{}}`, `notify-next U {"timestamp":@4800}`)
			b.hasStatuses("j", "U/1:TIMED_OUT")
			b.hasStatus("j", jobs.JobCompleted)
		}},
		"a step timer replaces the one before and cannot outlast the in-progress timer": {run: func(b *bench) {
			b.create("j", "thing/U", `{"timeoutConfig":{"inProgressTimeoutInMinutes":20}}`)
			b.request(`U/jobs/start-next`)
			for _, step := range []struct{ after, minutes, left int }{{5, 7, 7 * 60}, {5, 5, 5 * 60}, {3, 9, 7 * 60}} {
				time.Sleep(time.Duration(step.after) * time.Minute)
				b.request(fmt.Sprintf(`U/jobs/j/update {"status":"IN_PROGRESS","stepTimeoutInMinutes":%d}`, step.minutes))
				if got := b.request(`U/jobs/j/get`); !strings.Contains(got, fmt.Sprintf(`"approximateSecondsBeforeTimedOut":%d,`, step.left)) {
					b.Errorf("%+v: %s", step, got)
				}
			}
			time.Sleep(7 * time.Minute)
			b.hasStatuses("j", "U/1:TIMED_OUT")
		}},
		"a step timer of -1 ends the step timer": {page: "jobs-mqtt-api", run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.request(`U/jobs/start-next {"stepTimeoutInMinutes":1}`)
			b.request(`U/jobs/j/update {"status":"IN_PROGRESS","stepTimeoutInMinutes":-1}`)
			time.Sleep(time.Hour)
			b.hasStatuses("j", "U/1:IN_PROGRESS")
		}},
		"timers go on after a restart": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.request(`U/jobs/start-next {"stepTimeoutInMinutes":10}`)
			time.Sleep(5 * time.Minute)
			b.restart()
			b.silent()
			time.Sleep(5 * time.Minute)
			b.hasStatuses("j", "U/1:TIMED_OUT")
		}},
		"a job reaches as many things per minute as its rate allows": {run: func(b *bench) {
			b.create("j", "thinggroup/G", `{"jobExecutionsRolloutConfig":{"maximumPerMinute":3}}`)
			b.hasStatuses("j", "T1/1:QUEUED T2/1:QUEUED T3/1:QUEUED")
			time.Sleep(59 * time.Second)
			b.hasStatuses("j", "T1/1:QUEUED T2/1:QUEUED T3/1:QUEUED")
			time.Sleep(time.Second)
			b.hasStatuses("j", "T1/1:QUEUED T2/1:QUEUED T3/1:QUEUED T4/1:QUEUED")
		}},
		"an exponential rate grows with the notified things": {run: func(b *bench) {
			for i := range 20 {
				b.fleet["G"] = append(b.fleet["G"], fmt.Sprintf("X%02d", i))
			}
			b.create("j", "thinggroup/G", `{"jobExecutionsRolloutConfig":{"maximumPerMinute":6,"exponentialRate":{"baseRatePerMinute":2,"incrementFactor":2,"rateIncreaseCriteria":{"numberOfNotifiedThings":4}}}}`)
			for minute, want := range []int{2, 4, 8, 14, 20, 24} {
				b.follow() // and not within the minute, however often the job is looked at
				if got := strings.Count(b.statuses("j"), "QUEUED"); got != want {
					b.Errorf("minute %d: %d things are notified, want %d", minute, got, want)
				}
				time.Sleep(time.Minute)
			}
		}},
		"a job that fails too often is canceled, its executions in progress go on": {run: func(b *bench) {
			b.create("j", "thinggroup/G", `{"abortConfig":{"criteriaList":[{"failureType":"FAILED","action":"CANCEL","thresholdPercentage":50,"minNumberOfExecutedThings":2}]}}`)
			b.request(`T1/jobs/start-next`)
			b.request(`T2/jobs/j/update {"status":"FAILED"}`)
			b.hasStatus("j", jobs.JobInProgress)
			b.request(`T3/jobs/j/update {"status":"FAILED"}`)
			b.hasStatus("j", jobs.JobCanceled)
			b.hasStatuses("j", "T1/1:IN_PROGRESS T2/1:FAILED T3/1:FAILED T4/1:CANCELED")
			b.expect(`T1/jobs/j/update {"status":"SUCCEEDED"}`, `accepted {"timestamp":@0}`)
		}},
		"a failed execution is queued again until its retries are used up": {run: func(b *bench) {
			b.create("j", "thing/U", `{"jobExecutionsRetryConfig":{"criteriaList":[{"failureType":"FAILED","numberOfRetries":2}]}}`)
			b.silent()
			for range 3 {
				b.hasStatus("j", jobs.JobInProgress)
				b.request(`U/jobs/j/update {"status":"FAILED"}`)
			}
			b.hasStatuses("j", "U/1:FAILED U/2:FAILED U/3:FAILED")
			b.hasStatus("j", jobs.JobCompleted)
			if e, err := b.DescribeJobExecution("U", "j", nil); err != nil || e.Retries() != 2 {
				b.Error(e, err)
			}
		}},
		"an execution that timed out is retried by its own criterion": {run: func(b *bench) {
			b.create("j", "thing/U", `{"timeoutConfig":{"inProgressTimeoutInMinutes":1},"jobExecutionsRetryConfig":{"criteriaList":[{"failureType":"TIMED_OUT","numberOfRetries":1}]}}`)
			b.request(`U/jobs/start-next`)
			time.Sleep(time.Minute)
			b.hasStatuses("j", "U/1:TIMED_OUT U/2:QUEUED")
			b.request(`U/jobs/j/update {"status":"FAILED"}`)
			b.hasStatuses("j", "U/1:TIMED_OUT U/2:FAILED")
		}},
		"a rejected execution is not retried": {run: func(b *bench) {
			b.create("j", "thing/U", `{"jobExecutionsRetryConfig":{"criteriaList":[{"failureType":"ALL","numberOfRetries":10}]}}`)
			b.request(`U/jobs/j/update {"status":"REJECTED"}`)
			b.hasStatuses("j", "U/1:REJECTED")
		}},
		"a thing that joins the group of a continuous job gets an execution": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thinggroup/G", `{"targetSelection":"CONTINUOUS"}`)
			for _, thing := range b.fleet["G"] {
				b.request(thing + `/jobs/j/update {"status":"SUCCEEDED"}`)
			}
			b.hasStatus("j", jobs.JobInProgress)
			b.silent()
			b.fleet["G"] = append(b.fleet["G"], "U")
			b.follow()
			b.notified(`notify U`, `notify-next U`)
		}},
		"a thing that leaves the group loses its execution, and gets another when it rejoins": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.fleet["H"] = []string{"U"}
			b.create("j", "thinggroup/H", `{"targetSelection":"CONTINUOUS","jobExecutionsRetryConfig":{"criteriaList":[{"failureType":"FAILED","numberOfRetries":1}]}}`)
			b.request(`U/jobs/j/update {"status":"FAILED"}`)
			for _, members := range [][]string{{}, {"U"}} {
				b.fleet["H"] = members
				b.follow()
			}
			b.hasStatuses("j", "U/1:FAILED U/2:REMOVED U/3:QUEUED")
			b.request(`U/jobs/j/update {"status":"FAILED"}`) // its retries are counted from zero
			b.hasStatuses("j", "U/1:FAILED U/2:REMOVED U/3:FAILED U/4:QUEUED")
		}},
		"a thing that is deleted has its executions removed": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.fleet[""] = nil
			b.follow()
			b.hasStatuses("j", "U/1:REMOVED")
			b.hasStatus("j", jobs.JobCompleted)
		}},
		"a snapshot job is completed when its last execution has ended": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thinggroup/G", "")
			for i, status := range []string{"SUCCEEDED", "FAILED", "REJECTED", "SUCCEEDED"} {
				b.hasStatus("j", jobs.JobInProgress)
				b.request(fmt.Sprintf(`T%d/jobs/j/update {"status":"%s"}`, i+1, status))
			}
			b.hasStatus("j", jobs.JobCompleted)
			j, _ := b.DescribeJob("j")
			if n := j.ProcessDetails; n["numberOfSucceededThings"] != 2 || n["numberOfFailedThings"] != 1 || n["numberOfRejectedThings"] != 1 || n["numberOfQueuedThings"] != 0 || j.CompletedAt != 946684800 {
				b.Errorf("%+v", j)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) { bubble(t, test.run) })
	}
}

// Each case is of https://docs.aws.amazon.com/iot/latest/apireference/API_CreateJob.html.
func TestJobsControlPlane(t *testing.T) {
	t.Parallel()
	create := func(b *bench, id, body string) error {
		var n jobs.NewJob
		if err := json.Unmarshal([]byte(body), &n); err != nil {
			b.Fatal(err)
		}
		_, err := b.CreateJob(id, n)
		return err
	}
	target := `"targets":["` + arn("thing/U") + `"]`
	for name, test := range map[string]struct {
		page string
		run  func(*bench)
	}{
		"a job with the id of another is rejected": {run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.fails(create(b, "j", `{`+target+`,"document":"{}"}`), awsiot.JobsAlreadyExists)
		}},
		"a target that is not registered is not found": {run: func(b *bench) {
			b.fails(create(b, "j", `{"targets":["`+arn("thing/V")+`"],"document":"{}"}`), awsiot.JobsResourceNotFound)
			b.fails(create(b, "j", `{"targets":["`+arn("thinggroup/V")+`"],"document":"{}"}`), awsiot.JobsResourceNotFound)
		}},
		"values beyond their limits are rejected": {run: func(b *bench) {
			for _, body := range []string{
				`{"document":"{}"}`, `{` + target + `}`, `{` + target + `,"document":"x"}`, `{"targets":["U"],"document":"{}"}`,
				`{` + target + `,"document":"\"` + strings.Repeat("x", 32768) + `\""}`,
				`{` + target + `,"document":"{}","timeoutConfig":{"inProgressTimeoutInMinutes":10081}}`,
				`{` + target + `,"document":"{}","jobExecutionsRolloutConfig":{"maximumPerMinute":1001}}`,
				`{` + target + `,"document":"{}","jobExecutionsRolloutConfig":{"exponentialRate":{"baseRatePerMinute":1,"incrementFactor":2}}}`,
				`{` + target + `,"document":"{}","abortConfig":{"criteriaList":[{"failureType":"FAILED","action":"CANCEL","thresholdPercentage":0,"minNumberOfExecutedThings":1}]}}`,
				`{` + target + `,"document":"{}","abortConfig":{"criteriaList":[{"failureType":"FAILED","action":"CANCEL","thresholdPercentage":10.999,"minNumberOfExecutedThings":1}]}}`,
				`{` + target + `,"document":"{}","jobExecutionsRolloutConfig":{"exponentialRate":{"baseRatePerMinute":1,"incrementFactor":1.55,"rateIncreaseCriteria":{"numberOfNotifiedThings":1}}}}`,
				`{` + target + `,"document":"{}","jobExecutionsRetryConfig":{"criteriaList":[{"failureType":"FAILED","numberOfRetries":6},{"failureType":"TIMED_OUT","numberOfRetries":5}]}}`,
			} {
				b.fails(create(b, "j", body), awsiot.JobsInvalidRequest)
			}
		}},
		"a document is returned as it was given, its placeholders too": {run: func(b *bench) {
			const document = `{ "files": ["${aws:iot:s3-presigned-url:https://s3.amazonaws.com/b/k?a=1&b=2}"] }`
			quoted, _ := json.Marshal(document)
			if err := create(b, "j", `{`+target+`,"document":`+string(quoted)+`,"presignedUrlConfig":{"roleArn":"arn:aws:iam::1:role/r","expiresInSec":60}}`); err != nil {
				b.Fatal(err)
			}
			b.restart()
			if j, err := b.DescribeJob("j"); err != nil || j.Document != document {
				b.Error(j.Document, err)
			}
			if got := b.request(`U/jobs/$next/get`); !strings.Contains(got, "${aws:iot:s3-presigned-url:https://s3.amazonaws.com/b/k?a=1&b=2}") {
				b.Error(got)
			}
		}},
		"a managed template gives the document": {page: "job-templates-managed", run: func(b *bench) {
			template := func(name, parameters string) error {
				return create(b, "j", `{`+target+`,"jobTemplateArn":"arn:aws:iot:us-east-1::jobtemplate/`+name+`","documentParameters":`+parameters+`}`)
			}
			b.fails(template("AWS-Download-File:1.0", `{"downloadUrl":"https://a"}`), awsiot.JobsInvalidRequest)
			b.fails(template("AWS-Reboot:1.0", `{"command":"a"}`), awsiot.JobsInvalidRequest)
			b.fails(template("AWS-Run-Command:1.0", `{"command":"a","pathToHandler":"b"}`), awsiot.JobsInvalidRequest)
			b.fails(template("AWS-Dance:1.0", `{}`), awsiot.JobsResourceNotFound)
			b.fails(template("AWS-Reboot:2.0", `{}`), awsiot.JobsInvalidRequest)
			b.fails(create(b, "j", `{`+target+`,"document":"{}","documentParameters":{"a":"b"}}`), awsiot.JobsInvalidRequest)
			b.fails(create(b, "j", `{`+target+`,"document":"{}","jobTemplateArn":"arn:aws:iot:us-east-1::jobtemplate/AWS-Reboot:1.0"}`), awsiot.JobsInvalidRequest)
			if err := template("AWS-Install-Application:1.0", `{"packages":"a b","runAsUser":"root"}`); err != nil {
				b.Fatal(err)
			}
			b.restart()
			const want = `{"steps":[{"action":{"input":{"args":["a b"],"handler":"install-packages.sh","path":""},"name":"Install-Application","runAsUser":"root","type":"runHandler"}}],"version":"1.0"}`
			if j, err := b.DescribeJob("j"); err != nil || j.Document != want || j.TemplateARN == "" || j.Parameters["packages"] != "a b" {
				b.Errorf("%+v, %v", j, err)
			}
		}},
		"a job that is canceled cancels what is queued, by force what is in progress too": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thinggroup/G", "")
			b.request(`T1/jobs/start-next`)
			if j, err := b.CancelJob("j", false, "BAD_FIRMWARE", "never mind"); err != nil || j.ReasonCode != "BAD_FIRMWARE" || j.Comment != "never mind" {
				b.Error(j, err)
			}
			b.hasStatus("j", jobs.JobCanceled)
			b.hasStatuses("j", "T1/1:IN_PROGRESS T2/1:CANCELED T3/1:CANCELED T4/1:CANCELED")
			if _, err := b.CancelJob("j", true, "", ""); err != nil {
				b.Fatal(err)
			}
			b.hasStatuses("j", "T1/1:CANCELED T2/1:CANCELED T3/1:CANCELED T4/1:CANCELED")
			if e, err := b.DescribeJobExecution("T1", "j", nil); err != nil || !e.ForceCanceled {
				b.Error(e, err)
			}
		}},
		"a canceled job with a rate reaches no more things": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thinggroup/G", `{"jobExecutionsRolloutConfig":{"maximumPerMinute":1}}`)
			if _, err := b.CancelJob("j", false, "", ""); err != nil {
				b.Fatal(err)
			}
			time.Sleep(time.Hour)
			b.hasStatuses("j", "T1/1:CANCELED")
		}},
		"only a queued execution is canceled without force": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thing/U", "")
			b.request(`U/jobs/start-next`)
			b.fails(b.CancelJobExecution("U", "j", false, nil, nil), awsiot.JobsInvalidStateTransition)
			version := int64(9)
			b.fails(b.CancelJobExecution("U", "j", true, &version, nil), awsiot.JobsVersionConflict)
			tooMany := map[string]string{}
			for i := range 11 {
				tooMany[fmt.Sprint(i)] = "x"
			}
			b.fails(b.CancelJobExecution("U", "j", true, nil, tooMany), awsiot.JobsInvalidRequest)
			if err := b.CancelJobExecution("U", "j", true, nil, map[string]string{"why": "because"}); err != nil {
				b.Fatal(err)
			}
			b.hasStatuses("j", "U/1:CANCELED")
			b.fails(b.CancelJobExecution("U", "j", true, nil, nil), awsiot.JobsInvalidStateTransition)
		}},
		"at most ten pending executions are listed and notified": {page: "job-limits", run: func(b *bench) {
			for i := range 12 {
				b.create(fmt.Sprint("j", i), "thing/U", "")
			}
			synctest.Wait()
			b.request(`U/jobs/j3/update {"status":"IN_PROGRESS"}`)
			if list := b.request(`U/jobs/get`); strings.Count(list, "jobId") != 10 || !strings.Contains(list, `"inProgressJobs":[{"jobId":"j3"`) {
				b.Error(list)
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			last := slices.DeleteFunc(b.published, func(m string) bool { return !strings.HasPrefix(m, "$aws/things/U/jobs/notify ") })
			if n := strings.Count(last[len(last)-1], "jobId"); n != 10 {
				b.Error(n, last[len(last)-1])
			}
		}},
		"a pending execution is deleted by force only": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thinggroup/G", "")
			b.fails(b.DeleteJobExecution("T1", "j", 1, false), awsiot.JobsInvalidStateTransition)
			b.fails(b.DeleteJobExecution("T1", "j", 2, true), awsiot.JobsResourceNotFound)
			for i := range 4 {
				if err := b.DeleteJobExecution(fmt.Sprint("T", i+1), "j", 1, true); err != nil {
					b.Fatal(err)
				}
			}
			b.hasStatus("j", jobs.JobCompleted)
		}},
		"targets are added to continuous jobs alone": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			b.create("j", "thing/U", "")
			_, err := b.AssociateTargetsWithJob("j", []string{arn("thinggroup/G")}, "")
			b.fails(err, awsiot.JobsInvalidRequest)
			b.create("k", "thing/U", `{"targetSelection":"CONTINUOUS"}`)
			if _, err := b.AssociateTargetsWithJob("k", []string{arn("thinggroup/G")}, "more"); err != nil {
				b.Fatal(err)
			}
			b.hasStatuses("k", "T1/1:QUEUED T2/1:QUEUED T3/1:QUEUED T4/1:QUEUED U/1:QUEUED")
		}},
		"settings of a job in progress are updated": {page: "iot-jobs-lifecycle", run: func(b *bench) {
			settings := func(text string) (s jobs.Settings) {
				if err := json.Unmarshal([]byte(text), &s); err != nil {
					b.Fatal(err)
				}
				return s
			}
			b.create("j", "thing/U", `{"description":"before"}`)
			if err := b.UpdateJob("j", settings(`{"timeoutConfig":{"inProgressTimeoutInMinutes":1}}`)); err != nil {
				b.Fatal(err)
			}
			if j, _ := b.DescribeJob("j"); j.Description != "before" || *j.Timeout.InProgressMinutes != 1 {
				b.Errorf("%+v", j)
			}
			b.fails(b.UpdateJob("j", settings(`{"timeoutConfig":{"inProgressTimeoutInMinutes":0}}`)), awsiot.JobsInvalidRequest)
			b.fails(b.UpdateJob("k", jobs.Settings{}), awsiot.JobsResourceNotFound)
		}},
		"jobs and executions outlive a restart": {page: "iot-jobs", run: func(b *bench) {
			b.create("j", "thinggroup/G", `{"jobExecutionsRolloutConfig":{"maximumPerMinute":2}}`)
			b.request(`T1/jobs/start-next`)
			before, _ := b.DescribeJob("j")
			b.restart()
			after, err := b.DescribeJob("j")
			if diff := cmp.Diff(before, after); diff != "" || err != nil {
				b.Error(diff, err)
			}
			b.hasStatuses("j", "T1/1:IN_PROGRESS T2/1:QUEUED")
			time.Sleep(time.Minute)
			b.hasStatuses("j", "T1/1:IN_PROGRESS T2/1:QUEUED T3/1:QUEUED T4/1:QUEUED")
		}},
	} {
		t.Run(name, func(t *testing.T) { bubble(t, test.run) })
	}
}

func TestRequestFindsWhatTheRegistryGainedBefore(t *testing.T) {
	t.Parallel()
	f := fleet{"G": nil}
	s, err := jobs.Open(jobs.Config{HasThing: f.HasThing, Members: f.Members, ARN: arn, Publish: func(awsiot.Message) {}, Event: func(jobs.Event) {}, Now: time.Now, Log: slog.New(slog.DiscardHandler)}) // and no Run
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateJob("j", jobs.NewJob{Targets: []string{arn("thinggroup/G")}, Document: "{}", TargetSelection: jobs.Continuous}); err != nil {
		t.Fatal(err)
	}
	f["G"] = []string{"T"}
	s.RegistryChanged()
	update := awsiot.JobsTopic{Thing: "T", Operation: awsiot.UpdateJobExecution, Job: "j"}
	s.Do(update, awsiot.JobsRequest{Status: awsiot.JobSucceeded}, func(_ awsiot.JobsResponse, err error) {
		if err != nil {
			t.Error(err)
		}
	})
}

func TestJobPassesOverThingsThatAreGone(t *testing.T) {
	t.Parallel()
	bubble(t, func(b *bench) {
		b.create("j", "thinggroup/G", `{"jobExecutionsRolloutConfig":{"maximumPerMinute":2}}`)
		b.fleet["G"] = []string{"T1", "T2"}
		b.request(`T1/jobs/j/update {"status":"SUCCEEDED"}`)
		b.request(`T2/jobs/j/update {"status":"SUCCEEDED"}`)
		b.hasStatus("j", jobs.JobInProgress)
		time.Sleep(time.Minute)
		b.hasStatuses("j", "T1/1:SUCCEEDED T2/1:SUCCEEDED")
		b.hasStatus("j", jobs.JobCompleted)
	})
}

func FuzzJobsRequest(f *testing.F) {
	f.Add("U/jobs/j/update", `{"status":"IN_PROGRESS","statusDetails":{"a":"b"},"expectedVersion":1,"stepTimeoutInMinutes":1}`)
	f.Add("U/jobs/$next/get", `{"executionNumber":1,"includeJobDocument":false}`)
	f.Add("U/jobs/start-next", `{"stepTimeoutInMinutes":-1,"clientToken":"x"}`)
	f.Fuzz(func(t *testing.T, topic, payload string) {
		parsed, ok := awsiot.ParseJobsTopic("$aws/things/" + topic)
		if !ok {
			return
		}
		if parsed.String() != "$aws/things/"+topic {
			t.Fatalf("%q parsed and printed is %q", topic, parsed)
		}
		s, err := jobs.Open(jobs.Config{HasThing: fleet{"": {"U"}}.HasThing, Members: fleet{}.Members, ARN: arn, Publish: func(awsiot.Message) {}, Event: func(jobs.Event) {}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.CreateJob("j", jobs.NewJob{Targets: []string{arn("thing/U")}, Document: "{}"}); err != nil {
			t.Fatal(err)
		}
		replies := 0
		s.Handle(parsed, []byte(payload), func(m awsiot.Message) {
			replies++
			if !json.Valid(m.Payload) {
				t.Errorf("%s %s", m.Topic, m.Payload)
			}
		})
		if replies != 1 {
			t.Errorf("%d replies", replies)
		}
	})
}

func TestWhatCannotBeStoredDoesNotHappen(t *testing.T) {
	bubble(t, func(b *bench) {
		b.create("j", "thing/U", `{"document":"{}","timeoutConfig":{"inProgressTimeoutInMinutes":2}}`)
		b.request("U/jobs/start-next")
		b.silent()
		b.full = true
		if _, err := b.CreateJob("k", jobs.NewJob{Targets: []string{arn("thing/U")}, Document: "{}"}); err == nil {
			b.Error("a job was created")
		}
		if answer := b.request(`U/jobs/j/update {"status":"SUCCEEDED"}`); !strings.HasPrefix(answer, "rejected ") {
			b.Error(answer)
		}
		time.Sleep(3 * time.Minute) // so that it would time out
		b.notified()
		b.hasStatuses("j", "U/1:IN_PROGRESS")
		b.full = false
		_, err := b.DescribeJob("k")
		b.fails(err, awsiot.JobsResourceNotFound)
		time.Sleep(2 * time.Minute)
		b.hasStatuses("j", "U/1:TIMED_OUT")
	})
}

// A change of the registry that could not be followed is followed once the disk has room.
func TestRegistryIsFollowedAfterAFullDisk(t *testing.T) {
	bubble(t, func(b *bench) {
		b.create("j", "thinggroup/G", `{"targetSelection":"CONTINUOUS"}`)
		b.silent()
		b.full = true
		b.fleet["G"] = append(b.fleet["G"], "U")
		b.follow()
		b.notified()
		b.full = false
		b.hasStatus("j", jobs.JobInProgress)
		time.Sleep(2 * time.Minute)
		b.notified(`notify U`, `notify-next U`)
	})
}

func TestRequestsAreReadByTheNamesOfTheirMembers(t *testing.T) {
	t.Parallel()
	got, err := jobs.ReadRequest([]byte(`{"Status":"FAILED","status":"IN_PROGRESS","statusdetails":{"a":"b"},"ClientToken":"other","executionNumber":1}`))
	want := awsiot.JobsRequest{Status: awsiot.JobInProgress, ExecutionNumber: new(int64(1))}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for payload, code := range map[string]awsiot.JobsErrorCode{
		`{"statusDetails":{"a":1},"clientToken":"T"}`: awsiot.JobsInvalidRequest,
		`{"executionNumber":"1","clientToken":"T"}`:   awsiot.JobsInvalidRequest,
		`[]`:                      awsiot.JobsInvalidRequest,
		`{"clientToken":"T"}{}`:   awsiot.JobsInvalidJSON,
		"{\"clientToken\":\"\xff": awsiot.JobsInvalidJSON,
	} {
		q, err := jobs.ReadRequest([]byte(payload))
		if e, ok := errors.AsType[*awsiot.JobsError](err); !ok || e.Code != code {
			t.Errorf("%s: %v, want %s", payload, err, code)
		}
		if code == awsiot.JobsInvalidRequest && payload != `[]` && q.ClientToken != "T" {
			t.Errorf("%s: its client token is lost", payload)
		}
	}
}

func TestSameOfSeveralFaultsIsReported(t *testing.T) {
	t.Parallel()
	payload := []byte(`{"status":1,"executionNumber":"1","expectedVersion":"1","includeJobDocument":1,"stepTimeoutInMinutes":"1"}`)
	_, want := jobs.ReadRequest(payload)
	for range 30 {
		if _, err := jobs.ReadRequest(payload); err == nil || err.Error() != want.Error() {
			t.Fatalf("%v, before %v", err, want)
		}
	}
	s, err := jobs.Open(jobs.Config{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	update := awsiot.JobsTopic{Thing: "t", Job: "j", Operation: awsiot.UpdateJobExecution}
	for range 30 {
		q := awsiot.JobsRequest{Status: awsiot.JobFailed, StatusDetails: map[string]string{"b": "", "a": "", "c": ""}}
		s.Do(update, q, func(_ awsiot.JobsResponse, err error) {
			if err == nil || !strings.Contains(err.Error(), `"a"`) {
				t.Fatal(err)
			}
		})
	}
}
