//go:build unix

package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/fleety/device/awsiot"
	cloudjobs "example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/session"
)

const thing = "fleety_2974685"

// A bench is a device without a network: its connection ends in the emulator's
// AWS IoT Jobs.
type bench struct {
	*testing.T
	config Config
	cloud  *cloudjobs.Service
	stop   func()
	// emptyNext: where there is no next execution, it is sent as {}.
	emptyNext bool
	// oldUnicode: every detail has a character that AWS IoT does not know.
	oldUnicode bool

	mu      sync.Mutex
	service *Service // nil while the device is off
}

type things struct{}

func (things) HasThing(name string) bool                { return name == thing }
func (things) Members(string) (names []string, _ error) { return nil, errors.New("no such group") }

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	handlers := filepath.Join(dir, "handlers")
	if err := os.Mkdir(handlers, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, config: Config{Dir: filepath.Join(dir, "state"), Settings: Settings{Handlers: handlers}}}
	b.config.bootID, b.config.stopDelay = func() string { return "first boot" }, time.Millisecond
	var err error
	b.cloud, err = cloudjobs.Open(cloudjobs.Config{HasThing: things{}.HasThing, Members: things{}.Members, ARN: arn,
		Event: func(cloudjobs.Event) {}, Now: time.Now, Log: slog.New(slog.DiscardHandler), Publish: func(m awsiot.Message) {
			b.mu.Lock()
			s := b.service
			b.mu.Unlock()
			if s != nil {
				s.Deliver(session.Message{Topic: m.Topic, Payload: m.Payload})
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.powerOff)
	return b
}

func arn(resource string) string { return "arn:aws:iot:eu-central-1:123456789012:" + resource }

// handler writes a handler, and allows it.
func (b *bench) handler(name, script string) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(b.config.Handlers, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		b.Fatal(err)
	}
	b.config.Allow = append(b.config.Allow, name)
}

// powerOn begins what the agent does.
func (b *bench) powerOn() {
	b.Helper()
	s := New(b.config)
	b.mu.Lock()
	b.service = s
	b.mu.Unlock()
	ctx, stop := context.WithCancel(context.WithoutCancel(b.Context()))
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx, thing) })
	running.Go(func() {
		if err := s.Serve(ctx, (*conn)(b)); ctx.Err() == nil {
			b.Error(err)
		}
	})
	b.stop = func() { stop(); running.Wait() }
}

func (b *bench) powerOff() {
	if b.stop != nil {
		b.stop()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop, b.service = nil, nil
}

// conn is the bench as a [session.Shared].
type conn bench

func (c *conn) ThingName() string { return thing }

func (c *conn) SessionPresent() bool { return false }

func (c *conn) Publish(_ context.Context, topic string, payload []byte) error {
	t, ok := awsiot.ParseJobsTopic(topic)
	if !ok {
		return errors.New(topic + " is not a topic of the Jobs API")
	}
	if t.Operation == awsiot.DescribeJobExecution && t.Job != awsiot.NextJob {
		return errors.New("the policy does not allow " + topic)
	}
	if c.oldUnicode && bytes.Contains(payload, []byte("statusDetails")) {
		var request struct{ ClientToken string }
		if err := json.Unmarshal(payload, &request); err != nil {
			return err
		}
		c.service.Deliver(session.Message{Topic: t.Rejected(), Payload: fmt.Appendf(nil, `{"clientToken":%q,"code":"InvalidRequest"}`, request.ClientToken)})
		return nil
	}
	c.cloud.Handle(t, payload, func(m awsiot.Message) {
		if before, _, ok := bytes.Cut(m.Payload, []byte("}")); c.emptyNext && ok && !bytes.Contains(m.Payload, []byte("execution")) {
			m.Payload = append(slices.Clone(before), `,"execution":{}}`...)
		}
		c.service.Deliver(session.Message{Topic: m.Topic, Payload: m.Payload})
	})
	return nil
}

func (b *bench) create(id, document string) {
	b.Helper()
	if _, err := b.cloud.CreateJob(id, cloudjobs.NewJob{Targets: []string{arn("thing/" + thing)}, Document: document}); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) execution(id string) cloudjobs.Execution {
	b.Helper()
	e, err := b.cloud.DescribeJobExecution(thing, id, nil)
	if err != nil {
		b.Fatal(err)
	}
	return e
}

// await returns a job execution when it has a status, and fails the test if it has
// another terminal one.
func (b *bench) await(id string, want awsiot.JobExecutionStatus) cloudjobs.Execution {
	b.Helper()
	for {
		e := b.execution(id)
		if e.Status == want {
			return e
		}
		if e.Status != awsiot.JobQueued && e.Status != awsiot.JobInProgress {
			b.Fatalf("job %s is %s with %v, want %s", id, e.Status, e.StatusDetails, want)
		}
		b.pause("the execution of " + id + " to be " + string(want))
	}
}

func (b *bench) pause(what string) {
	b.Helper()
	select {
	case <-b.Context().Done():
		b.Fatal("the test ended while it waited for " + what)
	case <-time.After(5 * time.Millisecond):
	}
}

// read returns the lines of a file, without a file none.
func read(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func runHandler(handler string, args ...string) string {
	quoted, _ := json.Marshal(args)
	return fmt.Sprintf(`{"version":"1.0","steps":[{"action":{"name":"Step","type":"runHandler","input":{"handler":%q,"args":%s}}}]}`, handler, quoted)
}

// managedTemplates are the documents of AWS's managed templates, with the handlers
// that they name.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/job-templates-managed.html
var managedTemplates = map[string]struct{ step, handler, args string }{
	"AWS-Download-File":       {"Download-File", "download-file.sh", `"args":["${aws:iot:parameter:downloadUrl}","${aws:iot:parameter:filePath}"],`},
	"AWS-Install-Application": {"Install-Application", "install-packages.sh", `"args":["${aws:iot:parameter:packages}"],`},
	"AWS-Reboot":              {"Reboot", "reboot.sh", ``},
	"AWS-Remove-Application":  {"Remove-Application", "remove-packages.sh", `"args":["${aws:iot:parameter:packages}"],`},
	"AWS-Restart-Application": {"Restart-Application", "restart-services.sh", `"args":["${aws:iot:parameter:services}"],`},
	"AWS-Start-Application":   {"Start-Application", "start-services.sh", `"args":["${aws:iot:parameter:services}"],`},
	"AWS-Stop-Application":    {"Stop-Application", "stop-services.sh", `"args":["${aws:iot:parameter:services}"],`},
}

var parameters = strings.NewReplacer(
	"${aws:iot:parameter:downloadUrl}", "https://files.example.com/a?b=c", "${aws:iot:parameter:filePath}", "/var/tmp/a",
	"${aws:iot:parameter:packages}", "lftp dos2unix", "${aws:iot:parameter:services}", "a b",
	"${aws:iot:parameter:pathToHandler}", "", "${aws:iot:parameter:runAsUser}", "", "${aws:iot:parameter:command}", `\techo, a\\,b ,c d\n`,
)

func TestManagedTemplatesRunUnchanged(t *testing.T) {
	t.Parallel()
	for name, template := range managedTemplates {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			ran := filepath.Join(t.TempDir(), "ran")
			b.handler(template.handler, `for a; do echo "[$a]"; done >`+ran)
			b.create("j", parameters.Replace(fmt.Sprintf(
				`{"version":"1.0","steps":[{"action":{"name":%q,"type":"runHandler","input":{"handler":%q,%s"path":"${aws:iot:parameter:pathToHandler}"},"runAsUser":"${aws:iot:parameter:runAsUser}"}}]}`,
				template.step, template.handler, template.args)))
			b.powerOn()
			if name == "AWS-Reboot" {
				for !slices.Equal(read(t, ran), []string{"[]"}) {
					b.pause("the handler")
				}
				b.powerOff()
				b.config.bootID = func() string { return "second boot" }
				b.powerOn()
			}
			e := b.await("j", awsiot.JobSucceeded)
			if e.StatusDetails["step"] != "1/1 "+template.step {
				t.Error(e.StatusDetails)
			}
			want := map[string]string{"packages": "[] [lftp dos2unix]", "services": "[] [a b]", "downloadUrl": "[] [https://files.example.com/a?b=c] [/var/tmp/a]", "": "[]"}
			key := ""
			if _, after, ok := strings.Cut(template.args, "parameter:"); ok {
				key, _, _ = strings.Cut(after, "}")
			}
			if got := strings.Join(read(t, ran), " "); got != want[key] {
				t.Errorf("arguments %s, want %s", got, want[key])
			}
		})
	}
	t.Run("AWS-Run-Command", func(t *testing.T) {
		t.Parallel()
		b := newBench(t)
		b.config.Allow = []string{"runCommand"}
		b.create("j", parameters.Replace(`{"version":"1.0","includeStdOut":"true","steps":[{"action":{"name":"Run-Command","type":"runCommand","input":{"command":"${aws:iot:parameter:command}"},"runAsUser":"${aws:iot:parameter:runAsUser}"}}]}`))
		b.powerOn()
		if e := b.await("j", awsiot.JobSucceeded); e.StatusDetails["stdout"] != "a,b c d" {
			t.Error(e.StatusDetails)
		}
	})
}

func TestMalformedDocumentIsRejectedWithThePlace(t *testing.T) {
	t.Parallel()
	step := func(action string) string { return `{"version":"1.0","steps":[{"action":` + action + `}]}` }
	for document, place := range map[string]string{
		`{}`:                                                       "operation: ",
		`{"operation":5}`:                                          "operation: ",
		`{"operation":"../reboot.sh"}`:                             "operation: ",
		`{"operation":"h","args":"a"}`:                             "args: ",
		`{"operation":"h","args":["a",1]}`:                         "args[1]: ",
		`{"operation":"h","args":["a\u0000"]}`:                     "args[0]: ",
		`{"operation":"h","allowStdErr":"some"}`:                   "allowStdErr: ",
		`{"operation":"h","allowStdErr":"-1"}`:                     "allowStdErr: ",
		`{"operation":"h","allowStdErr":1.5}`:                      "allowStdErr: ",
		`{"operation":"h","allowStdErr":[2]}`:                      "allowStdErr: ",
		`{"operation":"h","path":"/tmp"}`:                          "path: ",
		`{"operation":"other"}`:                                    "operation: ",
		`{"operation":"h","allowStdErr":-1}`:                       "allowStdErr: ",
		`{"version":1.0,"steps":[]}`:                               "version: ",
		`{"version":"2.0","steps":[]}`:                             "version: ",
		`{"version":"1.0"}`:                                        "steps: ",
		`{"version":"1.0","steps":[]}`:                             "steps: ",
		`{"version":"1.0","steps":{}}`:                             "steps: ",
		`{"version":"1.0","steps":["h"]}`:                          "steps[0]: ",
		`{"version":"1.0","steps":[{}]}`:                           "steps[0].action: ",
		`{"version":"1.0","includeStdOut":"perhaps","steps":[{}]}`: "includeStdOut: ",
		step(`{}`):           "steps[0].action.input: ",
		step(`{"input":{}}`): "steps[0].action.name: ",
		step(`{"name":"a","type":"run","input":{}}`):                                              "steps[0].action.type: ",
		step(`{"name":"a","type":"runHandler","input":{}}`):                                       "steps[0].action.input.handler: ",
		step(`{"name":"a","type":"runHandler","input":{"handler":"/bin/sh"}}`):                    "steps[0].action.input.handler: ",
		step(`{"name":"a","type":"runHandler","input":{"handler":".."}}`):                         "steps[0].action.input.handler: ",
		step(`{"name":"a","type":"runHandler","ignoreStepFailure":1,"input":{"handler":"h"}}`):    "steps[0].action.ignoreStepFailure: ",
		step(`{"name":"a","type":"runHandler","runAsUser":["root"],"input":{"handler":"h"}}`):     "steps[0].action.runAsUser: ",
		step(`{"name":"a","type":"runHandler","input":{"handler":"h","path":"/tmp"}}`):            "steps[0].action.input.path: ",
		step(`{"name":"a","type":"runHandler","input":{"handler":"other"}}`):                      "steps[0]: ",
		step(`{"name":"a","type":"runCommand","input":{"command":""}}`):                           "steps[0].action.input.command: ",
		step(`{"name":"a","type":"runCommand","input":{"command":",a"}}`):                         "steps[0].action.input.command: ",
		step(`{"name":"a","type":"runCommand","input":{"command":"echo hello"}}`):                 "steps[0].action.input.command: ",
		step(`{"name":"a","type":"runCommand","input":{"command":"echo,hello"}}`):                 "steps[0]: ",
		`{"version":"1.0","conditions":[{"key":"phase","value":["full"]}],"steps":[` + good:       "conditions[0].key: ",
		`{"version":"1.0","conditions":[{"key":"architecture"}],"steps":[` + good:                 "conditions[0].value: ",
		`{"version":"1.0","conditions":[{"key":"architecture","value":["z80"]}],"steps":[` + good: "conditions[0]: ",
		`{"version":"1.0","conditions":[{"key":"a","value":[],"type":"regex"}],"steps":[` + good:  "conditions[0].type: ",
		`{"version":"1.0","finalStep":{},"steps":[` + good:                                        "finalStep.action: ",
	} {
		t.Run(document, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			ran := filepath.Join(t.TempDir(), "ran")
			b.handler("h", "echo >"+ran)
			b.create("j", document)
			b.powerOn()
			if e := b.await("j", awsiot.JobRejected); !strings.HasPrefix(e.StatusDetails["reason"], place) {
				t.Errorf("reason %q, want one at %s", e.StatusDetails["reason"], place)
			}
			if _, err := os.Stat(ran); err == nil {
				t.Error("the handler has run")
			}
		})
	}
}

const good = `{"action":{"name":"a","type":"runHandler","input":{"handler":"h"}}}]}`

func TestConditionsAndCommentsAreAccepted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.handler("h", "true")
	b.create("j", `{"_comment":"x","version":"1.0","conditions":[{"key":"operatingSystem","value":["windows","linux","darwin","freebsd"],"type":"stringEqual"}],"steps":[`+good)
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
}

// Nothing is allowed by default.
func TestDefaultConfigurationRejectsEveryJob(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for id, document := range map[string]string{
		"handler": runHandler("h"), "rotate": `{"operation":"rotate"}`, "download": runHandler(DownloadFile, "https://localhost/a", "a"),
		"command": `{"version":"1.0","steps":[{"action":{"name":"a","type":"runCommand","input":{"command":"true"}}}]}`,
	} {
		b.create(id, document)
	}
	b.powerOn()
	for _, id := range []string{"handler", "rotate", "download", "command"} {
		b.await(id, awsiot.JobRejected)
	}
}

func TestHandlerThatOthersCanChangeFails(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(dir, handler string) error{
		"missing":         func(_, handler string) error { return os.Remove(handler) },
		"not executable":  func(_, handler string) error { return os.Chmod(handler, 0o600) },
		"group-writable":  func(_, handler string) error { return os.Chmod(handler, 0o770) },
		"world-writable":  func(_, handler string) error { return os.Chmod(handler, 0o702) },
		"folder writable": func(dir, _ string) error { return os.Chmod(dir, 0o777) },
		"symbolic link": func(dir, handler string) error {
			return errors.Join(os.Rename(handler, filepath.Join(dir, "other")), os.Symlink("other", handler))
		},
		"directory": func(_, handler string) error { return errors.Join(os.Remove(handler), os.Mkdir(handler, 0o755)) },
		"no folder": func(dir, _ string) error { return os.RemoveAll(dir) },
		"another's": func(_, handler string) error {
			if os.Geteuid() != 0 {
				return os.Chmod(handler, 0o777) // only root can give a file away
			}
			return os.Chown(handler, 65534, 65534)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			ran := filepath.Join(t.TempDir(), "ran")
			b.handler("h", "echo >"+ran)
			if err := change(b.config.Handlers, filepath.Join(b.config.Handlers, "h")); err != nil {
				t.Fatal(err)
			}
			b.create("j", runHandler("h"))
			b.powerOn()
			if e := b.await("j", awsiot.JobFailed); e.StatusDetails["reason"] == "" {
				t.Error(e.StatusDetails)
			}
			if _, err := os.Stat(ran); err == nil {
				t.Error("the handler has run")
			}
		})
	}
}

func TestStepsRunInOrderUntilOneFails(t *testing.T) {
	t.Parallel()
	action := func(handler, more string) string {
		return fmt.Sprintf(`{"action":{"name":%q,"type":"runHandler","input":{"handler":%[1]q}%s}}`, handler, more)
	}
	for name, test := range map[string]struct {
		document string
		want     awsiot.JobExecutionStatus
		ran      string
	}{
		"all":             {`"steps":[` + action("ok", "") + `,` + action("warns", "") + `],"finalStep":` + action("last", ""), awsiot.JobSucceeded, "ok warns last"},
		"one fails":       {`"steps":[` + action("ok", "") + `,` + action("fails", "") + `,` + action("warns", "") + `],"finalStep":` + action("last", ""), awsiot.JobFailed, "ok fails"},
		"failure ignored": {`"steps":[` + action("fails", `,"ignoreStepFailure":"true"`) + `],"finalStep":` + action("last", ""), awsiot.JobSucceeded, "fails last"},
		"not ignored":     {`"steps":[` + action("fails", `,"ignoreStepFailure":"false"`) + `]`, awsiot.JobFailed, "fails"},
		"final fails":     {`"steps":[` + action("ok", "") + `],"finalStep":` + action("fails", ""), awsiot.JobFailed, "ok fails"},
		"stderr allowed":  {`"steps":[` + action("warns", `,"allowStdErr":2`) + `]`, awsiot.JobSucceeded, "warns"},
		"stderr as text":  {`"steps":[` + action("warns", `,"allowStdErr":"2"`) + `]`, awsiot.JobSucceeded, "warns"},
		"stderr, text":    {`"steps":[` + action("warns", `,"allowStdErr":"1"`) + `,` + action("ok", "") + `]`, awsiot.JobFailed, "warns"},
		"stderr, no text": {`"steps":[` + action("warns", `,"allowStdErr":""`) + `]`, awsiot.JobSucceeded, "warns"},
		"stderr":          {`"steps":[` + action("warns", `,"allowStdErr":1`) + `,` + action("ok", "") + `]`, awsiot.JobFailed, "warns"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			log := filepath.Join(t.TempDir(), "ran")
			for handler, script := range map[string]string{"ok": "", "last": "", "fails": "echo broken >&2; exit 3", "warns": "echo 1 >&2; printf 2 >&2"} {
				b.handler(handler, "echo "+handler+" >>"+log+"; "+script)
			}
			b.create("j", `{"version":"1.0",`+test.document+`}`)
			b.powerOn()
			e := b.await("j", test.want)
			if got := strings.Join(read(t, log), " "); got != test.ran {
				t.Errorf("%s ran, want %s", got, test.ran)
			}
			if name == "one fails" && (e.StatusDetails["stderr"] != "broken" || e.StatusDetails["step"] != "2/4 fails" || !strings.Contains(e.StatusDetails["reason"], "exit status 3")) {
				t.Error(e.StatusDetails)
			}
		})
	}
}

// The emulator rejects details that AWS IoT would.
func TestOutputIsCutToWhatAWSAccepts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.handler("h", `head -c 300000 /dev/zero | tr '\0' x; printf '\377\r\n\033[1m\303\244\303\244 the end\n\n'`)
	b.create("j", `{"operation":"h","includeStdOut":true}`)
	b.powerOn()
	e := b.await("j", awsiot.JobSucceeded)
	if out := []rune(e.StatusDetails["stdout"]); len(out) != 1024 || !strings.HasSuffix(string(out), "x\uFFFD   [1mää the end") {
		t.Errorf("%d characters: …%q", len(out), string(out[max(0, len(out)-20):]))
	}
}

// Format characters, as emojis and files of Windows have them, characters for private
// use and unassigned ones: AWS IoT accepts none in details.
func TestDetailsHaveNoCharacterThatAWSRejects(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.handler("h", `printf 'a\342\200\213b\357\273\277c\356\200\200d\315\270e\302\255f'; exit 1`)
	b.create("j", `{"version":"1.0","includeStdOut":true,"steps":[{"action":{"name":"step\u200d1\ufeff","type":"runHandler","input":{"handler":"h"}}}]}`)
	b.create("operation", `{"operation":"h\u2066"}`)
	b.powerOn()
	if e := b.await("j", awsiot.JobFailed); e.StatusDetails["stdout"] != "a b c d e f" || e.StatusDetails["step"] != "1/1 step 1" {
		t.Errorf("%q", e.StatusDetails)
	}
	b.await("operation", awsiot.JobRejected)
}

// Details that AWS IoT rejects nevertheless do not keep the status back.
func TestStatusIsReportedWithoutRejectedDetails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.oldUnicode = true
	b.handler("h", "echo out")
	b.create("j", `{"operation":"h","includeStdOut":true}`)
	b.create("fails", `{"operation":"missing"}`)
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
	b.await("fails", awsiot.JobRejected)
}

func TestCanceledExecutionEndsItsProcessGroup(t *testing.T) {
	t.Parallel()
	for name, cancel := range map[string]func(b *bench) error{
		"execution canceled": func(b *bench) error { return b.cloud.CancelJobExecution(thing, "j", true, nil, nil) },
		"execution deleted":  func(b *bench) error { return b.cloud.DeleteJobExecution(thing, "j", 1, true) },
		"job canceled":       func(b *bench) error { _, err := b.cloud.CancelJob("j", true, "", ""); return err },
		"job deleted":        func(b *bench) error { return b.cloud.DeleteJob("j", true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			pids := filepath.Join(t.TempDir(), "pids")
			trap := ":" // ends with SIGTERM
			if name == "job canceled" {
				trap = "trap '' TERM"
			}
			b.handler("h", fmt.Sprintf(trap+"\nsleep 3600 & echo $$ $! >%s.new && mv %[1]s.new %[1]s; wait; sleep 3600", pids))
			b.handler("next", "true")
			b.create("j", runHandler("h"))
			b.powerOn()
			for len(read(t, pids)[0]) == 0 {
				b.pause("the handler")
			}
			b.create("next", runHandler("next"))
			if err := cancel(b); err != nil {
				t.Fatal(err)
			}
			b.await("next", awsiot.JobSucceeded)
			for pid := range strings.FieldsSeq(read(t, pids)[0]) {
				b.awaitEnd(pid)
			}
		})
	}
}

// awaitEnd waits until a process is gone.
func (b *bench) awaitEnd(pid string) {
	b.Helper()
	id, err := strconv.Atoi(pid)
	if err != nil {
		b.Fatal(err)
	}
	for startTime(id) != "" {
		b.pause("the end of process " + pid)
	}
}

// A service manager ends the processes of a service together: handlers may have ended, with an
// error, before the agent is stopped. Their step begins again.
func TestHandlerThatEndsWithTheAgentBeginsAgain(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{"signal": "kill -TERM 0", "exit status": "exit 143"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.config.stopDelay = time.Hour
			pid := filepath.Join(t.TempDir(), "pid")
			b.handler("h", fmt.Sprintf("[ $IOT_JOB_ATTEMPT = 2 ] && exit\necho $$ >%s.new && mv %[1]s.new %[1]s\n%s", pid, end))
			b.create("j", runHandler("h"))
			b.powerOn()
			for len(read(t, pid)[0]) == 0 {
				b.pause("the handler")
			}
			b.awaitEnd(read(t, pid)[0])
			b.powerOff()
			b.powerOn()
			b.await("j", awsiot.JobSucceeded)
		})
	}
}

func TestStepTimesOut(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.config.StepTimeout = 50 * time.Millisecond
	b.handler("h", "sleep 3600")
	b.create("j", runHandler("h"))
	b.powerOn()
	if e := b.await("j", awsiot.JobFailed); !strings.Contains(e.StatusDetails["reason"], "the step has timed out after 50ms") {
		t.Error(e.StatusDetails)
	}
}

// The agent ends in the middle of a step: the step begins again, but not for ever.
func TestInterruptedStepBeginsAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	log := filepath.Join(t.TempDir(), "attempts")
	b.handler("first", "echo first >>"+log)
	b.handler("h", "echo $IOT_JOB_ATTEMPT >>"+log+"; sleep 3600")
	b.create("j", `{"version":"1.0","steps":[{"action":{"name":"a","type":"runHandler","input":{"handler":"first"}}},{"action":{"name":"b","type":"runHandler","input":{"handler":"h"}}}]}`)
	for attempt := range maxAttempts {
		b.powerOn()
		for len(read(t, log)) < 2+attempt {
			b.pause("the step")
		}
		b.powerOff()
	}
	b.powerOn()
	b.await("j", awsiot.JobFailed)
	if got := strings.Join(read(t, log), " "); got != "first 1 2 3" {
		t.Errorf("ran %s", got)
	}
}

// The step that runs goes on with the settings that it began with.
func TestSettingsCountFromTheNextStep(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	log := filepath.Join(t.TempDir(), "log")
	b.handler("waits", fmt.Sprintf("echo waits >>%s; until [ -e %[1]s.go ]; do sleep 0.01; done; echo waited >>%[1]s", log))
	b.handler("h", "echo h >>"+log)
	b.create("j", `{"version":"1.0","steps":[{"action":{"name":"a","type":"runHandler","input":{"handler":"waits"}}},{"action":{"name":"b","type":"runHandler","input":{"handler":"h"}}}]}`)
	b.powerOn()
	for read(t, log)[0] == "" {
		b.pause("the handler")
	}
	b.service.Set(Settings{Handlers: b.config.Handlers, Allow: []string{"waits"}})
	if err := os.WriteFile(log+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e := b.await("j", awsiot.JobFailed); !strings.HasPrefix(e.StatusDetails["reason"], "steps[1]: ") {
		t.Error(e.StatusDetails)
	}
	if got := strings.Join(read(t, log), " "); got != "waits waited" {
		t.Errorf("ran %s", got)
	}
}

// The response to a last request may arrive while the service ends.
func TestServiceThatHasEndedBeginsNoStep(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := New(b.config)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	s.Run(ctx, thing)
	s.current = &execution{JobID: "j"}
	if s.startWorker(t.Context()); s.stop != nil {
		s.stopWorker()
		t.Error("a worker was started")
	}
}

// needsProc skips a test where a process cannot be distinguished from a later one with its
// id: handlers that outlive their agent are ended on Linux alone.
func needsProc(t *testing.T) {
	t.Helper()
	if startTime(os.Getpid()) == "" {
		t.Skip("there is no /proc")
	}
}

// A handler that outlives its agent, which was killed, does not run beside the
// next attempt.
func TestHandlerOfAKilledAgentIsEnded(t *testing.T) {
	t.Parallel()
	needsProc(t)
	b := newBench(t)
	pid := filepath.Join(t.TempDir(), "pid")
	b.handler("h", "test $IOT_JOB_ATTEMPT = 2 && exit 0; echo $$ >"+pid+".new; mv "+pid+".new "+pid+"; exec sleep 3600")
	e := &execution{JobID: "j", Number: 1, Document: json.RawMessage(runHandler("h")), Attempt: 1, BootID: "first boot"}
	left := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		_, _, err := run(ctx, []string{filepath.Join(b.config.Handlers, "h")}, append(os.Environ(), "IOT_JOB_ATTEMPT=1"), "", func(p *process) error {
			e.Process = p
			return save(b.config.Dir, e)
		})
		left <- err
	}()
	for read(t, pid)[0] == "" {
		b.pause("the handler")
	}
	b.create("j", runHandler("h"))
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
	if err := <-left; err == nil || ctx.Err() != nil {
		t.Errorf("the first handler ended with %v", err)
	}
}

// A process id that another process has by now is left alone.
func TestProcessOfAnotherIsNotEnded(t *testing.T) {
	t.Parallel()
	needsProc(t)
	p := &process{ID: os.Getpid(), Started: "1"}
	p.kill() // ends the test if it is wrong
	if startTime(os.Getpid()) == "" || startTime(1<<30) != "" {
		t.Error("start times are not read")
	}
}

func TestRebootSucceedsAfterTheBoot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	log := filepath.Join(t.TempDir(), "ran")
	b.handler("reboot.sh", "echo reboot >>"+log)
	b.handler("after", "echo after >>"+log)
	b.create("j", `{"version":"1.0","steps":[{"action":{"name":"Reboot","type":"runHandler","input":{"handler":"reboot.sh"}}},{"action":{"name":"After","type":"runHandler","input":{"handler":"after"}}}]}`)
	b.powerOn()
	for read(t, log)[0] != "reboot" {
		b.pause("the handler")
	}
	b.powerOff()
	b.powerOn() // without a boot
	for len(read(t, log)) < 2 {
		b.pause("the second attempt")
	}
	if e := b.execution("j"); e.Status != awsiot.JobInProgress {
		t.Errorf("%s before the boot", e.Status)
	}
	b.powerOff()
	b.config.bootID = func() string { return "second boot" }
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
	if got := strings.Join(read(t, log), " "); got != "reboot reboot after" {
		t.Errorf("ran %s", got)
	}
}

// A device without a record of an execution that has begun, as where its state is
// on a memory disk, does not reboot for ever.
func TestExecutionWithoutARecordFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.handler("reboot.sh", "exit 0")
	b.create("j", runHandler("reboot.sh"))
	b.powerOn()
	b.await("j", awsiot.JobInProgress)
	for b.execution("j").StatusDetails["step"] == "" {
		b.pause("the step")
	}
	b.powerOff()
	if err := os.WriteFile(filepath.Join(b.config.Dir, stateFile), []byte(`{"jobId":`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.powerOn()
	b.await("j", awsiot.JobFailed)
}

// A state that means nothing does not keep the device from its jobs.
func TestDamagedRecordIsIgnored(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "null", "{}", "[]", "\x00\x00", `{"jobId":"a/b"}`, `{"jobId":"j","executionNumber":1,"step":-1,"document":` + runHandler("h") + `}`} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.handler("h", "true")
			if err := errors.Join(os.Mkdir(b.config.Dir, 0o700), os.WriteFile(filepath.Join(b.config.Dir, stateFile), []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
			b.create("j", runHandler("h"))
			b.powerOn()
			b.await("j", awsiot.JobSucceeded)
		})
	}
}

// A disk that cannot be read for a moment fails no execution, and one that never can be does not keep
// the device from its jobs.
func TestRecordThatCannotBeReadIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]awsiot.JobExecutionStatus{"for a moment": awsiot.JobSucceeded, "for ever": awsiot.JobFailed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.handler("h", `test "$IOT_JOB_ATTEMPT" = 2 || sleep 60`)
			b.create("j", runHandler("h"))
			b.powerOn()
			for b.execution("j").StatusDetails["step"] == "" {
				b.pause("the step")
			}
			b.powerOff()
			path := filepath.Join(b.config.Dir, stateFile)
			if err := errors.Join(os.Rename(path, path+".old"), os.Symlink(stateFile, path)); err != nil { // a loop
				t.Fatal(err)
			}
			s := New(b.config)
			b.service = s
			for range maxReads - 2 {
				if _, err := s.advance(t.Context(), (*conn)(b), false); !errors.Is(err, syscall.ELOOP) {
					t.Fatal(err)
				}
			}
			b.await("j", awsiot.JobInProgress)
			if want == awsiot.JobSucceeded {
				if err := os.Rename(path+".old", path); err != nil {
					t.Fatal(err)
				}
			}
			ctx, stop := context.WithCancel(t.Context())
			var serving sync.WaitGroup
			serving.Go(func() { _ = s.Serve(ctx, (*conn)(b)) })
			b.await("j", want)
			stop()
			serving.Wait()
			s.stopWorker()
		})
	}
}

func TestStateThatCannotBeStoredFailsTheJob(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ran := filepath.Join(t.TempDir(), "ran")
	b.handler("h", "echo >"+ran)
	if err := os.WriteFile(b.config.Dir, nil, 0o600); err != nil { // in the place of the folder
		t.Fatal(err)
	}
	b.create("j", runHandler("h"))
	b.powerOn()
	b.await("j", awsiot.JobFailed)
	if _, err := os.Stat(ran); err == nil {
		t.Error("the handler has run")
	}
}

// What ended while there was no connection is reported with the next one; what
// AWS IoT has ended meanwhile is not.
func TestResultIsReportedWithTheNextConnection(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.handler("h", "true")
	b.create("j", runHandler("h"))
	b.create("k", runHandler("h"))
	if err := save(b.config.Dir, &execution{JobID: "j", Number: 1, Status: awsiot.JobFailed, Details: map[string]string{"reason": "why"}}); err != nil {
		t.Fatal(err)
	}
	b.powerOn()
	if e := b.await("j", awsiot.JobFailed); e.StatusDetails["reason"] != "why" {
		t.Error(e.StatusDetails)
	}
	b.await("k", awsiot.JobSucceeded)
	b.powerOff()
	if _, err := os.Stat(filepath.Join(b.config.Dir, stateFile)); !errors.Is(err, os.ErrNotExist) {
		t.Error("the state stays:", err)
	}
	if err := save(b.config.Dir, &execution{JobID: "gone", Number: 1, Document: json.RawMessage(runHandler("h"))}); err != nil {
		t.Fatal(err)
	}
	b.create("l", runHandler("h"))
	b.powerOn()
	b.await("l", awsiot.JobSucceeded)
}

// A job that was deleted and created again while the device was away has the id and number of the
// one that the device knows. Neither its document nor its result are the new one's.
func TestJobThatIsCreatedAgainIsAnother(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]awsiot.JobExecutionStatus{"in progress": "", "with a result to report": awsiot.JobFailed, "behind another job": ""} {
		t.Run(name, func(t *testing.T) {
			behind := name == "behind another job"
			t.Parallel()
			b := newBench(t)
			ran := filepath.Join(t.TempDir(), "ran")
			b.handler("former", "echo former >>"+ran)
			b.handler("h", "echo present >>"+ran)
			b.handler("other", ":")
			if behind {
				b.create("i", runHandler("other"))
			}
			b.create("j", runHandler("h"))
			former := &execution{JobID: "j", Number: 1, Attempt: 1, QueuedAt: json.RawMessage("1700000000"), Document: json.RawMessage(runHandler("former")), Status: of}
			if err := save(b.config.Dir, former); err != nil {
				t.Fatal(err)
			}
			b.powerOn()
			b.await("j", awsiot.JobSucceeded)
			if got := read(t, ran); !slices.Equal(got, []string{"present"}) {
				t.Error(got)
			}
		})
	}
}

// Presigned URLs expire while a device is away, and AWS IoT makes others on request.
func TestInterruptedExecutionHasFreshURLs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ran := filepath.Join(t.TempDir(), "ran")
	b.handler("h", "echo $2 >>"+ran)
	b.create("j", runHandler("h", "fresh"))
	queued := fmt.Append(nil, b.execution("j").QueuedAt)
	if err := save(b.config.Dir, &execution{JobID: "j", Number: 1, QueuedAt: queued, Attempt: 1, Document: json.RawMessage(runHandler("h", "expired"))}); err != nil {
		t.Fatal(err)
	}
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
	if got := read(t, ran); !slices.Equal(got, []string{"fresh"}) {
		t.Error(got)
	}
}

func TestRotationSucceedsWithAnotherCertificate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		replace func(id *string) error
		begun   bool // by an agent that was killed, after the new identity was verified
		want    awsiot.JobExecutionStatus
		calls   int
	}{
		"replaced":                       {func(id *string) error { *id = "new"; return nil }, false, awsiot.JobSucceeded, 1},
		"failed":                         {func(*string) error { return errors.New("denied") }, false, awsiot.JobFailed, 1},
		"nothing replaced":               {func(*string) error { return nil }, false, awsiot.JobFailed, 1},
		"replaced before the agent died": {func(*string) error { return nil }, true, awsiot.JobSucceeded, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			id, calls := "old", 0
			b.config.Allow = []string{Rotate}
			b.config.CertificateID = func() (string, error) { return id, nil }
			b.config.Replace = func(context.Context) error { calls++; return test.replace(&id) }
			document := `{"operation":"rotate"}`
			b.create("j", document)
			if test.begun {
				e := &execution{JobID: "j", Number: 1, Document: json.RawMessage(document), Attempt: 1, CertificateID: "older"}
				if err := save(b.config.Dir, e); err != nil {
					t.Fatal(err)
				}
			}
			b.powerOn()
			e := b.await("j", test.want)
			b.powerOff()
			if calls != test.calls {
				t.Errorf("%d replacements, want %d", calls, test.calls)
			}
			if test.want == awsiot.JobSucceeded && e.StatusDetails["certificateId"] != id {
				t.Error(e.StatusDetails)
			}
		})
	}
}

func TestRunAsUser(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	out := filepath.Join(t.TempDir(), "out")
	b.config.Allow = []string{"runCommand"}
	b.create("j", `{"version":"1.0","includeStdOut":"true","steps":[{"action":{"name":"a","type":"runCommand","runAsUser":"nobody","input":{"command":"id,-un"}}}]}`)
	b.create("k", `{"version":"1.0","steps":[{"action":{"name":"a","type":"runCommand","runAsUser":"no-such-user","input":{"command":"touch,`+out+`"}}}]}`)
	b.powerOn()
	if os.Geteuid() == 0 {
		if e := b.await("j", awsiot.JobSucceeded); e.StatusDetails["stdout"] != "nobody" {
			t.Error(e.StatusDetails)
		}
	} else {
		b.await("j", awsiot.JobFailed)
	}
	b.await("k", awsiot.JobFailed)
	if _, err := os.Stat(out); err == nil {
		t.Error("the command has run")
	}
}

// A handler does not see what belongs to the agent.
func TestHandlersHaveTheirOwnEnvironment(t *testing.T) {
	t.Setenv("IOT_DEVICE_SERVER_PROXY", "http://user:secret@proxy")
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	b := newBench(t)
	out := filepath.Join(t.TempDir(), "out")
	b.handler("h", "env >"+out)
	b.create("j", runHandler("h"))
	b.powerOn()
	b.await("j", awsiot.JobSucceeded)
	env := read(t, out)
	if !slices.Contains(env, "IOT_JOB_ID=j") || !slices.Contains(env, "IOT_JOB_ATTEMPT=1") {
		t.Error(env)
	}
	for _, pair := range env {
		if strings.Contains(pair, "secret") || strings.HasPrefix(pair, "NOTIFY_SOCKET") {
			t.Error(pair)
		}
	}
}

// A slowConn sends a request as late as a link does that is busy with others, and a moment later the
// response is there.
type slowConn struct{ *Service }

func (slowConn) ThingName() string    { return thing }
func (slowConn) SessionPresent() bool { return true }

func (c slowConn) Publish(ctx context.Context, _ string, _ []byte) error {
	select {
	case <-time.After(responseTimeout + time.Second):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	q := c.request
	time.AfterFunc(time.Second, func() {
		c.Deliver(session.Message{Topic: q.topic.Accepted(), Payload: fmt.Appendf(nil, `{"clientToken":%q}`, q.token)})
	})
	return nil
}

func TestResponseIsAwaitedFromWhenTheRequestIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Dir: t.TempDir()})
		if _, err := s.call(t.Context(), slowConn{s}, awsiot.DescribeJobExecution, awsiot.NextJob, awsiot.JobsRequest{}); err != nil {
			t.Error(err)
		}
	})
}

// AWS's documentation leaves open how the answer says that no job is pending.
func TestEmptyExecutionIsNone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.emptyNext = true
	b.handler("h", "true")
	b.powerOn()
	for _, id := range []string{"first", "second"} {
		b.create(id, runHandler("h"))
		b.await(id, awsiot.JobSucceeded)
	}
}

func TestMessagesThatAreNotUnderstoodAreCounted(t *testing.T) {
	t.Parallel()
	s := New(Config{Dir: t.TempDir()})
	const jobs = "$aws/things/" + thing + "/jobs/"
	s.request = &request{awsiot.JobsTopic{Thing: thing, Operation: awsiot.UpdateJobExecution, Job: "j"}, "token", make(chan response, 1)}
	bad := map[string]string{
		jobs + "notify-next": `{"execution":5}`, jobs + "notify": `{`, jobs + "j/update/accepted": `{"clientToken":"other"}`,
		jobs + "k/update/accepted": `{"clientToken":"token"}`, jobs + "j/update/rejected": `{"clientToken":"token"}`, jobs: ``,
	}
	for topic, payload := range bad {
		if !s.Deliver(session.Message{Topic: topic, Payload: []byte(payload)}) {
			t.Errorf("%s is not of this service", topic)
		}
	}
	if s.invalid != uint64(len(bad)) || len(s.notified) > 0 {
		t.Errorf("%d of %d counted", s.invalid, len(bad))
	}
	if s.Deliver(session.Message{Topic: "$aws/things/" + thing + "/shadow/get/accepted"}) {
		t.Error("a shadow's message is none of jobs")
	}
	if s.Deliver(session.Message{Topic: jobs + "notify-next", Payload: []byte(`{"timestamp":1}`)}); len(s.notified) != 1 {
		t.Error("a notification is not noticed")
	}
}

func FuzzDeliver(f *testing.F) {
	f.Add("notify-next", []byte(`{"timestamp":1,"execution":{"jobId":"j","executionNumber":1,"jobDocument":{}}}`))
	f.Add("j/update/rejected", []byte(`{"clientToken":"t","code":"VersionMismatch","executionState":{}}`))
	f.Fuzz(func(_ *testing.T, topic string, payload []byte) {
		s := &Service{notified: make(chan struct{}, 1)}
		s.request = &request{awsiot.JobsTopic{Thing: thing, Operation: awsiot.UpdateJobExecution, Job: "j"}, "t", make(chan response, 1)}
		s.Deliver(session.Message{Topic: "$aws/things/" + thing + "/jobs/" + topic, Payload: payload})
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(runHandler("h", "a", "b")))
	f.Add([]byte(`{"operation":"h","args":["a"],"allowStdErr":2,"includeStdOut":true,"path":"default"}`))
	f.Add([]byte(`{"version":"1.0","conditions":[{"key":"a","value":["b"],"type":"equals"}],"steps":[],"finalStep":{"action":{"name":"a","type":"runCommand","input":{"command":"a\\,b,c"}}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := parse(text)
		if err != nil {
			if !strings.Contains(err.Error(), ": ") {
				t.Errorf("%q: no place in %q", text, err)
			}
			return
		}
		if len(d.steps) == 0 {
			t.Errorf("%q has no steps", text)
		}
		for _, s := range d.steps {
			if s.operation() == "" || s.name == "" || strings.Contains(s.handler, "/") {
				t.Errorf("%q: step %+v", text, s)
			}
		}
	})
}

// A write that is cut off, as by a power cut, leaves the state before it.
func TestStateIsReplacedAtomically(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := save(dir, &execution{JobID: "j", Step: 1}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile+".new"), []byte(`{"job`), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := load(dir)
	if err != nil || e == nil || e.JobID != "j" || e.Step != 1 {
		t.Fatal(e, err)
	}
	info, err := os.Stat(filepath.Join(dir, stateFile))
	if err != nil || info.Mode().Perm() != 0o600 || info.Sys().(*syscall.Stat_t).Size == 0 {
		t.Error(info, err)
	}
	if err := errors.Join(save(dir, nil), save(dir, nil)); err != nil {
		t.Error(err)
	}
	if e, err := load(dir); e != nil || err != nil {
		t.Error(e, err)
	}
}
