package devicecli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/term"
)

// serveUnix serves a local API until the test ends, and returns its socket.
func serveUnix(t *testing.T, handler http.HandlerFunc) (socket string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	socket = filepath.Join(t.TempDir(), "api.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return socket
}

// When the agent ends, so does the watchdog, and a check that is cut short says nothing.
func TestWatchdogEndsWithTheAgent(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", "")
	asked := make(chan struct{}, 1)
	socket := serveUnix(t, func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})
	var log bytes.Buffer
	console := &cli.Console{Streams: term.Streams{Err: io.Discard}, Log: slog.New(slog.NewTextHandler(&log, nil))}
	d := &device{config: &config.Config{Agent: config.Agent{Socket: socket}}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	d.showStatus(ctx, console, &running, func() {})("connecting", false)
	<-asked
	cancel()
	running.Wait()
	if log.Len() > 0 {
		t.Error(log.String())
	}
}

// An agent whose socket was removed answers no program that begins now.
func TestWatchdogNoticesThatTheSocketIsGone(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "300000")
	t.Setenv("WATCHDOG_PID", "")
	asked := make(chan struct{}, 1)
	socket := serveUnix(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "{}")
		select {
		case asked <- struct{}{}:
		default:
		}
	})
	lines, log := io.Pipe()
	console := &cli.Console{Streams: term.Streams{Err: io.Discard}, Log: slog.New(slog.NewTextHandler(log, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer lines.Close() // the watchdog may be writing
	running.Go(func() { keepWatchdog(ctx, console, socket) })
	<-asked
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Second, func() { log.CloseWithError(errors.New("nothing was logged")) })
	line, err := bufio.NewReader(lines).ReadString('\n')
	if err != nil || !strings.Contains(line, "does not answer") {
		t.Errorf("%q, %v", line, err)
	}
}
