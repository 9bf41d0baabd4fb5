package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/event"
)

// An operator of tunnels: it opens them, and connects to their source side.
type tunneling struct {
	*cloud
	log    *watcher // of the cloud
	agent  *agentProcess
	link   *link    // between the agent and the data plane
	tokens []string // of all tunnels

	configure func(services string) // writes the configuration of the agent
	echo      string                // the setting of SSH
}

// newTunneling starts an agent whose tunnels may reach an echo server as SSH, and
// one that sends its name first as web.
func newTunneling(t *testing.T) *tunneling {
	t.Helper()
	w := &tunneling{log: &watcher{}}
	w.cloud = startCloud(t, func(c *localcore.Config) {
		c.API, c.Log = "", slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	api := strings.TrimPrefix(w.APIURL(), "http://")
	w.link = newLink(t, api, 0)
	t.Cleanup(w.link.close)
	s := &site{binary: build(t, shipped), dir: t.TempDir(), cloud: w.cloud}
	w.agent = s.device(t, "device").agent(t)
	path := filepath.Join(w.agent.dir, "device.yaml")
	settings, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w.configure = func(services string) {
		t.Helper()
		text := fmt.Appendf(slices.Clip(settings), "agent: {tunnel: {endpoint: 'localhost:%d', services: {%s}}}\n", w.link.port(), services)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.echo = "SSH: " + echoPort(t, "")
	w.configure(w.echo + ", web: 127.0.0.1:" + echoPort(t, "hello"))
	w.start(t)
	t.Cleanup(func() {
		for name, log := range map[string]string{"agent": w.agent.stderr.String(), "emulator": w.log.String()} {
			for _, token := range w.tokens {
				if strings.Contains(log, token) {
					t.Errorf("the log of the %s has a token", name)
				}
			}
		}
	})
	return w
}

func (w *tunneling) start(t *testing.T) {
	t.Helper()
	w.agent.start(t, "--log-level", "debug")
	w.agent.await(t, sent)
	// A notification is not kept for a device that has not subscribed.
	if _, err := w.AwaitEvent(t.Context(), func(e localcore.Event) bool {
		return e.Type == event.Subscribed && e.Topic == awsiot.TunnelNotify(w.agent.thing())
	}); err != nil {
		t.Fatal(err)
	}
}

// echoPort starts a service that sends a greeting, and then all that it gets.
func echoPort(t *testing.T, greeting string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, greeting)
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// A tunnelAnswer is what the operations answer.
type tunnelAnswer struct {
	TunnelID               string
	SourceAccessToken      string
	DestinationAccessToken string
	Tunnel                 struct {
		Status                     string
		DestinationConnectionState struct{ Status string }
	}
}

func (w *tunneling) call(t *testing.T, operation string, in map[string]any) (out tunnelAnswer) {
	t.Helper()
	body, _ := json.Marshal(in)
	r, err := http.NewRequestWithContext(t.Context(), "POST", w.APIURL(), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Target", "IoTSecuredTunneling."+operation)
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err == nil && len(data) > 0 {
		err = json.Unmarshal(data, &out)
	}
	if err != nil || answer.StatusCode != 200 {
		t.Fatalf("%s: %d %s %v", operation, answer.StatusCode, data, err)
	}
	w.tokens = append(w.tokens, slices.DeleteFunc([]string{out.SourceAccessToken, out.DestinationAccessToken}, func(token string) bool { return token == "" })...)
	return out
}

func (w *tunneling) open(t *testing.T, services ...string) tunnelAnswer {
	t.Helper()
	return w.call(t, "OpenTunnel", map[string]any{"destinationConfig": map[string]any{"thingName": w.agent.thing(), "services": services}})
}

// awaitAgent waits until the agent is connected to the tunnel.
func (w *tunneling) awaitAgent(t *testing.T, id string) {
	t.Helper()
	timeout := time.After(2 * time.Minute)
	for w.call(t, "DescribeTunnel", map[string]any{"tunnelId": id}).Tunnel.DestinationConnectionState.Status != "CONNECTED" {
		select {
		case <-timeout:
			t.Fatalf("the agent does not connect to the tunnel:\n%s", w.agent.stderr)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// reach connects to a tunnel as source, and a service of it through it.
func (w *tunneling) reach(t *testing.T, token, service, greeting string) *websocket.Conn {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{awsiot.TunnelV3}, TLSClientConfig: &tls.Config{RootCAs: w.RootCAs()}}
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(w.APIURL(), "http://"))
	ws, r, err := dialer.DialContext(t.Context(), "wss://localhost:"+port+"/tunnel?local-proxy-mode=source", http.Header{"access-token": {token}})
	if err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	t.Cleanup(func() { ws.Close() })
	deadline := time.Now().Add(2 * time.Minute)
	_, _ = ws.SetReadDeadline(deadline), ws.SetWriteDeadline(deadline)
	text := greeting + strings.Repeat("0123456789", 20_000)
	m := awsiot.TunnelMessage{Type: awsiot.TunnelStreamStart, StreamID: 1, ServiceID: service, ConnectionID: 1}
	request := awsiot.AppendTunnelMessage(nil, m)
	m.Type = awsiot.TunnelData
	for part := range slices.Chunk([]byte(text[len(greeting):]), 50_000) {
		m.Payload = part
		request = awsiot.AppendTunnelMessage(request, m)
	}
	for part := range slices.Chunk(request, awsiot.MaxTunnelWebSocket) {
		if err := ws.WriteMessage(websocket.BinaryMessage, part); err != nil {
			t.Fatal(err)
		}
	}
	var stream []byte
	for got := ""; len(got) < len(text); {
		_, data, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("%v\n%s", err, w.agent.stderr)
		}
		stream = append(stream, data...)
		for {
			m, rest, complete, err := awsiot.CutTunnelMessage(stream)
			if err != nil || m.Type > awsiot.TunnelData && m.Type != awsiot.TunnelServiceIDs {
				t.Fatalf("received %+v, %v\n%s", m, err, w.agent.stderr)
			}
			if !complete {
				break
			}
			got, stream = got+string(m.Payload), rest
		}
		if !strings.HasPrefix(text, got) {
			t.Fatal("the echo differs")
		}
	}
	return ws
}

// Several tunnels are open at once, and others after them; each reaches the services
// that are configured, and only those.
func TestTunnelsReachConfiguredServices(t *testing.T) {
	t.Parallel()
	w := newTunneling(t)
	for range 2 {
		var opened []tunnelAnswer
		for range 3 {
			o := w.open(t, "SSH", "web")
			opened = append(opened, o)
		}
		for i, o := range opened {
			w.awaitAgent(t, o.TunnelID)
			w.reach(t, o.SourceAccessToken, []string{"SSH", "web"}[i%2], []string{"", "hello"}[i%2])
		}
		w.agent.awaitMetrics(t, "iot_device_tunnel_connections 3")
		for _, o := range opened {
			w.call(t, "CloseTunnel", map[string]any{"tunnelId": o.TunnelID})
		}
		w.agent.awaitMetrics(t, "iot_device_tunnels 0")
		w.agent.awaitMetrics(t, "iot_device_tunnel_connections 0")
	}
	w.open(t, "VNC")
	w.agent.awaitMetrics(t, `iot_device_tunnels_ignored_total{cause="service"} 1`)
	w.agent.awaitMetrics(t, "iot_device_tunnels 0")
	last := w.open(t, "SSH")
	w.awaitAgent(t, last.TunnelID)
	w.reach(t, last.SourceAccessToken, "SSH", "")
	if code := w.agent.stop(); code != 0 {
		t.Errorf("stopped, the agent exits with %d\n%s", code, w.agent.stderr)
	}
}

// After a cut of the network the agent connects to its tunnels again by itself, after
// kill -9 once the token is rotated.
func TestTunnelOutlivesNetworkAndAgent(t *testing.T) {
	t.Parallel()
	w := newTunneling(t)
	o := w.open(t, "SSH")
	rotate := func(mode string) tunnelAnswer {
		return w.call(t, "RotateTunnelAccessToken", map[string]any{"tunnelId": o.TunnelID, "clientMode": mode})
	}
	w.awaitAgent(t, o.TunnelID)
	w.reach(t, o.SourceAccessToken, "SSH", "")
	w.link.cut()
	w.agent.awaitMetrics(t, "iot_device_tunnel_connections 0")
	w.awaitAgent(t, o.TunnelID)
	w.reach(t, rotate("SOURCE").SourceAccessToken, "SSH", "")
	w.agent.kill()
	w.start(t)
	rotated := rotate("ALL")
	w.agent.awaitMetrics(t, "iot_device_tunnels 1")
	w.awaitAgent(t, o.TunnelID)
	w.reach(t, rotated.SourceAccessToken, "SSH", "")
	w.call(t, "CloseTunnel", map[string]any{"tunnelId": o.TunnelID, "delete": true})
	w.agent.awaitMetrics(t, "iot_device_tunnels 0")
}

// A change of the services ends the tunnels that lose theirs, and no other.
func TestTunnelOutlivesAChangeOfTheServices(t *testing.T) {
	t.Parallel()
	w := newTunneling(t)
	kept, ended := w.open(t, "SSH"), w.open(t, "web")
	w.awaitAgent(t, kept.TunnelID)
	w.awaitAgent(t, ended.TunnelID)
	source := w.reach(t, kept.SourceAccessToken, "SSH", "")
	w.configure(w.echo + ", other: 1")
	if err := w.agent.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.agent.awaitMetrics(t, "iot_device_tunnels 1")
	m := awsiot.TunnelMessage{Type: awsiot.TunnelData, StreamID: 1, ServiceID: "SSH", ConnectionID: 1, Payload: []byte("still here")}
	if err := source.WriteMessage(websocket.BinaryMessage, awsiot.AppendTunnelMessage(nil, m)); err != nil {
		t.Fatal(err)
	}
	_, data, err := source.ReadMessage()
	if answer, _, _, _ := awsiot.CutTunnelMessage(data); err != nil || !bytes.Equal(answer.Payload, m.Payload) {
		t.Errorf("received %+v, %v\n%s", answer, err, w.agent.stderr)
	}
}

// The AWS command line opens, describes, rotates and closes a tunnel to the agent.
func TestAWSCommandLineOpensATunnelToTheAgent(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("aws"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("the aws command line is not installed")
		}
		t.Skip("the aws command line is not installed")
	}
	w := newTunneling(t)
	run := func(arguments ...string) (out tunnelAnswer) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "aws", append([]string{"--output", "json", "iotsecuretunneling"}, arguments...)...)
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") }),
			"AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=", "AWS_ENDPOINT_URL="+w.APIURL())
		cmd.Stderr = t.Output()
		text, err := cmd.Output()
		if err == nil && len(text) > 0 {
			err = json.Unmarshal(text, &out)
		}
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, text)
		}
		return out
	}
	o := run("open-tunnel", "--destination-config", "thingName="+w.agent.thing()+",services=SSH")
	w.awaitAgent(t, o.TunnelID)
	w.reach(t, o.SourceAccessToken, "SSH", "")
	rotated := run("rotate-tunnel-access-token", "--tunnel-id", o.TunnelID, "--client-mode", "SOURCE")
	w.reach(t, rotated.SourceAccessToken, "SSH", "")
	run("close-tunnel", "--tunnel-id", o.TunnelID)
	w.agent.awaitMetrics(t, "iot_device_tunnels 0")
	if d := run("describe-tunnel", "--tunnel-id", o.TunnelID); d.Tunnel.Status != "CLOSED" || d.Tunnel.DestinationConnectionState.Status != "DISCONNECTED" {
		t.Errorf("%+v", d)
	}
	w.tokens = append(w.tokens, o.SourceAccessToken, o.DestinationAccessToken, rotated.SourceAccessToken)
}
