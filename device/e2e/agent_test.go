package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/session"
)

// An agentProcess is iot_device run.
type agentProcess struct {
	*device
	socket string
	client *agent.Client
	cmd    *exec.Cmd
	exited chan struct{}
	stderr *watcher
	env    []string // more of its environment
}

// agent returns a device's agent, which is not started yet.
func (d *device) agent(t testing.TB) *agentProcess {
	t.Helper()
	dir, err := os.MkdirTemp("", "fleety") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &agentProcess{device: d, socket: filepath.Join(dir, "api.sock")}
	a.client = agent.NewClient(a.socket)
	t.Cleanup(a.client.Close)
	return a
}

// environment leads the device's other commands to the agent.
func (a *agentProcess) environment() []string {
	return append(append(os.Environ(), "PATH="+filepath.Dir(a.binary)+":"+os.Getenv("PATH"), "IOT_DEVICE_AGENT_SOCKET="+a.socket), a.env...)
}

// start returns when the agent answers.
func (a *agentProcess) start(t testing.TB, flags ...string) {
	t.Helper()
	a.stderr = &watcher{}
	a.cmd = exec.CommandContext(t.Context(), a.binary, append([]string{"run", "--config", "device.yaml", "--log-level", "info"}, flags...)...)
	a.cmd.Dir, a.cmd.Env, a.cmd.Stderr = a.dir, a.environment(), a.stderr
	a.cmd.WaitDelay = time.Second
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, exited := a.cmd, make(chan struct{})
	a.exited = exited
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have gone
		<-exited
	})
	for _, err := a.client.Status(t.Context()); err != nil; _, err = a.client.Status(t.Context()) {
		select {
		case <-exited:
			t.Fatalf("the agent does not run:\n%s", a.stderr)
		case <-t.Context().Done():
			t.Fatalf("the agent does not answer:\n%s", a.stderr)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// kill ends the agent as kill -9 does.
func (a *agentProcess) kill() {
	_ = a.cmd.Process.Kill()
	<-a.exited
}

// stop ends the agent as a service manager does, and returns its exit code.
func (a *agentProcess) stop() int {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	<-a.exited
	return a.cmd.ProcessState.ExitCode()
}

// request returns the agent's answer.
func (a *agentProcess) request(t testing.TB, method, path string, body io.Reader) (status int, text string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", a.socket)
	}}}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://agent"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatalf("%v\n%s", err, a.stderr)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(data)
}

// awaitMetrics waits until the agent's metrics have each of the lines. A service
// counts after it has reported to AWS IoT, so nothing seen there says that it has.
func (a *agentProcess) awaitMetrics(t testing.TB, lines ...string) {
	t.Helper()
	for timeout := time.After(2 * time.Minute); ; {
		_, metrics := a.request(t, "GET", "/metrics", nil)
		missing := slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return strings.Contains(metrics, line+"\n") })
		if len(missing) == 0 {
			return
		}
		select {
		case <-timeout:
			t.Fatalf("metrics have no %q:\n%s\n%s", missing, metrics, a.stderr)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// await waits until the agent's status is as it should be.
func (a *agentProcess) await(t testing.TB, as func(agent.Status) bool) agent.Status {
	t.Helper()
	for {
		var s agent.Status
		_, text := a.request(t, "GET", "/v1/status", nil)
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		if as(s) {
			return s
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("status: %+v", s)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func sent(s agent.Status) bool { return s.Connected && s.Outbox.Messages == 0 }

// published collects the topics of the device's messages, without their common
// beginning, in the order in which the cloud received them.
type published struct {
	mu     sync.Mutex
	topics []string
}

func (c *cloud) collect(t *testing.T, d *device) *published {
	p := &published{}
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		err := c.Follow(ctx, func(e localcore.Event) bool {
			if rest, ok := strings.CutPrefix(e.Topic, "fleet/"+d.thing()+"/up/"); ok && e.Type == event.Published {
				p.mu.Lock()
				p.topics = append(p.topics, rest)
				p.mu.Unlock()
			}
			return true
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); following.Wait() })
	return p
}

// awaitAll has the agent publish one more message, and returns when it and so all those
// before have been collected.
func (p *published) awaitAll(t *testing.T, a *agentProcess) {
	t.Helper()
	if err := a.client.Publish(t.Context(), "end", nil); err != nil {
		t.Fatal(err)
	}
	for {
		p.mu.Lock()
		last := len(p.topics) - 1
		if last >= 0 && p.topics[last] == "end" {
			p.topics = p.topics[:last]
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		select {
		case <-t.Context().Done():
			t.Fatalf("the last message has not arrived\n%s", a.stderr)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// inOrder returns how many messages of each producer, with the topics pPRODUCER/NUMBER,
// have arrived. They must in order, but for those that arrive again.
func (p *published) inOrder(t *testing.T, producers int) []int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	first := make([]int, producers) // how many came, each once
	for _, topic := range p.topics {
		var p, n int
		if _, err := fmt.Sscanf(topic, "p%d/%d", &p, &n); err != nil {
			t.Fatal(topic)
		}
		if n > first[p] {
			t.Fatalf("%s arrived when %05d was due", topic, first[p])
		}
		if n == first[p] {
			first[p]++
		}
	}
	return first
}

// Killed at random instants under load, the agent loses no message that it has
// acknowledged to a producer, and keeps the order of each producer's.
func TestKilledAgentLosesNoAcknowledgedMessage(t *testing.T) {
	t.Parallel()
	const producers = 3
	kills := int(*crashKills)
	s := newSite(t, shipped)
	d := s.device(t, "device")
	d.mustRun(t)
	arrived := s.cloud.collect(t, d)
	a := d.agent(t)
	ctx, stop := context.WithCancel(t.Context())
	var working sync.WaitGroup
	acknowledged := make([]int, producers)
	for p := range producers {
		working.Go(func() {
			for ctx.Err() == nil {
				topic := fmt.Sprintf("p%d/%05d", p, acknowledged[p])
				if a.client.Publish(t.Context(), topic, []byte(topic)) == nil {
					acknowledged[p]++
				}
				time.Sleep(15 * time.Millisecond) // the rate of a producer
			}
		})
	}
	for range kills {
		a.start(t)
		time.Sleep(rand.N(250 * time.Millisecond)) // the instant
		a.kill()
	}
	stop()
	a.start(t)
	working.Wait()
	a.await(t, sent)
	arrived.awaitAll(t, a)
	if code := a.stop(); code != 0 {
		t.Errorf("stopped, the agent exits with %d\n%s", code, a.stderr)
	}
	total := 0
	for p, first := range arrived.inOrder(t, producers) {
		if total += acknowledged[p]; first < acknowledged[p] {
			t.Errorf("producer %d: %d messages acknowledged, %d arrived", p, acknowledged[p], first)
		}
	}
	t.Logf("%d messages acknowledged, %d arrivals", total, len(arrived.topics))
	if total < kills {
		t.Errorf("only %d messages for %d kills", total, kills)
	}
}

// A connection that is half open, so that nothing arrives and nothing says so, is noticed
// within 1.5 keep-alives, whether the agent publishes or not. The next connection carries
// on, and each message arrives once.
func TestAgentNoticesAHalfOpenConnection(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	for cause, messages := range map[string]int{"lost": 0, "publish": 250} { // 100 of them are on their way
		t.Run(cause, func(t *testing.T) { // parallel, they would begin after all other tests, and take a minute
			k := newLink(t, s.cloud.address(), 0)
			t.Cleanup(k.close)
			d := s.deviceAt(t, "device", k.port())
			a := d.agent(t)
			a.start(t)
			before := a.await(t, sent)
			arrived := s.cloud.collect(t, d)
			k.silence()
			silent := time.Now()
			var want []string
			for i := range messages {
				want = append(want, fmt.Sprintf("%05d", i))
				if err := a.client.Publish(t.Context(), want[i], nil); err != nil {
					t.Fatal(err)
				}
			}
			a.await(t, func(s agent.Status) bool { return !s.Connected || !s.ConnectedSince.Equal(before.ConnectedSince) })
			if took, most := time.Since(silent), session.DefaultKeepAlive*3/2+10*time.Second; took > most {
				t.Errorf("noticed after %v, want %v at most", took, most)
			}
			a.await(t, sent)
			arrived.awaitAll(t, a)
			if !slices.Equal(arrived.topics, want) {
				t.Errorf("published %q, arrived %q", want, arrived.topics)
			}
			a.awaitMetrics(t, fmt.Sprintf("iot_device_reconnects_total{cause=%q} 1", cause))
		})
	}
}

// What is published while the broker is away arrives when it is back, and the
// counts say so.
func TestAgentOutlivesItsBroker(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	d := newDevice(t, build(t, shipped), t.TempDir(), "29746800001", "device", &cloud{credentials: b.credentials()}, b.port)
	a := d.agent(t)
	a.start(t)
	a.await(t, sent)
	b.kill()
	a.await(t, func(s agent.Status) bool { return !s.Connected && s.LastError != "" })
	for i := range 250 {
		if err := a.client.Publish(t.Context(), "telemetry", fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	b.start(t)
	a.await(t, sent)
	a.awaitMetrics(t, "iot_device_connected 1", "iot_device_messages_stored_total 250", "iot_device_messages_acknowledged_total 250", "iot_device_outbox_messages 0")
	if _, metrics := a.request(t, "GET", "/metrics", nil); !strings.Contains(metrics, `iot_device_reconnects_total{cause="`) {
		t.Errorf("no reconnect is counted:\n%s", metrics)
	}
}

// Requests that cannot succeed are rejected before anything is stored.
func TestAgentRejectsBadRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	a := s.device(t, "device").agent(t)
	a.start(t)
	large := strings.Repeat("x", 128<<10)
	for path, want := range map[string]int{
		"POST /v1/publish":                          400,
		"POST /v1/publish?topic=a/%23":              400,
		"POST /v1/publish?topic=fleet/another/up/x": 403,
		"POST /v1/publish?topic=$aws/rules/x":       403,
		"POST /v1/publish?topic=ok":                 200,
		"POST /v1/publish?topic=ok&id=x":            400, // no JSON
		"GET /v1/subscribe?filter=fleet/%23":        403,
		"GET /v1/subscribe?filter=%23/x":            400,
		"GET /v1/publish?topic=x":                   405,
		"GET /v1/shadows/x":                         404,
	} {
		method, target, _ := strings.Cut(path, " ")
		body := ""
		if method == "POST" {
			body = large
		}
		if status, text := a.request(t, method, target, strings.NewReader(body)); status != want {
			t.Errorf("%s: %d %s, want %d", path, status, text, want)
		}
	}
	var ids [2]struct{ ID string }
	for i := range ids {
		status, text := a.request(t, "POST", "/v1/publish?topic=ok&id=id", strings.NewReader(`{"n": 1}`))
		if err := json.Unmarshal([]byte(text), &ids[i]); status != 200 || err != nil || len(ids[i].ID) < 20 || ids[0] == ids[1] {
			t.Errorf("a message with an id: %d %s, %v", status, text, err)
		}
	}
	for _, more := range []string{"x", large, strings.Repeat(large, 6)} {
		if status, _ := a.request(t, "POST", "/v1/publish?topic=ok", strings.NewReader(large+more)); status != 413 {
			t.Errorf("a message of %d bytes: %d", len(large+more), status)
		}
	}
	a.await(t, sent)
	a.awaitMetrics(t, "iot_device_messages_stored_total 3")
	for topic, want := range map[string]int{"telemetry": 0, "fleet/another/x": 3, "a/#": 2} {
		cmd := exec.CommandContext(t.Context(), a.binary, "publish", "--config", "device.yaml", topic, "x")
		cmd.Dir, cmd.Env = a.dir, a.environment()
		if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != want {
			t.Errorf("publish %s: exit code %d, want %d\n%s", topic, cmd.ProcessState.ExitCode(), want, out)
		}
	}
	for _, more := range []string{"x", large} {
		cmd := exec.CommandContext(t.Context(), a.binary, "publish", "--config", "device.yaml", "telemetry", "-")
		cmd.Dir, cmd.Env, cmd.Stdin = a.dir, a.environment(), strings.NewReader(large+more)
		if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("publish a line of %d bytes: exit code %d, want 2\n%s", len(large+more), cmd.ProcessState.ExitCode(), out)
		}
	}
}

// A diagnosis does not take the connection and the session of the agent, and tries
// both where the agent is not connected.
func TestDoctorLeavesTheAgentConnected(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	a := s.device(t, "device").agent(t)
	a.start(t)
	a.await(t, sent)
	before, err := a.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deviceConnect := func() string {
		cmd := exec.CommandContext(t.Context(), a.binary, "doctor", "--config", "device.yaml", "--json")
		cmd.Dir, cmd.Env = a.dir, a.environment()
		out, err := cmd.Output()
		var report struct {
			Checks []struct{ Name, Result string }
		}
		if err = errors.Join(err, json.Unmarshal(out, &report)); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, c := range report.Checks {
			if c.Name == "device-connect" {
				return c.Result
			}
		}
		return "none"
	}
	if got := deviceConnect(); got != "skipped" {
		t.Errorf("while the agent is connected device-connect is %s", got)
	}
	if after, err := a.client.Status(t.Context()); err != nil || !after.Connected || !after.ConnectedSince.Equal(before.ConnectedSince) {
		t.Errorf("connected before %v, after %+v, %v", before.ConnectedSince, after, err)
	}
	a.stop()
	if got := deviceConnect(); got != "ok" {
		t.Errorf("without the agent device-connect is %s", got)
	}
}

// No command takes the connection of the agent, reachable or not.
func TestCommandsLeaveTheAgentConnected(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	a := s.device(t, "device").agent(t)
	a.start(t)
	before := a.await(t, sent)
	run := func(env []string, args ...string) (code int, stdout, stderr string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), a.binary, append(args, "--config", "device.yaml")...)
		var errors bytes.Buffer
		cmd.Dir, cmd.Env, cmd.Stderr = a.dir, append(a.environment(), env...), &errors
		out, _ := cmd.Output()
		return cmd.ProcessState.ExitCode(), string(out), errors.String()
	}
	unreachable := []string{"IOT_DEVICE_AGENT_SOCKET=" + filepath.Join(a.dir, "none.sock")}
	holder := fmt.Sprintf("process %d", a.cmd.Process.Pid)
	for _, test := range []struct {
		name string
		env  []string
		args []string
		code int
	}{
		{"bootstrap", nil, []string{"bootstrap", "--json"}, 0},
		{"bootstrap, agent unreachable", unreachable, []string{"bootstrap"}, 1},
		{"reprovision", nil, []string{"bootstrap", "--reprovision"}, 1},
		{"rotate, agent unreachable", unreachable, []string{"rotate"}, 1},
		{"second agent", unreachable, []string{"run"}, 1},
		{"doctor", nil, []string{"doctor"}, 0},
		{"doctor, agent unreachable", unreachable, []string{"doctor"}, 0},
	} {
		code, stdout, stderr := run(test.env, test.args...)
		if code != test.code || code == 1 && (stdout != "" || !strings.Contains(stderr, holder) || !strings.Contains(stderr, "hint: ")) ||
			code == 0 && !strings.Contains(stdout, before.ThingName) {
			t.Errorf("%s: exit code %d, want %d\n%s%s", test.name, code, test.code, stdout, stderr)
		}
	}
	if now := a.await(t, sent); !now.ConnectedSince.Equal(before.ConnectedSince) || now.CertificateID != before.CertificateID {
		t.Errorf("before %+v\nafter %+v", before, now)
	}
	for _, args := range [][]string{{"rotate"}, {"bootstrap"}} { // at once, while it connects anew
		if code, _, stderr := run(nil, args...); code != 0 {
			t.Errorf("%s exits with %d\n%s", args, code, stderr)
		}
	}
	if code := a.stop(); code != 0 {
		t.Errorf("stopped, the agent exits with %d", code)
	}
	for _, args := range [][]string{{"bootstrap"}, {"rotate"}} {
		if code, _, stderr := run(nil, args...); code != 0 {
			t.Errorf("without the agent %s exits with %d\n%s", args, code, stderr)
		}
	}
}

// The commands of the page work as they are written.
func TestCommandsOfTheAgentPageWork(t *testing.T) {
	t.Parallel()
	s := &site{binary: build(t, shipped), dir: t.TempDir(), cloud: startCloud(t, func(c *localcore.Config) { c.API = "" })}
	d := s.device(t, "device")
	a := d.agent(t)
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "agent.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for i, block := range strings.Split(string(page), "```") {
		if i%2 == 0 || !strings.HasPrefix(block, "sh\n") {
			continue
		}
		for command := range strings.Lines(strings.TrimPrefix(block, "sh\n")) {
			command = strings.NewReplacer("/etc/iot_device/config.yaml", "device.yaml", "/run/iot_device/api.sock", a.socket).Replace(strings.TrimSpace(command))
			ran++
			if command == "iot_device run --config device.yaml" {
				a.start(t, "--set", `agent.shadows=[{},{"name":"config"}]`)
				continue
			}
			if !strings.Contains(command, "iot_device") && !strings.HasPrefix(command, "curl") {
				a.runTool(t, s.cloud, command)
				continue
			}
			a.runShown(t, command, s.cloud.APIURL()+"/topics/fleet/"+d.thing()+"/down/commands/x?qos=1")
		}
	}
	if ran < 8 {
		t.Errorf("the page shows %d commands", ran)
	}
	a.await(t, sent)
}

// runShown runs a command to its end, one that subscribes until it has printed a
// message.
func (a *agentProcess) runShown(t *testing.T, command, down string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "exec "+command)
	if strings.Contains(command, "|") {
		cmd.Args[2] = command
	}
	cmd.Dir, cmd.Env = a.dir, a.environment()
	if err := os.Link(filepath.Join(a.dir, "device.yaml"), filepath.Join(a.dir, ".simple-go-iot-device.yaml")); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	if !strings.Contains(command, "subscribe") {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
		return
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(stdout).ReadString('\n')
		line <- text
	}()
	for {
		answer, err := http.Post(down, "", strings.NewReader("go"))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		select {
		case text := <-line:
			var m agent.Message
			if err := json.Unmarshal([]byte(text), &m); err != nil || m.Payload == nil || *m.Payload != "go" {
				t.Errorf("%s printed %q\n%s", command, text, stderr.String())
			}
			_ = cmd.Process.Signal(os.Interrupt)
			_ = cmd.Wait()
			// Ctrl-C is how it is meant to end: one line that it has subscribed, and no error.
			if code := cmd.ProcessState.ExitCode(); strings.HasPrefix(command, "iot_device") && (code != 130 || strings.Count(stderr.String(), "\n") != 1) {
				t.Errorf("%s: interrupted, exit code %d\n%s", command, code, stderr.String())
			}
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}
