package tunnel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"example.com/fleety/device/agent/tunnel"
	"example.com/fleety/device/awsiot"
	cloud "example.com/fleety/device/localcore/tunnel"
	"example.com/fleety/device/session"
)

// A logBuffer keeps what was logged.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// A world is a device with a cloud.
type world struct {
	*tunnel.Service
	cloud *cloud.Service
	log   *logBuffer
	url   string // of the data plane

	mu     sync.Mutex
	tokens []string // of every tunnel

	conns map[net.Conn]struct{} // of the data plane

}

func echo(conn net.Conn) { _, _ = io.Copy(conn, conn) }

// listen returns the address of a service of the device.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, serve)
	return l.Addr().String()
}

// accept serves the connections of a listener until the test ends.
func accept(t *testing.T, l net.Listener, serve func(net.Conn)) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
}

// newWorld starts a device. Requests to the data plane are answered by the cloud,
// or by intercept, if it is not nil.
func newWorld(t *testing.T, services map[string]string, intercept http.HandlerFunc, change ...func(*tunnel.Config)) *world {
	t.Helper()
	w := &world{log: &logBuffer{}, conns: map[net.Conn]struct{}{}}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.cloud = cloud.New(cloud.Config{
		ARN:    func(resource string) string { return resource },
		Region: "eu-west-1",
		Publish: func(topic string, payload []byte) {
			if !w.Deliver(session.Message{Topic: topic, Payload: payload}) {
				t.Errorf("%s is not delivered", topic)
			}
		},
		Deleted: func(string) {}, Now: time.Now, Log: log,
	})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if intercept != nil {
			intercept(rw, r)
			return
		}
		w.cloud.ServeHTTP(rw, r)
	}))
	server.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if state == http.StateHijacked {
			w.conns[conn] = struct{}{}
		}
	}
	server.StartTLS()
	w.url = "wss" + strings.TrimPrefix(server.URL, "https")
	host, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	number, _ := strconv.Atoi(port)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	config := tunnel.Config{
		Endpoint: host, Port: number, Log: log,
		Session: session.Options{Endpoint: "abc-ats.iot.eu-west-1.amazonaws.com", RootCAs: roots, Proxy: "direct", Log: log},
	}
	for _, f := range change {
		f(&config)
	}
	w.Service = tunnel.New(config)
	w.SetServices(services)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx, "thing") })
	t.Cleanup(func() {
		stop()
		running.Wait()
		w.cloud.Close()
		server.Close()
		for _, token := range w.tokens {
			if strings.Contains(w.log.String(), token) {
				t.Errorf("a token was logged:\n%s", w.log)
			}
		}
	})
	return w
}

// cut ends the connections of the data plane, as a network does.
func (w *world) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for conn := range w.conns {
		conn.Close()
		delete(w.conns, conn)
	}
}

// open opens a tunnel to the device.
func (w *world) open(t *testing.T, services ...string) (id string, source awsiot.Secret) {
	t.Helper()
	opened, tokens, err := w.cloud.OpenTunnel(cloud.NewTunnel{DestinationConfig: &cloud.DestinationConfig{ThingName: "thing", Services: services}})
	if err != nil {
		t.Fatal(err)
	}
	w.tokens = append(w.tokens, string(tokens.Source), string(tokens.Destination))
	return opened.ID, tokens.Source
}

// awaitDevice waits until the device is connected to the tunnel.
func (w *world) awaitDevice(t *testing.T, id string) {
	t.Helper()
	eventually(t, func() bool {
		got, err := w.cloud.DescribeTunnel(id)
		if err != nil {
			t.Fatal(err)
		}
		return got.DestinationConnectionState.Status == cloud.Connected
	}, func() string { return w.log.String() })
}

func eventually(t *testing.T, condition func() bool, explain func() string) {
	t.Helper()
	for !condition() {
		select {
		case <-t.Context().Done():
			t.Fatal(explain())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// A source is the other side of a tunnel.
type source struct {
	*websocket.Conn
	t      *testing.T
	buffer []byte
}

func (w *world) source(t *testing.T, protocol string, token awsiot.Secret) *source {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{protocol}, TLSClientConfig: insecure}
	ws, _, err := dialer.Dial(w.url+"/tunnel?local-proxy-mode=source", http.Header{"access-token": {string(token)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.Close() })
	s := &source{Conn: ws, t: t}
	if protocol != awsiot.TunnelV1 {
		s.receive() // ServiceIDs
	}
	return s
}

func (s *source) send(m awsiot.TunnelMessage) {
	s.t.Helper()
	if err := s.WriteMessage(websocket.BinaryMessage, awsiot.AppendTunnelMessage(nil, m)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *source) receive() awsiot.TunnelMessage {
	s.t.Helper()
	for {
		m, rest, complete, err := awsiot.CutTunnelMessage(s.buffer)
		if err != nil {
			s.t.Fatal(err)
		}
		if complete {
			s.buffer = rest
			return m
		}
		_, data, err := s.ReadMessage()
		if err != nil {
			s.t.Fatal(err)
		}
		s.buffer = append(slices.Clone(s.buffer), data...)
	}
}

// echoed sends text on a connection and waits until it is back.
func (s *source) echoed(to awsiot.TunnelMessage, text string) {
	s.t.Helper()
	to.Type, to.Payload = awsiot.TunnelData, []byte(text)
	s.send(to)
	got := ""
	for len(got) < len(text) {
		m := s.receive()
		if m.Type != awsiot.TunnelData || m.StreamID != to.StreamID || m.ServiceID != to.ServiceID || m.ConnectionID != to.ConnectionID {
			s.t.Fatalf("received %+v, want the echo on %+v", m, to)
		}
		got += string(m.Payload)
	}
	if got != text {
		s.t.Errorf("%q came back as %q", text, got)
	}
}

func start(stream int32, service string, connection uint32) awsiot.TunnelMessage {
	return awsiot.TunnelMessage{Type: awsiot.TunnelStreamStart, StreamID: stream, ServiceID: service, ConnectionID: connection}
}

func with(m awsiot.TunnelMessage, kind awsiot.TunnelMessageType) awsiot.TunnelMessage {
	m.Type = kind
	return m
}

func (s *source) expect(want awsiot.TunnelMessage) {
	s.t.Helper()
	if got := s.receive(); fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Fatalf("received %+v, want %+v", got, want)
	}
}

func TestSourceReachesServicesInEveryVersion(t *testing.T) {
	t.Parallel()
	banner := func(conn net.Conn) { fmt.Fprint(conn, "hello"); echo(conn) }
	w := newWorld(t, map[string]string{"SSH": listen(t, echo), "web": listen(t, banner)}, nil)
	for protocol, streams := range map[string][]awsiot.TunnelMessage{
		awsiot.TunnelV1: {start(5, "", 0)},
		awsiot.TunnelV2: {start(5, "SSH", 0), start(6, "web", 0)},
		awsiot.TunnelV3: {start(5, "SSH", 1), start(5, "web", 3)},
	} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			services := []string{"SSH", "web"}[:len(streams)]
			id, token := w.open(t, services...)
			w.awaitDevice(t, id)
			s := w.source(t, protocol, token)
			for _, m := range streams {
				s.send(m)
				if m.ServiceID == "web" {
					s.expect(awsiot.TunnelMessage{Type: awsiot.TunnelData, StreamID: m.StreamID, ServiceID: "web", ConnectionID: m.ConnectionID, Payload: []byte("hello")})
				}
				s.echoed(m, "ping")
				s.echoed(m, strings.Repeat("0123456789", 6000))
			}
			// A stream takes the place of the one before; what comes for that is ignored.
			s.send(start(9, streams[0].ServiceID, streams[0].ConnectionID))
			stale := streams[0]
			stale.Payload = []byte("late")
			s.send(with(stale, awsiot.TunnelData))
			s.send(with(stale, awsiot.TunnelStreamReset))
			s.echoed(start(9, streams[0].ServiceID, streams[0].ConnectionID), "again")
		})
	}
}

// The data plane is that of the Region, and is reached through the proxy.
func TestDataPlaneIsReachedThroughTheProxy(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.Method + " " + r.Host:
		default:
		}
		rw.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(proxy.Close)
	for region, want := range map[string]string{
		"eu-west-1":  "CONNECT data.tunneling.iot.eu-west-1.amazonaws.com:443",
		"cn-north-1": "CONNECT data.tunneling.iot.cn-north-1.amazonaws.com.cn:443",
	} {
		w := newWorld(t, map[string]string{"SSH": "127.0.0.1:22"}, nil, func(c *tunnel.Config) {
			c.Endpoint, c.Port, c.Session.Proxy, c.Session.Endpoint = "", 0, proxy.URL, "iot.example.com"
		})
		w.Deliver(session.Message{Topic: awsiot.TunnelNotify("thing"), Payload: []byte(`{"clientAccessToken": "AQGAtoken", "clientMode": "destination", "region": "` + region + `", "services": ["SSH"]}`)})
		for got := range asked {
			if got == want {
				break
			}
		}
	}
}

func TestConnectionsShareAStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"web": listen(t, echo)}, nil)
	id, token := w.open(t, "web")
	w.awaitDevice(t, id)
	s := w.source(t, awsiot.TunnelV3, token)
	first, second := start(1, "web", 1), start(1, "web", 2)
	s.send(first)
	s.send(with(second, awsiot.TunnelConnectionStart))
	s.echoed(first, "first")
	s.echoed(second, "second")
	s.send(with(first, awsiot.TunnelConnectionReset))
	s.echoed(second, "second goes on")
	s.send(with(second, awsiot.TunnelConnectionStart)) // its id is in use
	s.expect(with(second, awsiot.TunnelConnectionReset))
	s.send(with(first, awsiot.TunnelConnectionStart))
	s.echoed(first, "first again")
	s.send(with(first, awsiot.TunnelStreamReset))
	eventually(t, func() bool { return w.Status().(map[string]int)["connections"] == 0 }, w.log.String)
}

func TestSeveralTunnelsAtOnceAndOneAfterAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"SSH": listen(t, echo)}, nil)
	for range 3 {
		var ids []string
		for range 3 {
			id, token := w.open(t, "SSH")
			ids = append(ids, id)
			w.awaitDevice(t, id)
			s := w.source(t, awsiot.TunnelV2, token)
			s.send(start(1, "SSH", 0))
			s.echoed(start(1, "SSH", 0), "hello")
		}
		if open := w.Status().(map[string]int)["tunnels"]; open != 3 {
			t.Errorf("%d tunnels are open", open)
		}
		for _, id := range ids {
			if err := w.cloud.CloseTunnel(id, false); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, func() bool { return w.Status().(map[string]int)["tunnels"] == 0 }, w.log.String)
	}
}

func TestLostConnectionIsMadeAgainWithTheSameToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"SSH": listen(t, echo)}, nil)
	id, _ := w.open(t, "SSH")
	for range 3 {
		w.awaitDevice(t, id)
		_, rotated, err := w.cloud.RotateTunnelAccessToken(id, "SOURCE", nil)
		if err != nil {
			t.Fatal(err)
		}
		w.tokens = append(w.tokens, string(rotated.Source))
		s := w.source(t, awsiot.TunnelV3, rotated.Source)
		s.send(start(1, "SSH", 1))
		s.echoed(start(1, "SSH", 1), "hello")
		w.cut()
		eventually(t, func() bool { return w.Status().(map[string]int)["connections"] == 0 }, w.log.String)
		eventually(t, func() bool {
			got, _ := w.cloud.DescribeTunnel(id)
			return got.DestinationConnectionState.Status == cloud.Connected && got.SourceConnectionState.Status == cloud.Disconnected
		}, w.log.String)
	}
	// A rotated token comes with a notification of its own, and the old connection ends.
	_, rotated, err := w.cloud.RotateTunnelAccessToken(id, "ALL", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.tokens = append(w.tokens, string(rotated.Source), string(rotated.Destination))
	eventually(t, func() bool { return w.Status().(map[string]int)["tunnels"] == 1 }, w.log.String)
	w.awaitDevice(t, id)
	s := w.source(t, awsiot.TunnelV1, rotated.Source)
	s.send(start(1, "", 0))
	s.echoed(start(1, "", 0), "hello")
}

// A rotated token gets through however many tunnels are open, and each of them stays.
func TestRotatedTokenReplacesItsTunnelAtTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"SSH": listen(t, echo)}, nil)
	var ids []string
	for range 10 {
		id, _ := w.open(t, "SSH")
		ids = append(ids, id)
	}
	for _, id := range ids {
		w.awaitDevice(t, id)
	}
	_, rotated, err := w.cloud.RotateTunnelAccessToken(ids[4], "ALL", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.tokens = append(w.tokens, string(rotated.Source), string(rotated.Destination))
	eventually(t, func() bool { return strings.Count(w.log.String(), "the tunnel has ended") == 1 }, w.log.String) // the former connection
	for _, id := range ids {
		w.awaitDevice(t, id)
	}
	s := w.source(t, awsiot.TunnelV3, rotated.Source)
	s.send(start(1, "SSH", 1))
	s.echoed(start(1, "SSH", 1), "hello")
}

// Tunnels that nobody has closed do not keep an operator out: the oldest ends.
func TestOneMoreTunnelThanTheLimitEndsTheOldest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"SSH": listen(t, echo)}, nil, func(c *tunnel.Config) { c.PingInterval = 200 * time.Millisecond })
	oldest, _ := w.open(t, "SSH")
	w.awaitDevice(t, oldest)
	for range 10 {
		id, _ := w.open(t, "SSH")
		defer w.awaitDevice(t, id)
	}
	eventually(t, func() bool {
		got, err := w.cloud.DescribeTunnel(oldest)
		return err == nil && got.DestinationConnectionState.Status == cloud.Disconnected && w.Status().(map[string]int)["tunnels"] == 10
	}, w.log.String)
}

// Services that read nothing hold back their source: little waits in the device's memory. It runs
// alone, for it measures the process.
func TestStuckServicesTakeLittleMemory(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	w := newWorld(t, map[string]string{"stuck": listen(t, func(conn net.Conn) {
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		<-release
	})}, nil)
	id, token := w.open(t, "stuck")
	w.awaitDevice(t, id)
	s := w.source(t, awsiot.TunnelV3, token)
	const connections = 10
	m := start(1, "stuck", 1)
	for s.send(m); m.ConnectionID < connections; s.send(m) {
		m.Type, m.ConnectionID = awsiot.TunnelConnectionStart, m.ConnectionID+1
	}
	m.Type, m.Payload = awsiot.TunnelData, make([]byte, awsiot.MaxTunnelPayload)
	var err error
	sent := 0
	for ; err == nil && sent < 100<<20; sent += len(m.Payload) {
		m.ConnectionID = m.ConnectionID%connections + 1
		_ = s.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		err = s.WriteMessage(websocket.BinaryMessage, awsiot.AppendTunnelMessage(nil, m))
	}
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	if memory.HeapAlloc > 8<<20 || err == nil {
		t.Errorf("%d bytes of memory, and %d were sent: %v", memory.HeapAlloc, sent, err)
	}
}

// The service gets all that came before the source ended the stream.
func TestEndOfAStreamLosesNothing(t *testing.T) {
	t.Parallel()
	received, ended := make(chan int, 1), make(chan struct{})
	w := newWorld(t, map[string]string{"log": listen(t, func(conn net.Conn) {
		fmt.Fprint(conn, "unread answer")
		<-ended // it reads late
		data, err := io.ReadAll(conn)
		if err != nil {
			t.Error(err)
		}
		received <- len(data)
	})}, nil)
	id, token := w.open(t, "log")
	w.awaitDevice(t, id)
	s := w.source(t, awsiot.TunnelV2, token)
	m := start(1, "log", 0)
	s.send(m)
	const messages, size = 18, 60_000
	for range messages {
		data := with(m, awsiot.TunnelData)
		data.Payload = make([]byte, size)
		s.send(data)
	}
	s.send(with(m, awsiot.TunnelStreamReset))
	close(ended)
	if n := <-received; n != messages*size {
		t.Errorf("%d bytes arrived", n)
	}
}

func TestEndOfAServiceEndsItsStream(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	once := func(conn net.Conn) { fmt.Fprint(conn, "bye") }
	w := newWorld(t, map[string]string{"once": listen(t, once), "none": closed.Addr().String()}, nil)
	id, token := w.open(t, "once", "none", "other")
	w.awaitDevice(t, id)
	s := w.source(t, awsiot.TunnelV3, token)
	answer := func(m awsiot.TunnelMessage, text string) awsiot.TunnelMessage {
		m.Type, m.Payload = awsiot.TunnelData, []byte(text)
		return m
	}
	s.send(start(1, "once", 0)) // from a source of version 2
	s.expect(answer(start(1, "once", 0), "bye"))
	s.expect(with(start(1, "once", 0), awsiot.TunnelStreamReset))
	s.send(start(2, "once", 7))
	s.expect(answer(start(2, "once", 7), "bye"))
	s.expect(with(start(2, "once", 7), awsiot.TunnelConnectionReset))
	s.send(start(3, "none", 1)) // nobody listens
	s.expect(with(start(3, "none", 1), awsiot.TunnelStreamReset))
	s.send(start(4, "other", 1)) // it is not configured
	s.expect(with(start(4, "other", 1), awsiot.TunnelStreamReset))
}

// A stream whose first connection failed is over on both sides: what the source sends before it
// knows connects to nothing.
func TestFailedStreamConnectsToNothingMore(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	w := newWorld(t, map[string]string{"late": closed.Addr().String()}, nil)
	id, token := w.open(t, "late")
	w.awaitDevice(t, id)
	s := w.source(t, awsiot.TunnelV3, token)
	s.send(start(1, "late", 1))
	s.expect(with(start(1, "late", 1), awsiot.TunnelStreamReset))
	l, err := net.Listen("tcp", closed.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int32
	accept(t, l, func(conn net.Conn) {
		accepted.Add(1)
		echo(conn)
	})
	s.send(with(start(1, "late", 2), awsiot.TunnelConnectionStart))
	s.send(start(2, "late", 3))
	s.echoed(start(2, "late", 3), "the next stream")
	if n := accepted.Load(); n != 1 {
		t.Errorf("%d connections to the service, want that of the second stream", n)
	}
}

// Tunnels outlive changes of the configuration that are not of their services.
func TestChangedServicesEndTheirTunnelsAlone(t *testing.T) {
	t.Parallel()
	web := listen(t, echo)
	w := newWorld(t, map[string]string{"web": web, "SSH": listen(t, echo)}, nil)
	ssh, sshToken := w.open(t, "SSH")
	id, token := w.open(t, "web")
	w.awaitDevice(t, ssh)
	w.awaitDevice(t, id)
	s := w.source(t, awsiot.TunnelV3, token)
	s.send(start(1, "web", 1))
	s.echoed(start(1, "web", 1), "before")
	w.source(t, awsiot.TunnelV3, sshToken)
	w.SetServices(map[string]string{"web": web, "late": listen(t, echo)})
	eventually(t, func() bool { return w.Status().(map[string]int)["tunnels"] == 1 }, w.log.String)
	s.echoed(start(1, "web", 1), "after")
	late, lateToken := w.open(t, "late")
	w.awaitDevice(t, late)
	s = w.source(t, awsiot.TunnelV3, lateToken)
	s.send(start(1, "late", 1))
	s.echoed(start(1, "late", 1), "hello")
	w.SetServices(map[string]string{"web": web, "late": listen(t, echo)}) // at another address
	eventually(t, func() bool { return w.Status().(map[string]int)["tunnels"] == 1 }, w.log.String)
}

func TestNotificationsThatAreIgnored(t *testing.T) {
	t.Parallel()
	token := strings.Repeat("t", 300)
	log := &logBuffer{}
	s := tunnel.New(tunnel.Config{
		Session: session.Options{Endpoint: "abc-ats.iot.eu-west-1.amazonaws.com"},
		Log:     slog.New(slog.NewTextHandler(log, nil)),
	})
	s.SetServices(map[string]string{"SSH": "127.0.0.1:22"})
	good := func(token string) string {
		return `{"clientAccessToken": "` + token + `", "clientMode": "destination", "region": "eu-west-1", "services": ["SSH", "other"]}`
	}
	want := map[string]int{}
	for payload, cause := range map[string]string{
		"": "malformed", "{": "malformed", "[]": "malformed", "null": "malformed", `{"clientAccessToken": 1}`: "malformed",
		strings.Replace(good(token), "destination", "source", 1): "malformed",
		good(""):                        "malformed",
		good(token + `\r\nx: y`):        "malformed",
		good(strings.Repeat("t", 4096)): "malformed",
		strings.Replace(good(token), "eu-west-1", "us-east-1", 1):      "malformed", // not the device's
		strings.Replace(good(token), "eu-west-1", "x.example.com/", 1): "malformed",
		strings.Replace(good(token), "SSH", "VNC", 1):                  "service",
		strings.Replace(good(token), `["SSH", "other"]`, `[]`, 1):      "service",
	} {
		want[cause]++
		if !s.Deliver(session.Message{Topic: awsiot.TunnelNotify("thing"), Payload: []byte(payload)}) {
			t.Errorf("%s is of another service", payload)
		}
	}
	if s.Deliver(session.Message{Topic: "$aws/things/thing/shadow/get/accepted"}) {
		t.Error("the messages of other services are taken")
	}
	for i := range 22 { // twenty at once, without Run
		s.Deliver(session.Message{Topic: awsiot.TunnelNotify("thing"), Payload: []byte(good(token + strconv.Itoa(i)))})
	}
	s.Deliver(session.Message{Topic: awsiot.TunnelNotify("thing"), Payload: []byte(good(token + "0"))})
	want["limit"], want["duplicate"] = 2, 1
	counted := false
	s.Metrics(func(name, _, _ string, samples ...any) {
		switch name {
		case "tunnels_ignored_total":
			counted = true
			for cause, count := range samples[1].(map[string]uint64) {
				if fmt.Sprint(count) != fmt.Sprint(want[cause]) {
					t.Errorf("%s: %d, want %d", cause, count, want[cause])
				}
			}
		case "tunnels", "tunnels_total":
			if fmt.Sprint(samples[1]) != "20" {
				t.Errorf("%s is %v", name, samples[1])
			}
		}
	})
	if !counted || strings.Contains(log.String(), "tttt") {
		t.Errorf("counted: %t; log:\n%s", counted, log)
	}
}

var clientToken = regexp.MustCompile(`^[a-zA-Z0-9-]{32,128}$`)

// A handshake that AWS IoT rejects is not repeated, one that fails otherwise is. What
// a server says is logged without the token.
func TestHandshakeErrors(t *testing.T) {
	t.Parallel()
	answers := make(chan int, 4)
	for _, status := range []int{503, 429, 403} {
		answers <- status
	}
	close(answers)
	w := newWorld(t, map[string]string{"SSH": "127.0.0.1:22"}, func(rw http.ResponseWriter, r *http.Request) {
		status, ok := <-answers
		if !ok {
			t.Error("a handshake after the rejection")
		}
		if r.URL.String() != "/tunnel?local-proxy-mode=destination" || !clientToken.MatchString(r.Header.Get("client-token")) {
			t.Errorf("%s, client token %q", r.URL, r.Header.Get("client-token"))
		}
		rw.Header().Set("channel-id", "the-channel")
		http.Error(rw, "\x1b[31mno "+r.Header.Get("access-token"), status)
	})
	w.open(t, "SSH")
	eventually(t, func() bool { return w.Status().(map[string]int)["tunnels"] == 0 }, w.log.String)
	if text := w.log.String(); !strings.Contains(text, "the-channel") || !strings.Contains(text, "403") || strings.Contains(text, "\x1b") {
		t.Errorf("log:\n%s", text)
	}
}

// Only a frame has a greatest length: a WebSocket message can go on.
func TestFragmentedMessageHasNoEnd(t *testing.T) {
	t.Parallel()
	const size, count = 60_000, 4 // more than a frame may have
	received := make(chan int64, 1)
	service := listen(t, func(conn net.Conn) {
		n, _ := io.CopyN(io.Discard, conn, size*count)
		received <- n
	})
	upgrader := websocket.Upgrader{Subprotocols: []string{awsiot.TunnelV3}, WriteBufferSize: 4096}
	w := newWorld(t, map[string]string{"SSH": service}, func(rw http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		message, _ := ws.NextWriter(websocket.BinaryMessage)
		m := start(1, "SSH", 1)
		_, _ = message.Write(awsiot.AppendTunnelMessage(nil, m))
		for m.Type, m.Payload = awsiot.TunnelData, make([]byte, size); err == nil; {
			_, err = message.Write(awsiot.AppendTunnelMessage(nil, m))
		}
	})
	w.open(t, "SSH")
	if n := <-received; n != size*count {
		t.Errorf("%d bytes arrived", n)
	}
}

// A network that has become silent is noticed by the missing pongs.
func TestSilentNetworkIsLeft(t *testing.T) {
	t.Parallel()
	upgrader := websocket.Upgrader{Subprotocols: []string{awsiot.TunnelV3}}
	connections := make(chan struct{}, 100)
	w := newWorld(t, map[string]string{"SSH": "127.0.0.1:22"}, func(rw http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		connections <- struct{}{}
		once := true
		ws.SetPingHandler(func(text string) error {
			if once {
				once = false
				return ws.WriteControl(websocket.PongMessage, []byte(text), time.Time{})
			}
			return nil
		})
		_, _, _ = ws.ReadMessage()
	}, func(c *tunnel.Config) { c.PingInterval = 20 * time.Millisecond })
	w.open(t, "SSH")
	<-connections
	<-connections
}

// The first pong shows that silence counts, so that no time passes before the first ping.
func TestNewConnectionIsTestedAtOnce(t *testing.T) {
	t.Parallel()
	upgrader := websocket.Upgrader{Subprotocols: []string{awsiot.TunnelV3}}
	pinged := make(chan struct{})
	w := newWorld(t, map[string]string{"SSH": "127.0.0.1:22"}, func(rw http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		ws.SetPingHandler(func(string) error {
			close(pinged)
			return nil
		})
		_, _, _ = ws.ReadMessage()
	}, func(c *tunnel.Config) { c.PingInterval = time.Hour })
	w.open(t, "SSH")
	<-pinged
}

// What a data plane may send does no harm: unknown types, text, garbage, and frames
// that are too large end the connection at most.
func FuzzDataPlane(f *testing.F) {
	f.Add(awsiot.AppendTunnelMessage(awsiot.AppendTunnelMessage(nil, start(1, "SSH", 1)), awsiot.TunnelMessage{Type: awsiot.TunnelData, StreamID: 1, ServiceID: "SSH", ConnectionID: 1, Payload: []byte("x")}), true)
	f.Add(awsiot.AppendTunnelMessage(awsiot.AppendTunnelMessage(nil, start(1, "", 0)), awsiot.TunnelMessage{Type: awsiot.TunnelSessionReset}), true)
	f.Add(awsiot.AppendTunnelMessage(awsiot.AppendTunnelMessage(nil, start(1, "", 3)), awsiot.TunnelMessage{Type: awsiot.TunnelConnectionStart, StreamID: 1, ConnectionID: 4}), true)
	f.Add([]byte{0, 2, 8, 99}, true)
	f.Add([]byte("text"), false)
	f.Fuzz(func(t *testing.T, data []byte, binary bool) {
		upgrader := websocket.Upgrader{Subprotocols: []string{awsiot.TunnelV3}}
		read := make(chan struct{})
		readOnce := sync.OnceFunc(func() { close(read) })
		w := newWorld(t, map[string]string{"SSH": listen(t, echo)}, func(rw http.ResponseWriter, r *http.Request) {
			select {
			case <-read: // the first connection has ended
				http.Error(rw, "", http.StatusForbidden)
				return
			default:
			}
			ws, err := upgrader.Upgrade(rw, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer ws.Close()
			kind := websocket.TextMessage
			if binary {
				kind = websocket.BinaryMessage
			}
			// The answer to a ping shows that what was sent before has been read.
			ws.SetPongHandler(func(string) error { readOnce(); return nil })
			_ = ws.WriteMessage(kind, data)
			_ = ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Minute))
			for err == nil {
				_, _, err = ws.ReadMessage()
			}
			readOnce()
		})
		w.open(t, "SSH")
		<-read
	})
}

func FuzzNotification(f *testing.F) {
	f.Add([]byte(`{"clientAccessToken": "t", "clientMode": "destination", "region": "eu-west-1", "services": ["SSH"]}`))
	f.Add([]byte(`{"services": null}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		s := tunnel.New(tunnel.Config{})
		s.SetServices(map[string]string{"SSH": "127.0.0.1:22"})
		s.Deliver(session.Message{Topic: awsiot.TunnelNotify("thing"), Payload: payload})
	})
}

// The source of the tests is no part of what is tested.
var insecure = &tls.Config{InsecureSkipVerify: true}
