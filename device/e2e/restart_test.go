package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/fleety/device/localcore"
)

// localCore is iot_core_local, built for this machine.
var localCore = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binDir, "iot_core_local")
	return path, runTool("go", "build", "-o", path, module+"device/cmd/iot_core_local")
})

// A broker is iot_core_local as a process, with a state that outlives it.
type broker struct {
	binary, hook, dir string
	port              int
	api               string // URL; another one after each start

	cmd    *exec.Cmd
	stderr *watcher
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	b := &broker{binary: build(t, localCore), hook: build(t, hook), dir: t.TempDir(), port: stablePort(t)}
	b.start(t)
	t.Cleanup(b.kill)
	return b
}

func (b *broker) state() string       { return filepath.Join(b.dir, "state") }
func (b *broker) credentials() string { return filepath.Join(b.dir, "claim") }

// stablePort returns a free port on which a server can start again. It is below
// those that the system takes for outgoing connections, 32768 and more on Linux:
// one of those is soon another's, or even that of a client which tries to
// connect to it and ends up at itself.
func stablePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// start returns when devices can connect, on the same port each time.
func (b *broker) start(t *testing.T) {
	t.Helper()
	b.cmd = exec.CommandContext(t.Context(), b.binary, "serve", "--json",
		"--listen", fmt.Sprintf("127.0.0.1:%d", b.port), "--api", "127.0.0.1:0",
		"--templates", filepath.Join("..", "..", "templates"), "--hook", b.hook,
		"--state", b.state(), "--credentials", b.credentials())
	b.stderr = &watcher{}
	b.cmd.Stderr = b.stderr
	stdout, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ready struct {
		Port int
		API  string
	}
	if err := json.NewDecoder(stdout).Decode(&ready); err != nil {
		t.Fatalf("waiting for the ready line: %v\n%s", err, b.stderr)
	}
	if ready.Port != b.port {
		t.Fatalf("it listens on port %d, not %d", ready.Port, b.port)
	}
	b.api = ready.API
}

// kill ends the process as kill -9 does, and returns when it is gone.
func (b *broker) kill() {
	_ = b.cmd.Process.Kill() // it may have gone
	_ = b.cmd.Wait()
}

// A watcher keeps what a process writes and reports when it has written a text.
type watcher struct {
	mu      sync.Mutex
	written bytes.Buffer
	waiting map[string]chan struct{} // by text
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.written.Write(p)
	for text, seen := range w.waiting {
		if bytes.Contains(w.written.Bytes(), []byte(text)) {
			close(seen)
			delete(w.waiting, text)
		}
	}
	return n, err
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written.String()
}

// watch returns a channel that is closed once the text will have been written.
func (w *watcher) watch(text string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = map[string]chan struct{}{}
	}
	seen := make(chan struct{})
	w.waiting[text] = seen
	return seen
}

// The link gives the broker the time to die: what is under way when the moment
// comes is not there yet, and never will be.
func TestABrokerThatIsKilledAndStartedAgainLosesNothing(t *testing.T) {
	t.Parallel()
	moments := map[string]struct {
		watch func(device, broker *watcher) <-chan struct{}
		again string // the step that helps, afterwards
	}{
		"the certificate is there, RegisterThing under way": {func(device, _ *watcher) <-chan struct{} {
			return device.watch(done("store key and certificate"))
		}, "register thing"},
		"RegisterThing is done, its answer under way": {func(_, broker *watcher) <-chan struct{} {
			return broker.watch("msg=provisioned")
		}, "check registration"},
	}
	for name, moment := range moments {
		for _, flow := range flows {
			t.Run(name+" "+flow, func(t *testing.T) {
				t.Parallel()
				b := newBroker(t)
				slow := newLink(t, fmt.Sprintf("127.0.0.1:%d", b.port), 250*time.Millisecond)
				defer slow.close()
				d := newDevice(t, build(t, shipped), t.TempDir(), "2974685", flow, &cloud{credentials: b.credentials()}, slow.port())
				d.flags = []string{"--log-format", "json"}

				cmd, _ := d.command(t.Context())
				stderr := &watcher{}
				cmd.Stderr = stderr
				now := moment.watch(stderr, b.stderr)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				select {
				case <-now:
				case err := <-ended:
					t.Fatalf("the device was done before: %v\n%s", err, stderr)
				}
				slow.cut()
				b.kill()
				b.start(t)
				if err := <-ended; err != nil {
					t.Fatalf("the run did not go on by itself: %v\n%s", err, stderr)
				}
				for _, step := range []string{"create certificate", moment.again} {
					if got := strings.Count(stderr.String(), done(step)); got != 1 {
						t.Errorf("%q was done %d times, want once:\n%s", step, got, stderr)
					}
				}
				b.kill()
				after := b.cloud(t)
				d.checkWhole(t, after)
				after.checkNothingLeft(t, []*device{d})
			})
		}
	}
}

// done is how the device's log says that a step is done.
func done(step string) string { return fmt.Sprintf(`"msg":"step done","step":%q`, step) }

// cloud opens what the broker has left.
func (b *broker) cloud(t *testing.T) *cloud {
	t.Helper()
	return startCloud(t, func(c *localcore.Config) { c.State = b.state() })
}
