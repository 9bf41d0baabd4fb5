package tunnel_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/tunnel"
)

// An account is a service with its data plane, and what it published.
type account struct {
	*tunnel.Service
	url string

	mu        sync.Mutex
	now       time.Time
	published []string
	deleted   []string
}

func newAccount(t *testing.T) *account {
	a := &account{now: time.Unix(1_800_000_000, 0)}
	a.Service = tunnel.New(tunnel.Config{
		ARN:    func(resource string) string { return "arn:aws:iot:eu-west-1:123456789012:" + resource },
		Region: "eu-west-1",
		Publish: func(topic string, payload []byte) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.published = append(a.published, topic+" "+string(payload))
		},
		Deleted: func(id string) { a.deleted = append(a.deleted, id) },
		Now: func() time.Time {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.now
		},
		Log: slog.New(slog.DiscardHandler),
	})
	server := httptest.NewServer(a.Service)
	t.Cleanup(func() { a.Close(); server.Close() })
	a.url = "ws" + strings.TrimPrefix(server.URL, "http")
	return a
}

func (a *account) pass(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = a.now.Add(d)
}

func (a *account) open(t *testing.T, services ...string) (string, tunnel.Tokens) {
	t.Helper()
	var in tunnel.NewTunnel
	if len(services) > 0 {
		in.DestinationConfig = &tunnel.DestinationConfig{ThingName: "thing", Services: services}
	}
	opened, tokens, err := a.OpenTunnel(in)
	if err != nil {
		t.Fatal(err)
	}
	return opened.ID, tokens
}

// A client is one side.
type client struct {
	*websocket.Conn
	t      *testing.T
	buffer []byte
}

func (a *account) dial(mode string, protocols []string, headers ...string) (*websocket.Conn, *http.Response, error) {
	header := http.Header{}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		header.Add(name, value)
	}
	dialer := websocket.Dialer{Subprotocols: protocols}
	return dialer.Dial(a.url+"/tunnel?local-proxy-mode="+mode, header)
}

func (a *account) connect(t *testing.T, mode, protocol string, token awsiot.Secret, headers ...string) *client {
	t.Helper()
	ws, r, err := a.dial(mode, []string{protocol}, append(headers, "access-token: "+string(token))...)
	if err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	t.Cleanup(func() { ws.Close() })
	if ws.Subprotocol() != protocol || r.Header.Get("channel-id") == "" {
		t.Errorf("response headers: %v", r.Header)
	}
	c := &client{Conn: ws, t: t}
	if protocol != awsiot.TunnelV1 {
		if m := c.receive(); m.Type != awsiot.TunnelServiceIDs {
			t.Fatalf("the first message is %+v", m)
		}
	}
	return c
}

func (c *client) send(messages ...awsiot.TunnelMessage) {
	c.t.Helper()
	var data []byte
	for _, m := range messages {
		data = awsiot.AppendTunnelMessage(data, m)
	}
	if err := c.WriteMessage(websocket.BinaryMessage, data); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) receive() awsiot.TunnelMessage {
	c.t.Helper()
	for {
		m, rest, complete, err := awsiot.CutTunnelMessage(c.buffer)
		if err != nil {
			c.t.Fatal(err)
		}
		if complete {
			c.buffer = rest
			return m
		}
		_, data, err := c.ReadMessage()
		if err != nil {
			c.t.Fatal(err)
		}
		c.buffer = append(slices.Clone(c.buffer), data...)
	}
}

// ended returns how the service closed the connection.
func (c *client) ended() int {
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			if e, ok := errors.AsType[*websocket.CloseError](err); ok {
				return e.Code
			}
			return websocket.CloseAbnormalClosure
		}
	}
}

// await waits until source and destination have these connection states.
func (a *account) await(t *testing.T, id, source, destination string) {
	t.Helper()
	for {
		got, err := a.DescribeTunnel(id)
		if err != nil {
			t.Fatal(err)
		}
		if got.SourceConnectionState.Status == source && got.DestinationConnectionState.Status == destination {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%+v", got)
		case <-time.After(time.Millisecond):
		}
	}
}

func start(stream int32, service string) awsiot.TunnelMessage {
	return awsiot.TunnelMessage{Type: awsiot.TunnelStreamStart, StreamID: stream, ServiceID: service}
}

func data(stream int32, service, payload string) awsiot.TunnelMessage {
	return awsiot.TunnelMessage{Type: awsiot.TunnelData, StreamID: stream, ServiceID: service, Payload: []byte(payload)}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/agent-snippet.html: The thing is notified of its token, the Region and the services when a tunnel is opened and when its token is rotated.
func TestThingIsNotified(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	id, opened := a.open(t, "SSH", "web")
	_, rotated, err := a.RotateTunnelAccessToken(id, "ALL", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, none, err := a.RotateTunnelAccessToken(id, "SOURCE", nil); err != nil || none.Destination != "" || none.Source == "" {
		t.Errorf("SOURCE: %v", err)
	}
	a.open(t)
	var want []string
	for _, token := range []awsiot.Secret{opened.Destination, rotated.Destination} {
		want = append(want, `$aws/things/thing/tunnels/notify {"clientAccessToken":"`+string(token)+`","clientMode":"destination","region":"eu-west-1","services":["SSH","web"]}`)
	}
	if diff := cmp.Diff(want, a.published); diff != "" {
		t.Error(diff)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/tunnel-lifecycle.html: A tunnel is OPEN until it is closed or its time is over, 12 hours by default, and cannot be opened again.
func TestTunnelClosesWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	id, tokens := a.open(t, "SSH")
	one := 1
	short, _, err := a.OpenTunnel(tunnel.NewTunnel{TimeoutConfig: tunnel.TimeoutConfig{Minutes: &one}})
	if err != nil {
		t.Fatal(err)
	}
	c := a.connect(t, "source", awsiot.TunnelV3, tokens.Source)
	status := func(id, want string) {
		t.Helper()
		if got, err := a.DescribeTunnel(id); err != nil || got.Status != want {
			t.Errorf("%+v, %v, want %s", got, err, want)
		}
	}
	a.pass(time.Minute - time.Second)
	status(short.ID, tunnel.Open)
	a.pass(time.Second)
	status(short.ID, tunnel.Closed)
	a.pass(12*time.Hour - time.Minute - time.Second)
	status(id, tunnel.Open)
	if _, _, err := a.RotateTunnelAccessToken(id, "SOURCE", nil); err != nil {
		t.Fatal("rotating the token:", err) // it does not extend the time
	}
	a.pass(time.Second)
	a.Sweep()
	c.ended()
	status(id, tunnel.Closed)
	if _, _, err := a.RotateTunnelAccessToken(id, "ALL", nil); err == nil {
		t.Error("a closed tunnel gets new tokens")
	}
	if _, r, err := a.dial("destination", []string{awsiot.TunnelV3}, "access-token: "+string(tokens.Destination)); err == nil || r.StatusCode != 403 {
		t.Errorf("a closed tunnel can be connected to: %v", err)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/tunnel-lifecycle.html: A closed tunnel can be described for three hours, unless it is deleted when it is closed.
func TestClosedTunnelIsDeletedAfterHours(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	first, _ := a.open(t)
	second, _ := a.open(t)
	for id, remove := range map[string]bool{first: false, second: true} {
		if err := a.CloseTunnel(id, remove); err != nil {
			t.Fatal(err)
		}
	}
	var e *tunnel.Error
	if _, err := a.DescribeTunnel(second); !errors.As(err, &e) || e.Code != tunnel.CodeNotFound {
		t.Errorf("a deleted tunnel: %v", err)
	}
	a.pass(3*time.Hour - time.Second)
	if err := a.CloseTunnel(first, false); err != nil {
		t.Errorf("closing it again: %v", err)
	}
	a.pass(time.Second)
	if left := a.Tunnels(""); len(left) > 0 || !slices.Equal(a.deleted, []string{second, first}) {
		t.Errorf("left: %v, deleted: %v", left, a.deleted)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/tunnel-lifecycle.html: The connection state of a side is CONNECTED while it is connected, again and again.
func TestConnectionStateFollowsTheConnection(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	id, tokens := a.open(t, "SSH")
	a.await(t, id, tunnel.Disconnected, tunnel.Disconnected)
	for range 2 {
		_, rotated, _ := a.RotateTunnelAccessToken(id, "SOURCE", nil)
		c := a.connect(t, "source", awsiot.TunnelV1, rotated.Source)
		a.await(t, id, tunnel.Connected, tunnel.Disconnected)
		c.Close()
		a.await(t, id, tunnel.Disconnected, tunnel.Disconnected)
	}
	a.connect(t, "destination", awsiot.TunnelV2, tokens.Destination)
	a.await(t, id, tunnel.Disconnected, tunnel.Connected)
	if err := a.CloseTunnel(id, false); err != nil {
		t.Fatal(err)
	}
	a.await(t, id, tunnel.Disconnected, tunnel.Disconnected)
}

// A client that has its service ids gets from then on what the other side sends.
func TestClientThatHasItsServiceIDsIsConnected(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	id, _ := a.open(t, "SSH")
	for range 200 {
		_, rotated, _ := a.RotateTunnelAccessToken(id, "DESTINATION", nil)
		c := a.connect(t, "destination", awsiot.TunnelV2, rotated.Destination)
		if got, err := a.DescribeTunnel(id); err != nil || got.DestinationConnectionState.Status != tunnel.Connected {
			t.Fatalf("%+v, %v", got, err)
		}
		c.Close()
	}
}

// Each case is of https://docs.aws.amazon.com/iot/latest/apireference/API_iot-secure-tunneling_RotateTunnelAccessToken.html.
func TestRotationParameters(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	id, _ := a.open(t, "SSH")
	other := &tunnel.DestinationConfig{ThingName: "other", Services: []string{"VNC"}}
	for name, test := range map[string]struct {
		id, mode string
		d        *tunnel.DestinationConfig
		code     string
	}{
		"A destinationConfig cannot be used with client mode SOURCE":     {id, "SOURCE", other, tunnel.CodeValidation},
		"The token of a tunnel that does not exist cannot be rotated":    {"none", "ALL", nil, tunnel.CodeNotFound},
		"A destinationConfig of the rotation takes the place of the old": {id, "DESTINATION", other, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := a.RotateTunnelAccessToken(test.id, test.mode, test.d)
			if e, _ := errors.AsType[*tunnel.Error](err); (err == nil) != (test.code == "") || e != nil && e.Code != test.code {
				t.Errorf("%v, want %q", err, test.code)
			}
		})
	}
	if got, _ := a.DescribeTunnel(id); got.DestinationConfig.ThingName != "other" || len(a.Tunnels("other")) != 1 || len(a.Tunnels("thing")) != 0 {
		t.Errorf("%+v", got)
	}
}
