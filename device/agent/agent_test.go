package agent_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/agent/outbox"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const thing = "fleety_2974685"

// A world has an emulator and an agent of one device.
type world struct {
	*localcore.Server
	config agent.Config
	store  *identity.Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server, err := localcore.Start(t.Context(), localcore.Config{
		Templates: filepath.Join("..", "..", "templates"),
		HookFunc: func(context.Context, payload.Request) (payload.Response, error) {
			return payload.Response{AllowProvisioning: true}, nil
		},
		Now: func() time.Time { return time.Now().Add(2 * time.Minute) }, // its certificates begin now
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	dir, err := os.MkdirTemp("", "agent") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	store, err := identity.NewStore(identity.Config{SerialNumber: "2974685", Dir: filepath.Join(dir, "certs")})
	if err != nil {
		t.Fatal(err)
	}
	claim, err := server.Claim().TLS()
	if err != nil {
		t.Fatal(err)
	}
	host, port := server.Endpoint()
	return &world{server, agent.Config{
		Provision: provision.Config{
			Store:      store,
			Session:    session.Options{Endpoint: host, Port: port, RootCAs: server.RootCAs(), Proxy: "direct"},
			Claims:     []*tls.Certificate{claim},
			Template:   localcore.TemplateName,
			Parameters: map[string]string{"serialNumber": "2974685", "deviceLocation": "USA"},
		},
		Dir:    filepath.Join(dir, "agent"),
		Socket: filepath.Join(dir, "api.sock"),
	}, store}
}

// run runs the agent until the test ends, or until stop is called.
func (w *world) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	c := w.config
	c.OnStatus = func(text string, connected bool) {
		once.Do(func() { close(ready) })
		if w.config.OnStatus != nil {
			w.config.OnStatus(text, connected)
		}
	}
	go func() { ended <- agent.Run(ctx, c) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// get asks the agent.
func (w *world) get(t *testing.T, path string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.config.Socket)
	}}}
	answer, err := client.Get("http://agent" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status, err)
	}
	return string(text)
}

// await waits until the agent's status is as it should be.
func (w *world) await(t *testing.T, as func(agent.Status) bool) agent.Status {
	t.Helper()
	for tick := time.Tick(10 * time.Millisecond); ; {
		var s agent.Status
		if err := json.Unmarshal([]byte(w.get(t, "/v1/status")), &s); err != nil {
			t.Fatal(err)
		}
		if as(s) {
			return s
		}
		select {
		case <-tick:
		case <-t.Context().Done():
			t.Fatalf("status: %+v", s)
		}
	}
}

// awaitMetrics waits until the agent's metrics have each of the texts. What is counted may be
// counted after the event that others see.
func (w *world) awaitMetrics(t *testing.T, texts ...string) {
	t.Helper()
	w.await(t, func(agent.Status) bool {
		metrics := w.get(t, "/metrics")
		return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(metrics, text) })
	})
}

func connected(s agent.Status) bool { return s.Connected }

func TestAgentProvisionsAndConnects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	s := w.await(t, connected)
	id, err := w.store.Load()
	if err != nil || s.ThingName != thing || s.CertificateID != id.Record.CertificateID || s.ProcessID != os.Getpid() {
		t.Errorf("status %+v, %v", s, err)
	}
	if info, err := os.Stat(w.config.Socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if err := agent.Run(t.Context(), w.config); !errors.Is(err, agent.ErrRunning) {
		t.Errorf("a second agent: %v", err)
	}
}

func TestSocketOfAnotherProgramStaysItsOwn(t *testing.T) {
	t.Parallel()
	for network, listen := range map[string]func(name string) (io.Closer, error){
		"unix":     func(name string) (io.Closer, error) { return net.Listen("unix", name) },
		"unixgram": func(name string) (io.Closer, error) { return net.ListenPacket("unixgram", name) }, // as /dev/log
	} {
		w := newWorld(t)
		other, err := listen(w.config.Socket)
		if err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(w.config.Socket)
		if err != nil {
			t.Fatal(err)
		}
		err = agent.Run(t.Context(), w.config)
		if e, ok := errors.AsType[*net.OpError](err); !ok || e.Op != "listen" || !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EPROTOTYPE) {
			t.Errorf("%s: the agent ended with %v", network, err)
		}
		if after, err := os.Lstat(w.config.Socket); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: the socket is another one now, or none: %v", network, err)
		}
		other.Close()
	}
}

// A place where there can be no socket is the fault of agent.socket, and not of the disk.
func TestPlaceWithoutASocketIsAnErrorOfListening(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	file := w.config.Socket
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, place := range []string{file, file + "/api.sock", file + "/run/api.sock", "/proc/none/api.sock"} {
		w.config.Socket = place
		err := agent.Run(t.Context(), w.config)
		if e, ok := errors.AsType[*net.OpError](err); !ok || e.Op != "listen" {
			t.Errorf("%s: the agent ended with %v", place, err)
		}
	}
}

// What is in the outbox when an agent is stopped is sent before it disconnects.
func TestStoppedAgentDrainsItsOutbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.run(t)
	w.await(t, connected)
	client := agent.NewClient(w.config.Socket)
	for range 20 {
		if err := client.Publish(t.Context(), "telemetry", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	client.Close()
	stop()
	if _, err := os.Lstat(w.config.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	o := outbox.New(outbox.Config{Path: filepath.Join(w.config.Dir, "outbox.db")})
	defer o.Close()
	if s := o.Stats(); s.Messages != 0 {
		t.Errorf("left: %+v", s)
	}
}

// What is stored while the clock is ahead, as one that has lost its battery may be, has no age below
// zero: an alarm on the age would not go off, and rates and sums of it would be wrong.
func TestAgesInMetricsAreNotNegative(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.run(t)
	w.await(t, connected)
	stop()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(50 * 365 * 24 * time.Hour) // the clock of a bubble begins in 2000
		o := outbox.New(outbox.Config{Path: filepath.Join(w.config.Dir, "outbox.db")})
		defer o.Close()
		if err := o.Put("fleet/"+thing+"/up/telemetry", []byte("x")); err != nil {
			t.Fatal(err)
		}
	})
	w.Server.Close()
	w.run(t)
	w.awaitMetrics(t, "\niot_device_outbox_messages 1\n")
	for line := range strings.Lines(w.get(t, "/metrics")) {
		if !strings.HasPrefix(line, "#") && strings.Contains(line, " -") {
			t.Error(line)
		}
	}
}

// A message that AWS IoT denies, by ending the connection, does not keep those behind it.
func TestMessageThatEndsTheConnectionIsSetAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Mkdir(w.config.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	o := outbox.New(outbox.Config{Path: filepath.Join(w.config.Dir, "outbox.db")})
	for _, topic := range []string{"fleet/" + thing + "/up/1", "fleet/another/up/2", "fleet/" + thing + "/up/3"} {
		if err := o.Put(topic, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	o.Close()
	w.run(t)
	s := w.await(t, func(s agent.Status) bool { return s.Connected && s.Outbox.Messages == 0 })
	if s.Outbox.SetAside != 1 {
		t.Errorf("status: %+v", s)
	}
	for _, topic := range []string{"/up/1", "/up/3"} {
		if _, err := w.AwaitEvent(t.Context(), func(e localcore.Event) bool { return e.Type == event.Published && e.Topic == "fleet/"+thing+topic }); err != nil {
			t.Error(err)
		}
	}
	w.awaitMetrics(t, "iot_device_messages_set_aside_total 1\n", "iot_device_messages_acknowledged_total 2\n", `iot_device_reconnects_total{cause="publish"} `)
}

// Two clients with one client id end each other's connections. The agent does not fight.
func TestTakeoverByAnotherClientIsReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	w.await(t, connected)
	id, err := w.store.Load()
	if err != nil {
		t.Fatal(err)
	}
	o := w.config.Provision.Session
	o.ClientID = thing
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return id.TLS(), nil }
	for !strings.Contains(w.get(t, "/metrics"), `iot_device_reconnects_total{cause="takeover"}`) {
		other, err := session.Connect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		w.await(t, connected) // it has taken the client id back
		other.Close(t.Context())
	}
}

// A message that is unanswered whenever another client takes the client id is not what ends the
// connections.
func TestTakeoversSetNoMessageAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.run(t) // to provision
	w.await(t, connected)
	stop()
	id, err := w.store.Load()
	if err != nil {
		t.Fatal(err)
	}
	o := w.config.Provision.Session
	o.ClientID = thing
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return id.TLS(), nil }
	var taken atomic.Pointer[chan struct{}] // closed when the other client has the id
	w.config.Provision.Session.DialContext = func(ctx context.Context, kind, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, kind, address)
		return lateWriter{conn, &taken}, err
	}
	var takeovers sync.WaitGroup
	defer takeovers.Wait()
	left := 4
	w.config.OnStatus = func(_ string, connected bool) {
		if !connected || left == 0 {
			return
		}
		left--
		done := make(chan struct{})
		taken.Store(&done)
		takeovers.Go(func() {
			defer close(done)
			other, err := session.Connect(t.Context(), o)
			if err != nil {
				t.Error(err)
				return
			}
			other.Close(t.Context())
		})
	}
	box := outbox.New(outbox.Config{Path: filepath.Join(w.config.Dir, "outbox.db")})
	if err := box.Put("fleet/"+thing+"/up/1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	box.Close()
	w.run(t)
	w.await(t, func(s agent.Status) bool {
		if s.Outbox.SetAside > 0 {
			t.Fatalf("%+v", s)
		}
		return s.Connected && s.Outbox.Messages == 0
	})
	w.awaitMetrics(t, "iot_device_messages_acknowledged_total 1\n")
	if left > 0 {
		t.Errorf("%d takeovers have not been", left)
	}
}

// A lateWriter sends nothing before the channel is closed.
type lateWriter struct {
	net.Conn
	until *atomic.Pointer[chan struct{}]
}

func (w lateWriter) Write(p []byte) (int, error) {
	if until := w.until.Load(); until != nil {
		<-*until
	}
	return w.Conn.Write(p)
}

// A disk that fails or is not mounted does not keep an agent offline that has read its identity.
func TestAgentReconnectsWithoutItsDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := &network{}
	w.config.Provision.Session.DialContext = n.dial
	w.run(t)
	first := w.await(t, connected)
	certs := filepath.Join(filepath.Dir(w.config.Dir), "certs")
	if err := os.Rename(certs, certs+".gone"); err != nil {
		t.Fatal(err)
	}
	n.set(true)
	w.await(t, func(s agent.Status) bool { return !s.Connected })
	n.set(false)
	second := w.await(t, connected)
	if second.CertificateID != first.CertificateID {
		t.Errorf("connected with %s, then %s", first.CertificateID, second.CertificateID)
	}
}

// The rotation replaces the identity by age, and the agent connects with the new one.
func TestAgentRotatesByAge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.run(t)
	first := w.await(t, connected)
	stop()
	w.config.RotateAfter = 3 * time.Second
	w.run(t)
	second := w.await(t, func(s agent.Status) bool { return s.Connected && s.CertificateID != first.CertificateID })
	id, err := w.store.Load()
	if err != nil || id.Record.CertificateID != second.CertificateID && id.Record.Replaces != second.CertificateID {
		t.Errorf("%+v, %v", id, err)
	}
	w.awaitMetrics(t, `iot_device_rotations_total{result="done"} `)
}

// A folder that is replaced under an agent, as by a file system that is mounted there, has its lock
// soon, so that no other process takes the connection.
func TestAgentHoldsTheLockAtItsPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	w.await(t, connected)
	if err := os.Rename(w.config.Dir, w.config.Dir+".moved"); err != nil {
		t.Fatal(err)
	}
	w.await(t, func(agent.Status) bool { return osfile.Holder(filepath.Join(w.config.Dir, "lock")) == os.Getpid() })
	if _, err := agent.Lock(w.config.Dir); !errors.Is(err, agent.ErrRunning) {
		t.Error(err)
	}
}

// What has been rotated is in use, and said to be, also where the disk fails right after it.
func TestRotatedIdentityIsUsedWithoutItsDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	certs := filepath.Join(filepath.Dir(w.config.Dir), "certs")
	var commits atomic.Int32
	w.config.Provision.Progress = func(e provision.Event) {
		if e.Step == provision.StepCommit && e.Ended && commits.Add(1) == 2 { // the first provisions the device
			if err := os.Rename(certs, certs+".gone"); err != nil {
				t.Error(err)
			}
		}
	}
	w.run(t)
	before := w.await(t, connected)
	client := agent.NewClient(w.config.Socket)
	defer client.Close()
	if err := client.Rotate(t.Context(), thing); err != nil {
		t.Error(err)
	}
	if after := w.await(t, connected); after.CertificateID == before.CertificateID {
		t.Errorf("connected with %s, which was replaced", after.CertificateID)
	}
}

// A request for a rotation ends with its program, here while the device is offline.
func TestRotationIsWithdrawnWithItsRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := &network{}
	w.config.Provision.Session.DialContext = n.dial
	w.run(t)
	before := w.await(t, connected)
	n.set(true)
	w.await(t, func(s agent.Status) bool { return !s.Connected })
	client := agent.NewClient(w.config.Socket)
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- client.Rotate(ctx, thing) }()
	w.await(t, func(s agent.Status) bool { return s.RotationDue.IsZero() }) // requested
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	w.await(t, func(s agent.Status) bool { return !s.RotationDue.IsZero() })
	n.set(false)
	if after := w.await(t, connected); after.CertificateID != before.CertificateID {
		t.Errorf("certificate %s was replaced", before.CertificateID)
	}
	w.awaitMetrics(t, `iot_device_rotations_total{result="done"} 0`, `iot_device_rotations_total{result="failed"} 0`)
}

// A subscriber receives what its filter covers, and a slow one is dropped with a reason, while the
// others go on.
func TestSubscribersReceiveAndSlowOnesAreDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(t)
	client := agent.NewClient(w.config.Socket)
	defer client.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	release, slow := make(chan struct{}), make(chan error, 1)
	ready, received := make(chan struct{}, 2), make(chan string, 4096)
	working.Go(func() {
		client.Subscribe(ctx, "commands/+", func() { ready <- struct{}{} }, func(line json.RawMessage) error {
			received <- string(line)
			return nil
		})
	})
	working.Go(func() {
		slow <- client.Subscribe(ctx, "#", func() { ready <- struct{}{} }, func(json.RawMessage) error {
			<-release
			return nil
		})
	})
	<-ready
	<-ready
	big := strings.Repeat("x", 8<<10)
	for i := 0; !strings.Contains(w.get(t, "/metrics"), "iot_device_subscribers_dropped_total 1\n"); i++ {
		if i > 2000 {
			t.Fatal("a slow subscriber is not dropped")
		}
		answer, err := http.Post(w.APIURL()+"/topics/fleet/"+thing+"/down/commands/x?qos=1", "", strings.NewReader(big))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if line := <-received; !strings.Contains(line, `"topic":"fleet/`+thing+`/down/commands/x"`) || !strings.Contains(line, big) {
			t.Fatal(line)
		}
	}
	close(release)
	if e, ok := errors.AsType[*agent.Error](<-slow); !ok || e.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the slow subscriber got %v", e)
	}
}
