package cli_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.com/fleety/device/localcore"
)

// A follower is a run of iot_core_local events.
type follower struct {
	*exec.Cmd
	lines  *bufio.Scanner
	stderr strings.Builder
}

func follow(t *testing.T, api string, args ...string) *follower {
	t.Helper()
	f := &follower{Cmd: exec.CommandContext(t.Context(), filepath.Join(binDir, "iot_core_local"), append([]string{"events", "--api", api}, args...)...)}
	out, err := f.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.lines, f.Stderr = bufio.NewScanner(out), &f.stderr
	if err := f.Start(); err != nil {
		t.Fatal(err)
	}
	return f
}

// until returns the first line that matches.
func (f *follower) until(t *testing.T, pattern string) string {
	t.Helper()
	wanted := regexp.MustCompile(pattern)
	for f.lines.Scan() {
		if wanted.MatchString(f.lines.Text()) {
			return f.lines.Text()
		}
	}
	t.Fatalf("no line matches %s", pattern)
	return ""
}

func (f *follower) exit(t *testing.T) int {
	t.Helper()
	for f.lines.Scan() { // Wait would close the pipe under an unread line
	}
	if err := f.Wait(); err != nil && f.ProcessState == nil {
		t.Fatal(err)
	}
	return f.ProcessState.ExitCode()
}

// denyOne has the emulator deny a device.
func denyOne(t *testing.T, server *localcore.Server, dir string) {
	t.Helper()
	writeConfig(t, dir, "1234567", server)
	if code, _, stderr := runDevice(t, dir, "bootstrap"); code != 3 {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
}

func TestEventsAreFollowedUntilInterrupted(t *testing.T) {
	t.Parallel()
	server, dir := startEmulator(t)
	past := follow(t, server.APIURL(), "--past")
	denyOne(t, server, dir)
	past.until(t, `^\d\d:\d\d:\d\d\.\d{3} connected    client=claim-\S+ certificate=[0-9a-f]{8}… address=127\.0\.0\.1:\d+$`)
	past.until(t, `^\S+ rejected     action=provision client=claim-\S+ .* operation=RegisterThing code=AccessDenied reason=.*hook`)
	if err := past.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := past.exit(t); code != 130 {
		t.Errorf("exit code %d, want 130\n%s", code, &past.stderr)
	}
	if strings.Contains(past.stderr.String(), "error") {
		t.Errorf("an interrupt is an error:\n%s", &past.stderr)
	}
}

func TestEventsAreOneObjectALineUntilTheCoreEnds(t *testing.T) {
	t.Parallel()
	server, dir := startEmulator(t)
	denyOne(t, server, dir)
	f := follow(t, server.APIURL(), "--past", "--json")
	var e localcore.Event
	if err := json.Unmarshal([]byte(f.until(t, `"type":"rejected"`)), &e); err != nil {
		t.Fatal(err)
	}
	if e.Action != localcore.ActionProvision || e.Code != "AccessDenied" || e.Reason == "" || e.Time.IsZero() {
		t.Errorf("event %+v", e)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if code := f.exit(t); code != 4 || !strings.Contains(f.stderr.String(), "error: following the events of "+server.APIURL()+": the emulator has ended\n") {
		t.Errorf("exit code %d, want 4\n%s", code, &f.stderr)
	}
}

// Client ids and topics are those of any device, also of a hostile one.
func TestEventsDoNothingToATerminal(t *testing.T) {
	t.Parallel()
	const clientID = "claim-\u009b2J\u202e\x7f"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		_ = json.NewEncoder(w).Encode(localcore.Event{Type: localcore.Rejected, ClientID: clientID})
	}))
	defer server.Close()
	for _, args := range [][]string{{"--json"}, {}} {
		out, _ := exec.CommandContext(t.Context(), filepath.Join(binDir, "iot_core_local"), append([]string{"events", "--api", server.URL}, args...)...).Output()
		if strings.ContainsAny(string(out), "\u009b\u202e\x7f") || !strings.Contains(string(out), "claim-") {
			t.Errorf("%v: %q", args, out)
		}
		var e localcore.Event
		if err := json.Unmarshal(out, &e); len(args) > 0 && (err != nil || e.ClientID != clientID) {
			t.Errorf("read back %q, %v", e.ClientID, err)
		}
	}
}

func TestEventsReportWhyThereAreNone(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, test := range map[string]struct {
		api  string
		code int
		want string
	}{
		"nobody there":   {gone.URL, 4, "no emulator answers: dial tcp"},
		"another server": {other.URL, 2, "another server is there: it answered 404 Not Found"},
		"no URL":         {"localhost:8480", 2, `invalid argument "localhost:8480" for "--api" flag`},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), filepath.Join(binDir, "iot_core_local"), "events", "--api", test.api).Output()
			failed, ok := errors.AsType[*exec.ExitError](err)
			if !ok || failed.ExitCode() != test.code || len(out) > 0 || !strings.Contains(string(failed.Stderr), test.want) {
				t.Errorf("%v, stdout %q", err, out)
			}
		})
	}
}

// A port that accepts connections and sends nothing may become an emulator, or another program.
func TestWaitForAServerWithoutAResponseIsTemporary(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	err = exec.CommandContext(t.Context(), filepath.Join(binDir, "iot_core_local"), "wait", "--timeout", "100ms", "--api", "http://"+silent.Addr().String()).Run()
	if failed, ok := errors.AsType[*exec.ExitError](err); !ok || failed.ExitCode() != 4 {
		t.Error(err)
	}
}
