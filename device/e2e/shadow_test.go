package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/awsiot"
)

// updateShadow is what an application does.
func (b *broker) updateShadow(t *testing.T, thing, name, document string) {
	t.Helper()
	answer, err := http.Post(b.shadowURL(thing, name), "", strings.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s %v: %s", answer.Status, err, text)
	}
}

// updateShadowByCommandLine does that with the AWS command line where it is installed.
func (b *broker) updateShadowByCommandLine(t *testing.T, thing, name, document string) {
	t.Helper()
	if _, err := exec.LookPath("aws"); err != nil {
		b.updateShadow(t, thing, name, document)
		return
	}
	payload := filepath.Join(t.TempDir(), "payload.json") // as versions 1 and 2 of the command line read it
	if err := os.WriteFile(payload, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	arguments := []string{"iot-data", "update-thing-shadow", "--endpoint-url", b.api, "--thing-name", thing, "--payload", "fileb://" + payload}
	if name != "" {
		arguments = append(arguments, "--shadow-name", name)
	}
	cmd := exec.CommandContext(t.Context(), "aws", append(arguments, payload+".out")...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") }),
		"AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

func (b *broker) shadowURL(thing, name string) string {
	return b.api + "/things/" + thing + "/shadow?name=" + name
}

// awaitShadow waits until AWS IoT has desired and reported state.
func (b *broker) awaitShadow(t *testing.T, a *agentProcess, name, want string) {
	t.Helper()
	for {
		answer, err := http.Get(strings.TrimSuffix(b.shadowURL(a.thing(), name), "?name="))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ State map[string]any }
		if answer.StatusCode == http.StatusOK {
			if err := awsiot.DecodeJSON(text, &got); err != nil {
				t.Fatal(err)
			}
		}
		delete(got.State, "delta")
		if string(awsiot.EncodeJSON(got.State)) == want {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the shadow is %s, want %s\n%s", text, want, a.stderr)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// shadow runs a command of the device.
func (a *agentProcess) shadow(t *testing.T, input string, arguments ...string) (document agentShadow, exitCode int) {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), a.binary, slices.Insert(arguments, 1, "--config", "device.yaml")...)
	cmd.Args = append([]string{a.binary, "shadow"}, cmd.Args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = a.dir, a.environment(), strings.NewReader(input), &out, &stderr
	_ = cmd.Run() // the exit code decides
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		if out.Len() > 0 || stderr.Len() == 0 {
			t.Errorf("%v: exit code %d, stdout %q, stderr %q", cmd.Args, code, &out, &stderr)
		}
		return document, code
	}
	if err := json.Unmarshal(out.Bytes(), &document); err != nil {
		t.Fatalf("%v: %q", err, &out)
	}
	return document, 0
}

type agentShadow struct {
	State   map[string]map[string]any
	Version int
	Pending bool
}

// The built agent keeps its shadows while the network is cut, the broker is away,
// and after kill -9 between the desired state and the report.
func TestShadowsOfTheBuiltAgent(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	l := newLink(t, fmt.Sprintf("127.0.0.1:%d", b.port), 0)
	t.Cleanup(l.close)
	a := newDevice(t, build(t, shipped), t.TempDir(), "29746800001", "device", &cloud{credentials: b.credentials()}, l.port()).agent(t)
	program := filepath.Join(a.dir, "apply")
	script := "#!/bin/sh\necho called >>" + a.dir + "/calls\nwhile [ -e " + a.dir + "/hold ]; do sleep 0.1; done\nexec cat\n"
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(a.dir, "desired.json")
	shadows := fmt.Sprintf(`agent.shadows=[{"file":%q,"program":%q},{"name":"config"}]`, file, program)
	a.start(t, "--set", shadows)
	a.await(t, sent)

	b.updateShadowByCommandLine(t, a.thing(), "", `{"state":{"desired":{"led":"on"}}}`)
	b.awaitShadow(t, a, "", `{"desired":{"led":"on"},"reported":{"led":"on"}}`)
	if text, err := os.ReadFile(file); err != nil || string(text) != `{"led":"on"}`+"\n" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if d, code := a.shadow(t, "", "get"); code != 0 || d.State["reported"]["led"] != "on" || d.Pending {
		t.Errorf("the device has %+v, exit code %d", d, code)
	}

	l.cut()
	if d, code := a.shadow(t, "", "update", "config", `{"state":{"reported":{"a":1}}}`); code != 0 || d.State["reported"]["a"] != 1.0 {
		t.Errorf("the device has %+v, exit code %d", d, code)
	}
	b.awaitShadow(t, a, "config", `{"reported":{"a":1}}`)

	b.kill()
	a.await(t, func(s agent.Status) bool { return !s.Connected && s.LastError != "" })
	for _, change := range []string{`{"state":{"reported":{"a":2,"b":1}}}`, `{"state":{"reported":{"b":null,"c":1}}}`} {
		if d, code := a.shadow(t, change, "update", "config"); code != 0 || !d.Pending {
			t.Errorf("the device has %+v, exit code %d", d, code)
		}
	}
	a.kill()
	a.start(t, "--set", shadows)
	if d, code := a.shadow(t, "", "get", "config"); code != 0 || !d.Pending || fmt.Sprint(d.State["reported"]) != "map[a:2 c:1]" {
		t.Errorf("the device has %+v, exit code %d", d, code)
	}
	b.start(t)
	b.awaitShadow(t, a, "config", `{"reported":{"a":2,"c":1}}`)

	if err := os.WriteFile(filepath.Join(a.dir, "hold"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	calls, err := os.ReadFile(filepath.Join(a.dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	a.await(t, sent)
	b.updateShadowByCommandLine(t, a.thing(), "", `{"state":{"desired":{"led":"off"}}}`)
	for { // until the program runs
		if now, err := os.ReadFile(filepath.Join(a.dir, "calls")); err != nil {
			t.Fatal(err)
		} else if len(now) > len(calls) {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the program is not called\n%s", a.stderr)
		case <-time.After(5 * time.Millisecond):
		}
	}
	a.kill()
	if err := os.Remove(filepath.Join(a.dir, "hold")); err != nil {
		t.Fatal(err)
	}
	a.start(t, "--set", shadows)
	b.awaitShadow(t, a, "", `{"desired":{"led":"off"},"reported":{"led":"off"}}`)

	for name, arguments := range map[string][]string{
		"not kept":     {"get", "other"},
		"not a change": {"update", "config", "{}"},
		"too large":    {"update", `{"state":{"reported":{"x":"` + strings.Repeat("x", 9<<10) + `"}}}`},
	} {
		if _, code := a.shadow(t, "", arguments...); code != 2 {
			t.Errorf("%s: exit code %d", name, code)
		}
	}
	if code := a.stop(); code != 0 {
		t.Errorf("stopped, the agent exits with %d\n%s", code, a.stderr)
	}
}
