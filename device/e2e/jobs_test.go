package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/cli/fleetcli"
	"example.com/fleety/device/internal/term"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// A worksite is a device whose agent takes jobs, and the control plane.
type worksite struct {
	*agentProcess
	cloud    *cloud
	handlers string
	ahead    atomic.Int64 // seconds that the cloud's clock is ahead
	api      *iot.Client
}

func newWorksite(t *testing.T, allow ...string) *worksite {
	t.Helper()
	w := &worksite{}
	s := &site{binary: build(t, shipped), dir: t.TempDir()}
	s.cloud = startCloud(t, func(c *localcore.Config) {
		c.API = ""
		c.Now = func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load()) * time.Second) }
	})
	d := s.device(t, "device")
	d.mustRun(t)
	w.agentProcess, w.cloud, w.handlers = d.agent(t), s.cloud, filepath.Join(d.dir, "handlers")
	if err := os.Mkdir(w.handlers, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(d.dir, "device.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(f, "agent:\n  jobs: {handlers: handlers, allow: [%s]}\n", strings.Join(allow, ", "))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	w.api = iot.New(iot.Options{BaseEndpoint: aws.String(s.cloud.APIURL()), Region: "us-east-1", Credentials: aws.AnonymousCredentials{}})
	return w
}

func (w *worksite) handler(t *testing.T, name, script string) {
	t.Helper()
	writeFile(t, filepath.Join(w.handlers, name), "#!/bin/sh\n"+script+"\n", 0o700)
}

func (w *worksite) create(t *testing.T, id, document string) {
	t.Helper()
	in := &iot.CreateJobInput{JobId: &id, Document: &document, Targets: []string{w.cloud.ARN("thing/" + w.thing())}}
	in.TimeoutConfig = &types.TimeoutConfig{InProgressTimeoutInMinutes: aws.Int64(60)}
	if _, err := w.api.CreateJob(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}

// awaitJob returns the details of an execution when it has a status.
func (w *worksite) awaitJob(t *testing.T, id string, want types.JobExecutionStatus) map[string]string {
	t.Helper()
	for {
		thing := w.thing()
		out, err := w.api.DescribeJobExecution(t.Context(), &iot.DescribeJobExecutionInput{JobId: &id, ThingName: &thing})
		if err != nil {
			t.Fatal(err)
		}
		var details map[string]string
		if out.Execution.StatusDetails != nil {
			details = out.Execution.StatusDetails.DetailsMap
		}
		switch status := out.Execution.Status; status {
		case want:
			return details
		case types.JobExecutionStatusQueued, types.JobExecutionStatusInProgress:
		default:
			t.Fatalf("job %s is %s with %v, want %s\n%s", id, status, details, want, w.stderr)
		}
		w.pause(t, "job "+id+" to be "+string(want))
	}
}

func (w *worksite) pause(t *testing.T, what string) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatalf("the test ended while it waited for %s\n%s", what, w.stderr)
	case <-time.After(20 * time.Millisecond):
	}
}

// awaitFile returns the text of a file, which appears as a whole.
func (w *worksite) awaitFile(t *testing.T, name string) string {
	t.Helper()
	for {
		text, err := os.ReadFile(filepath.Join(w.dir, name))
		if err == nil {
			return strings.TrimSpace(string(text))
		}
		w.pause(t, name)
	}
}

func handlerJob(handler string) string {
	return fmt.Sprintf(`{"version":"1.0","includeStdOut":true,"steps":[{"action":{"name":"Step","type":"runHandler","input":{"handler":%q}}}]}`, handler)
}

// A handler that runs while the configuration changes goes on.
func TestHandlerOutlivesAChangeOfTheJobs(t *testing.T) {
	t.Parallel()
	w := newWorksite(t, "waits")
	w.handler(t, "waits", fmt.Sprintf("cd %s; touch begun; until [ -e go ]; do sleep 0.01; done; echo $IOT_JOB_ATTEMPT", w.dir))
	w.handler(t, "new", "echo new")
	w.start(t)
	w.create(t, "j", handlerJob("waits"))
	w.awaitFile(t, "begun")
	path := filepath.Join(w.dir, "device.yaml")
	settings, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, strings.Replace(string(settings), "allow: [waits]", "allow: [waits, new], stepTimeout: 2h", 1)+"  tunnel: {services: {SSH: 22}}\n", 0o600)
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.await(t, func(s agent.Status) bool { return s.Services["tunnel"] != nil })
	writeFile(t, filepath.Join(w.dir, "go"), "", 0o600)
	if details := w.awaitJob(t, "j", types.JobExecutionStatusSucceeded); details["stdout"] != "1" {
		t.Errorf("attempts: %v", details)
	}
	w.create(t, "after", handlerJob("new"))
	w.awaitJob(t, "after", types.JobExecutionStatusSucceeded)
}

func TestAgentReportsHowJobsEnd(t *testing.T) {
	t.Parallel()
	w := newWorksite(t, "works", "fails", "hangs", "missing")
	w.handler(t, "works", "echo done")
	w.handler(t, "fails", "echo broken >&2; exit 7")
	hang := "echo $$ >" + w.dir + "/new; mv " + w.dir + "/new " + w.dir + "/$IOT_JOB_ID; exec sleep 3600"
	w.handler(t, "hangs", hang)
	w.create(t, "before", handlerJob("works"))
	w.start(t)
	if details := w.awaitJob(t, "before", types.JobExecutionStatusSucceeded); details["stdout"] != "done" || details["step"] != "1/1 Step" {
		t.Error(details)
	}
	w.create(t, "fails", handlerJob("fails"))
	if details := w.awaitJob(t, "fails", types.JobExecutionStatusFailed); details["stderr"] != "broken" {
		t.Error(details)
	}
	w.create(t, "missing", handlerJob("missing"))
	w.awaitJob(t, "missing", types.JobExecutionStatusFailed)
	w.create(t, "forbidden", handlerJob("forbidden"))
	w.awaitJob(t, "forbidden", types.JobExecutionStatusRejected)
	w.create(t, "malformed", `{"version":"1.0","steps":[{"action":{"name":"a","type":"runHandler","input":{}}}]}`)
	if details := w.awaitJob(t, "malformed", types.JobExecutionStatusRejected); !strings.HasPrefix(details["reason"], "steps[0].action.input.handler") {
		t.Error(details)
	}

	w.create(t, "late", handlerJob("hangs"))
	pid := w.awaitFile(t, "late")
	w.ahead.Add(3601)
	if _, err := w.cloud.Registry().CreateThing(registry.Thing{Name: "another"}); err != nil { // has the timers look at the clock
		t.Fatal(err)
	}
	w.awaitJob(t, "late", types.JobExecutionStatusTimedOut)
	w.awaitExit(t, pid)

	w.create(t, "canceled", handlerJob("hangs"))
	pid = w.awaitFile(t, "canceled")
	if _, err := w.api.CancelJob(t.Context(), &iot.CancelJobInput{JobId: aws.String("canceled"), Force: true}); err != nil {
		t.Fatal(err)
	}
	w.awaitJob(t, "canceled", types.JobExecutionStatusCanceled)
	w.awaitExit(t, pid)
	w.create(t, "after", handlerJob("works"))
	w.awaitJob(t, "after", types.JobExecutionStatusSucceeded)
	w.awaitMetrics(t, `iot_device_jobs_total{result="SUCCEEDED"} 2`, `iot_device_jobs_total{result="FAILED"} 2`, `iot_device_jobs_total{result="REJECTED"} 2`, `iot_device_jobs_total{result="GONE"} 2`)
}

// awaitExit waits until a process is gone.
func (w *worksite) awaitExit(t *testing.T, pid string) {
	t.Helper()
	for {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if _, state, _ := bytes.Cut(stat, []byte(") ")); err != nil || state[0] == 'Z' {
			return
		}
		w.pause(t, "process "+pid+" to end")
	}
}

// Killed in the middle of a step, the agent continues with this step, and not
// beside the handler that it has left.
func TestKilledAgentContinuesItsJob(t *testing.T) {
	t.Parallel()
	w := newWorksite(t, "first", "second")
	w.handler(t, "first", "echo first >>"+w.dir+"/log")
	w.handler(t, "second", fmt.Sprintf("echo second $IOT_JOB_ATTEMPT >>%[1]s/log\nif [ $IOT_JOB_ATTEMPT = 1 ]; then echo $$ >%[1]s/new; mv %[1]s/new %[1]s/pid; exec sleep 3600; fi", w.dir))
	w.start(t)
	w.create(t, "j", `{"version":"1.0","steps":[{"action":{"name":"a","type":"runHandler","input":{"handler":"first"}}},{"action":{"name":"b","type":"runHandler","input":{"handler":"second"}}}]}`)
	pid := w.awaitFile(t, "pid")
	w.kill()
	w.start(t)
	w.awaitJob(t, "j", types.JobExecutionStatusSucceeded)
	w.awaitExit(t, pid)
	if log := w.awaitFile(t, "log"); log != "first\nsecond 1\nsecond 2" {
		t.Errorf("ran %q", log)
	}
}

// A job that rotates the identity succeeds with the new one in use, whenever the
// agent is killed meanwhile.
func TestJobRotatesTheIdentity(t *testing.T) {
	t.Parallel()
	w := newWorksite(t, "rotate")
	w.cloud.retireAtOnce(t)
	for i := range 6 {
		id := fmt.Sprint("rotate-", i)
		before := w.load(t).Record.CertificateID
		w.start(t)
		w.create(t, id, `{"version":"1.0","steps":[{"action":{"name":"Rotate","type":"runHandler","input":{"handler":"rotate"}}}]}`)
		if i > 0 { // a rotation takes about that long
			time.Sleep(rand.N(300 * time.Millisecond)) // the instant
			w.kill()
			w.start(t)
		}
		details := w.awaitJob(t, id, types.JobExecutionStatusSucceeded)
		after := w.load(t).Record
		if after.CertificateID == before || details["certificateId"] != after.CertificateID {
			t.Fatalf("certificate %s before, %s after, %v", before, after.CertificateID, details)
		}
		w.await(t, func(s agent.Status) bool { return s.Connected && s.CertificateID == after.CertificateID })
		w.cloud.awaitRetired(t, w.thing())
		w.kill()
		if active := w.cloud.active(t, w.thing()); !slices.Equal(active, []string{after.CertificateID}) {
			t.Errorf("active certificates %v, want %s", active, after.CertificateID)
		}
	}
	if err := os.RemoveAll(filepath.Join(w.dir, "certs", "."+w.serial+".agent")); err != nil {
		t.Fatal(err)
	}
	w.checkWhole(t, w.cloud)
}

// The command works through the agent, which has the device's connection.
func TestRotateCommandUsesTheRunningAgent(t *testing.T) {
	t.Parallel()
	w := newWorksite(t)
	w.cloud.retireAtOnce(t)
	before := w.load(t).Record
	w.start(t)
	w.await(t, sent)
	o := w.rotate(t, "IOT_DEVICE_AGENT_SOCKET="+w.socket)
	if o.code != 0 || !o.result.Provisioned || o.result.CertificateID == before.CertificateID || o.result.ThingName != w.thing() {
		t.Fatalf("exit %d, %+v\n%s\n%s", o.code, o.result, o.stderr, w.stderr)
	}
	w.await(t, func(s agent.Status) bool { return s.Connected && s.CertificateID == o.result.CertificateID })
	if record := w.load(t).Record; record.Replaces != before.CertificateID || record.Author != before.Author {
		t.Errorf("record: %+v", record)
	}
	w.awaitMetrics(t, `iot_device_rotations_total{result="done"} 1`)
	if _, metrics := w.request(t, "GET", "/metrics", nil); strings.Contains(metrics, "reconnects_total{cause") {
		t.Errorf("metrics:\n%s", metrics)
	}
	if status, text := w.request(t, "POST", "/v1/rotate?thing=another", nil); status != 409 {
		t.Errorf("another thing's rotation: %d %s", status, text)
	}
	// Without the agent the command works by itself.
	w.stop()
	if again := w.rotate(t, "IOT_DEVICE_AGENT_SOCKET="+w.socket); again.code != 0 || again.result.CertificateID == o.result.CertificateID {
		t.Errorf("exit %d, %+v\n%s", again.code, again.result, again.stderr)
	}
}

// AWS's own command line creates and cancels jobs.
func TestAWSCommandLineDrivesJobs(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("aws"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("the aws command line is not installed")
		}
		t.Skip("the aws command line is not installed")
	}
	w := newWorksite(t, "works", "hangs", "restart-services.sh", "runCommand")
	w.handler(t, "works", "echo done")
	w.handler(t, "restart-services.sh", `[ "$2" = "a b" ]`)
	w.handler(t, "hangs", "sleep 3600")
	w.start(t)
	run := func(args ...string) (out struct {
		Execution struct {
			Status        types.JobExecutionStatus
			StatusDetails struct{ DetailsMap map[string]string }
		}
	}) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "aws", slices.Concat([]string{"iot", "--output", "json"}, args)...)
		cmd.Env = awsEnvironment(w.dir, w.cloud)
		text, err := cmd.Output()
		if err != nil {
			if e, ok := errors.AsType[*exec.ExitError](err); ok {
				t.Fatalf("aws %v: %v\n%s", args, err, e.Stderr)
			}
			t.Fatal(err)
		}
		if len(text) > 0 {
			if err := json.Unmarshal(text, &out); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	target := w.cloud.ARN("thing/" + w.thing())
	run("create-job", "--job-id", "works", "--targets", target, "--document", handlerJob("works"))
	// The documents of AWS's managed templates run as they are.
	for id, args := range map[string][]string{
		"managed": {"AWS-Restart-Application", "services=a b"}, "command": {"AWS-Run-Command", "command='sh,-c,exit 0'"},
	} {
		run("create-job", "--job-id", id, "--targets", target, "--job-template-arn", "arn:aws:iot:us-east-1::jobtemplate/"+args[0]+":1.0", "--document-parameters", args[1])
		w.awaitJob(t, id, types.JobExecutionStatusSucceeded)
	}
	run("create-job", "--job-id", "hangs", "--targets", target, "--document", handlerJob("hangs"))
	w.awaitJob(t, "works", types.JobExecutionStatusSucceeded)
	for run("describe-job-execution", "--job-id", "hangs", "--thing-name", w.thing()).Execution.StatusDetails.DetailsMap["step"] != "1/1 Step" {
		w.pause(t, "the step")
	}
	run("cancel-job", "--job-id", "hangs", "--force")
	if status := run("describe-job-execution", "--job-id", "hangs", "--thing-name", w.thing()).Execution.Status; status != types.JobExecutionStatusCanceled {
		t.Error(status)
	}
}

// runTool runs a command of a page that needs no agent: of AWS's command line
// against the cloud, or of a tool of this machine.
func (a *agentProcess) runTool(t *testing.T, c *cloud, command string) {
	t.Helper()
	tool, _, _ := strings.Cut(command, " ")
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("CI") != "" {
			t.Errorf("%s is not installed", tool)
		}
		return
	}
	writeFile(t, filepath.Join(a.dir, "job.json"), handlerJob("reboot.sh"), 0o600)
	writeFile(t, filepath.Join(a.dir, "firmware.bin"), "firmware", 0o600)
	command = strings.NewReplacer("arn:aws:iot:us-east-1:123456789012:thing/fleety_2974685", c.ARN("thing/"+a.thing()), "fleety_2974685", a.thing()).Replace(command)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
	cmd.Dir, cmd.Env = a.dir, awsEnvironment(a.dir, c)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
}

// awsEnvironment leads AWS's command line to the cloud, and to no real account.
func awsEnvironment(dir string, c *cloud) []string {
	none := filepath.Join(dir, "none")
	return append(os.Environ(), "AWS_ENDPOINT_URL="+c.APIURL(), "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1",
		"AWS_PAGER=", "AWS_CONFIG_FILE="+none, "AWS_SHARED_CREDENTIALS_FILE="+none)
}

// The fleet command rotates devices by their agents, and reports how that went.
func TestFleetRotatesDevices(t *testing.T) {
	t.Parallel()
	w := newWorksite(t, "rotate")
	w.cloud.retireAtOnce(t)
	before := w.load(t).Record.CertificateID
	w.start(t)
	var out, errs bytes.Buffer
	args := []string{"rotate", "--thing-type", "fleety", "--apply", "--wait", "10m", "--endpoint-url", w.cloud.APIURL()}
	if code := cli.Main(fleetcli.Program(), args, term.New(strings.NewReader(""), &out, &errs, nil)); code != 0 || !strings.Contains(out.String(), "\n1 SUCCEEDED\n") {
		t.Errorf("exit %d\n%s%s\n%s", code, out.String(), errs.String(), w.stderr)
	}
	if after := w.load(t).Record; after.CertificateID == before || after.Replaces != before {
		t.Errorf("record %+v", after)
	}
}

// The examples that are shipped work, with what they call in their place.
func TestExamplesOfHandlersWork(t *testing.T) {
	t.Parallel()
	handlers, err := filepath.Abs(filepath.Join("..", "packaging", "handlers"))
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob(filepath.Join(handlers, "*.sh"))
	if err != nil || len(scripts) < 4 {
		t.Fatal(scripts, err)
	}
	if shellcheck, err := exec.LookPath("shellcheck"); err == nil {
		if out, err := exec.CommandContext(t.Context(), shellcheck, scripts...).CombinedOutput(); err != nil {
			t.Errorf("shellcheck: %v\n%s", err, out)
		}
	} else if os.Getenv("CI") != "" {
		t.Error("shellcheck is not installed")
	}
	for name, test := range map[string]struct {
		args    []string
		attempt int
		want    string // what was called, empty for a failure
	}{
		"reboot.sh":                   {[]string{""}, 1, "systemctl reboot"},
		"install-packages.sh":         {[]string{"", "lftp dos2unix", "curl=8.1-1"}, 1, "dpkg --configure -a;apt-get update;apt-get install --yes --no-install-recommends -- lftp dos2unix curl=8.1-1"},
		"install-packages.sh option":  {[]string{"", "-o=x"}, 1, ""},
		"install-packages.sh pattern": {[]string{"", "*"}, 1, ""},
		"install-packages.sh removal": {[]string{"", "lftp openssh-server-"}, 1, ""},
		"install-packages.sh search":  {[]string{"", "~ninit"}, 1, ""},
		"install-packages.sh regular": {[]string{"", ".+"}, 1, ""},
		"restart-services.sh target":  {[]string{"root", "poweroff.target"}, 1, ""},
		"restart-services.sh off":     {[]string{"root", "systemd-poweroff"}, 1, ""},
		"restart-services.sh asleep":  {[]string{"root", "systemd-suspend.service"}, 1, ""},
		"restart-services.sh network": {[]string{"root", "systemd-networkd rescue-upload"}, 1, "systemctl restart -- systemd-networkd;systemctl restart -- rescue-upload"},
		"restart-services.sh all":     {[]string{"root", "*"}, 1, ""},
		"restart-services.sh":         {[]string{"root", "a iot_device", "b"}, 1, "systemctl restart -- a;systemctl restart -- iot_device;systemctl restart -- b"},
		"restart-services.sh escape":  {[]string{"root", `a\x2db`}, 1, `systemctl restart -- a\x2db`},
		"restart-services.sh again":   {[]string{"root", "a iot_device"}, 2, "systemctl restart -- a"},
		"install-bundle.sh":           {[]string{"", "/var/tmp/a b.raucb"}, 1, "rauc install /var/tmp/a b.raucb"},
		"install-bundle.sh no file":   {[]string{""}, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, command := range []string{"systemctl", "dpkg", "apt-get", "rauc"} {
				writeFile(t, filepath.Join(dir, command), "#!/bin/sh\necho "+command+" \"$*\" >>"+dir+"/log\n", 0o700)
			}
			script, _, _ := strings.Cut(name, " ")
			cmd := exec.CommandContext(t.Context(), filepath.Join(handlers, script), test.args...)
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), fmt.Sprint("IOT_JOB_ATTEMPT=", test.attempt))
			out, err := cmd.CombinedOutput()
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			got := strings.ReplaceAll(strings.TrimSpace(string(log)), "\n", ";")
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("called %q, %v\n%s", got, err, out)
			}
		})
	}
}

// Killed at random instants, the agent runs each step of a job, in order, and the
// execution ends as it should.
func TestAgentKilledAtRandomRunsEveryStep(t *testing.T) {
	t.Parallel()
	w := newWorksite(t, "step")
	w.handler(t, "step", "sleep 0.05; echo $2 >>"+w.dir+"/$IOT_JOB_ID.log")
	step := func(n int) string {
		return fmt.Sprintf(`{"action":{"name":"%d","type":"runHandler","input":{"handler":"step","args":["%[1]d"]}}}`, n)
	}
	document := fmt.Sprintf(`{"version":"1.0","steps":[%s,%s,%s],"finalStep":%s}`, step(1), step(2), step(3), step(4))
	for i := range 12 {
		id := fmt.Sprint("job-", i)
		w.start(t)
		w.create(t, id, document)
		for range 2 { // a step may be interrupted twice
			time.Sleep(rand.N(250 * time.Millisecond)) // the instant
			w.kill()
			w.start(t)
		}
		w.awaitJob(t, id, types.JobExecutionStatusSucceeded)
		w.kill()
		ran := strings.Fields(w.awaitFile(t, id+".log"))
		if once := slices.Compact(slices.Clone(ran)); !slices.Equal(once, []string{"1", "2", "3", "4"}) || len(ran) > 6 {
			t.Errorf("job %d ran the steps %v", i, ran)
		}
	}
}
