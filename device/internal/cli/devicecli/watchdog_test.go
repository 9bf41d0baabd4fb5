package devicecli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/term"
)

// When the agent ends, so does the watchdog, and a check that is cut short says nothing.
func TestWatchdogEndsWithTheAgent(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", "")
	asked := make(chan struct{}, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	socket := filepath.Join(t.TempDir(), "api.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	defer server.Close()

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
