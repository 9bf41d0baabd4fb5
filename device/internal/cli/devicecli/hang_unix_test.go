//go:build unix

package devicecli

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

// The kernel accepts for an agent that hangs, or was stopped by SIGSTOP, and nobody answers.
func TestCommandsEndWhereTheAgentHangs(t *testing.T) {
	wait := statusWait
	t.Cleanup(func() { statusWait = wait })
	statusWait = 100 * time.Millisecond
	dir, err := os.MkdirTemp("", "hang") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, file := filepath.Join(dir, "s"), filepath.Join(dir, "device.yaml")
	if err := os.WriteFile(file, []byte("serialNumber: \"1\"\ndeviceLocation: USA\nserver: {endpoint: localhost}\nagent: {socket: "+socket+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	later := filepath.Join(dir, "later")
	hangs, err := net.Listen("unix", later)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hangs.Close() })
	go http.Serve(hangs, hangingLater())
	for name, tc := range map[string]struct {
		args     []string
		exitCode int
		says     string
	}{
		"publish":     {[]string{"publish", "t", "x"}, cli.ExitTemporary, "restart it"},
		"subscribe":   {[]string{"subscribe", "#"}, cli.ExitTemporary, "restart it"},
		"shadow":      {[]string{"shadow", "get"}, cli.ExitTemporary, "restart it"},
		"credentials": {[]string{"credentials", "--role-alias", "r"}, cli.ExitUsage, "run: iot_device bootstrap"}, // gets them without an agent, too
	} {
		for when, socket := range map[string]string{"": socket, ", in the middle": later} {
			t.Run(name+when, func(t *testing.T) {
				var out, problems strings.Builder
				args := append(tc.args, "--config", file, "--set", "agent.socket="+socket)
				code := cli.Main(Program(), args, term.Streams{In: strings.NewReader(""), Out: &out, Err: &problems})
				if code != tc.exitCode || out.Len() > 0 || !strings.Contains(problems.String(), tc.says) {
					t.Errorf("exit code %d, %q, %q", code, out.String(), problems.String())
				}
			})
		}
	}
}

// hangingLater answers with the status until another request comes.
func hangingLater() http.Handler {
	var hangs atomic.Bool
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/status" {
			hangs.Store(true)
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			defer hangs.Store(false)
		}
		if hangs.Load() {
			<-r.Context().Done()
			return
		}
		w.Write([]byte("{}"))
	})
}
