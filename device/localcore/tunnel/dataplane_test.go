package tunnel_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/tunnel"
)

// https://docs.aws.amazon.com/iot/latest/developerguide/secure-tunneling-concepts.html: An access token works once, or again with the client token that it was first used with, until it is rotated.
func TestAccessTokenWorksOnceWithoutClientToken(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	id, tokens := a.open(t, "SSH")
	_, others := a.open(t, "SSH")
	first, second := "client-token: "+strings.Repeat("a", 32), "client-token: "+strings.Repeat("b", 128)
	for i, test := range []struct {
		mode   string
		token  awsiot.Secret
		client string
		status int
	}{
		{"source", tokens.Source, "", 101},
		{"source", tokens.Source, "", 403},
		{"source", tokens.Source, first, 403},
		{"destination", tokens.Destination, first, 101},
		{"destination", tokens.Destination, first, 101},
		{"destination", tokens.Destination, second, 403},
		{"destination", tokens.Destination, "", 403},
		{"destination", others.Destination, first, 403}, // a client token is unique among the open tunnels
		{"destination", others.Destination, second, 101},
		{"source", others.Destination, second, 403},
		{"source", "AQGAunknown", "", 403},
	} {
		headers := []string{"access-token: " + string(test.token)}
		if test.client != "" {
			headers = append(headers, test.client)
		}
		ws, r, err := a.dial(test.mode, []string{awsiot.TunnelV3}, headers...)
		if err == nil {
			defer ws.Close()
		}
		if r == nil || r.StatusCode != test.status {
			t.Errorf("%d: %v, %v, want %d", i, r, err, test.status)
		}
	}
	if err := a.CloseTunnel(id, false); err != nil {
		t.Fatal(err)
	}
	_, third := a.open(t)
	a.connect(t, "source", awsiot.TunnelV1, third.Source, first) // its tunnel is closed
}

// A handshake that AWS's guide does not allow is answered with 400.
func TestMalformedHandshakesAreRejected(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	_, tokens := a.open(t, "SSH")
	own := "access-token: " + string(tokens.Source)
	cookie := "Cookie: awsiot-tunnel-token=" + string(tokens.Source)
	v3 := []string{awsiot.TunnelV3}
	for name, test := range map[string]struct {
		mode      string
		protocols []string
		headers   []string
	}{
		"no mode":                  {"", v3, []string{own}},
		"another mode":             {"both", v3, []string{own}},
		"no token":                 {"source", v3, nil},
		"two tokens":               {"source", v3, []string{own, own}},
		"header and cookie":        {"source", v3, []string{own, cookie}},
		"no protocol":              {"source", nil, []string{own}},
		"a protocol of others":     {"source", []string{"aws.iot.securetunneling-4.0", "mqtt"}, []string{own}},
		"a short client token":     {"source", v3, []string{own, "client-token: " + strings.Repeat("a", 31)}},
		"a client token with dots": {"source", v3, []string{own, "client-token: " + strings.Repeat("a.", 20)}},
		"two client tokens":        {"source", v3, []string{own, "client-token: " + strings.Repeat("a", 32), "client-token: " + strings.Repeat("a", 32)}},
		"more than 4 KB":           {"source", v3, []string{own, "x: " + strings.Repeat("x", 4096)}},
	} {
		if _, r, err := a.dial(test.mode, test.protocols, test.headers...); err == nil || r == nil || r.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	r, err := http.Get("http" + strings.TrimPrefix(a.url, "ws") + "/tunnel?local-proxy-mode=source")
	if err != nil || r.StatusCode != http.StatusBadRequest {
		t.Errorf("no WebSocket handshake: %v, %v", r, err)
	}
	// None of them used the token; a browser sends it as a cookie.
	ws, _, err := a.dial("source", []string{"mqtt", awsiot.TunnelV2, awsiot.TunnelV1}, cookie, "Origin: https://example.com")
	if err != nil || ws.Subprotocol() != awsiot.TunnelV2 {
		t.Fatalf("with a cookie: %v", err)
	}
	ws.Close()
}

// https://docs.aws.amazon.com/iot/latest/developerguide/multiplexing.html: Several services share a tunnel, and the messages of each arrive in order and unchanged.
func TestMessagesAreForwarded(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	_, tokens := a.open(t, "SSH", "web")
	destination := a.connect(t, "destination", awsiot.TunnelV3, tokens.Destination)
	source := a.connect(t, "source", awsiot.TunnelV3, tokens.Source)
	full := strings.Repeat("x", awsiot.MaxTunnelPayload)
	sent := []awsiot.TunnelMessage{
		start(1, "SSH"), start(7, "web"), data(1, "SSH", "a"), data(7, "web", full), data(1, "SSH", "b"),
		{Type: awsiot.TunnelConnectionStart, StreamID: 7, ServiceID: "web", ConnectionID: 2},
		{Type: awsiot.TunnelData, StreamID: 7, ServiceID: "web", ConnectionID: 2, Payload: []byte("c")},
		{Type: awsiot.TunnelConnectionReset, StreamID: 7, ServiceID: "web", ConnectionID: 2},
		{Type: awsiot.TunnelStreamReset, StreamID: 1, ServiceID: "SSH"},
	}
	var stream []byte
	for _, m := range sent {
		stream = awsiot.AppendTunnelMessage(stream, m)
	}
	for part := range slices.Chunk(stream, 7001) { // a WebSocket message may hold a part of a message
		if err := source.WriteMessage(websocket.BinaryMessage, part); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range sent {
		if got := destination.receive(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%.200v, want %.200v", got, want)
		}
	}
	destination.send(data(7, "web", full))
	if got := source.receive(); string(got.Payload) != full {
		t.Errorf("%.100v", got)
	}
	ponged := make(chan string, 1)
	source.SetPongHandler(func(text string) error { ponged <- text; return nil })
	if err := source.WriteControl(websocket.PingMessage, []byte("p"), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	source.send(data(7, "web", "after the ping"))
	destination.receive()
	destination.send(data(7, "web", "after the pong"))
	source.receive()
	if text := <-ponged; text != "p" {
		t.Errorf("pong %q", text)
	}
}

// A client that replaces another makes the service reset the streams at the other side.
func TestReplacedPeerResetsStreams(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	_, tokens := a.open(t, "SSH", "web")
	client := "client-token: " + strings.Repeat("c", 40)
	old := a.connect(t, "destination", awsiot.TunnelV2, tokens.Destination, client)
	source := a.connect(t, "source", awsiot.TunnelV2, tokens.Source)
	source.send(start(3, "web"), start(4, "SSH"), awsiot.TunnelMessage{Type: awsiot.TunnelStreamReset, StreamID: 4, ServiceID: "SSH"}, data(3, "web", "x"))
	for range 4 {
		old.receive()
	}
	replacement := a.connect(t, "destination", awsiot.TunnelV2, tokens.Destination, client)
	old.ended()
	if m := source.receive(); m.Type != awsiot.TunnelStreamReset || m.StreamID != 3 || m.ServiceID != "web" {
		t.Errorf("%+v", m)
	}
	source.send(start(5, "web"))
	if m := replacement.receive(); m.StreamID != 5 {
		t.Errorf("%+v", m)
	}
}

// The resets wait until the other side reads; what it sends arrives meanwhile.
func TestReplacedPeerIsServedWhileTheOtherReadsNothing(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	_, tokens := a.open(t, "web")
	client := "client-token: " + strings.Repeat("c", 40)
	old := a.connect(t, "destination", awsiot.TunnelV2, tokens.Destination, client)
	source := a.connect(t, "source", awsiot.TunnelV2, tokens.Source)
	source.send(start(3, "web"))
	old.receive()
	full := awsiot.AppendTunnelMessage(nil, data(3, "web", strings.Repeat("x", awsiot.MaxTunnelPayload)))
	sent := 0
	for ; ; sent++ {
		_ = old.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if old.WriteMessage(websocket.BinaryMessage, full) != nil {
			break
		}
	}
	replacement := a.connect(t, "destination", awsiot.TunnelV2, tokens.Destination, client)
	source.send(start(5, "web"))
	if m := replacement.receive(); m.StreamID != 5 {
		t.Errorf("%+v", m)
	}
	replacement.send(data(5, "web", "y"))
	m := source.receive()
	for ; m.Type == awsiot.TunnelData && m.StreamID == 3; m = source.receive() {
		sent--
	}
	if m.Type != awsiot.TunnelStreamReset || m.StreamID != 3 || sent < 0 {
		t.Errorf("%+v", m)
	}
	if m := source.receive(); string(m.Payload) != "y" {
		t.Errorf("%+v", m)
	}
}

// Version 1 has one service, which its messages do not name.
func TestVersion1IsForwarded(t *testing.T) {
	t.Parallel()
	a := newAccount(t)
	id, tokens := a.open(t)
	destination := a.connect(t, "destination", awsiot.TunnelV1, tokens.Destination)
	source := a.connect(t, "source", awsiot.TunnelV1, tokens.Source)
	a.await(t, id, tunnel.Connected, tunnel.Connected) // its clients are sent no service ids
	source.send(start(-5, ""), data(-5, "", "x"))
	destination.receive()
	if m := destination.receive(); string(m.Payload) != "x" || m.StreamID != -5 {
		t.Errorf("%+v", m)
	}
}

// A message that AWS's guide does not allow ends the connection.
func TestForbiddenMessagesEndTheConnection(t *testing.T) {
	t.Parallel()
	type m = awsiot.TunnelMessage
	for name, test := range map[string]struct {
		mode, protocol string
		messages       []m
	}{
		"StreamStart of the destination":           {"destination", awsiot.TunnelV2, []m{start(1, "SSH")}},
		"ConnectionStart of the destination":       {"destination", awsiot.TunnelV3, []m{{Type: awsiot.TunnelConnectionStart, StreamID: 1, ServiceID: "SSH", ConnectionID: 1}}},
		"SessionReset":                             {"source", awsiot.TunnelV1, []m{{Type: awsiot.TunnelSessionReset}}},
		"ServiceIDs":                               {"source", awsiot.TunnelV3, []m{{Type: awsiot.TunnelServiceIDs, ServiceIDs: []string{"SSH"}}}},
		"stream id 0":                              {"source", awsiot.TunnelV2, []m{start(0, "SSH")}},
		"type 0":                                   {"source", awsiot.TunnelV2, []m{{StreamID: 1}}},
		"unknown type":                             {"source", awsiot.TunnelV3, []m{{Type: 8, StreamID: 1, Ignorable: true}}},
		"service that is not the tunnel's":         {"source", awsiot.TunnelV2, []m{start(1, "VNC")}},
		"data before the stream":                   {"source", awsiot.TunnelV2, []m{data(1, "SSH", "x")}},
		"data of the destination before a stream":  {"destination", awsiot.TunnelV2, []m{data(1, "SSH", "x")}},
		"service in a stream that has none":        {"source", awsiot.TunnelV2, []m{start(1, ""), data(1, "SSH", "x")}},
		"no service in a stream that has one":      {"source", awsiot.TunnelV2, []m{start(1, "SSH"), data(1, "", "x")}},
		"service in a stream that has none, later": {"source", awsiot.TunnelV2, []m{start(1, "SSH"), start(2, ""), data(2, "SSH", "x")}},
		"service in version 1":                     {"source", awsiot.TunnelV1, []m{start(1, "SSH")}},
		"connection in version 2":                  {"source", awsiot.TunnelV2, []m{{Type: awsiot.TunnelStreamStart, StreamID: 1, ServiceID: "SSH", ConnectionID: 1}}},
		"ConnectionReset in version 2":             {"source", awsiot.TunnelV2, []m{start(1, "SSH"), {Type: awsiot.TunnelConnectionReset, StreamID: 1, ServiceID: "SSH"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t)
			_, tokens := a.open(t, "SSH", "web")
			token := tokens.Source
			if test.mode == "destination" {
				token = tokens.Destination
			}
			c := a.connect(t, test.mode, test.protocol, token)
			c.send(test.messages...)
			if code := c.ended(); code != websocket.CloseProtocolError {
				t.Errorf("close code %d", code)
			}
		})
	}
	for name, test := range map[string]struct {
		kind, code int
		data       []byte
	}{
		"text":              {websocket.TextMessage, websocket.CloseUnsupportedData, []byte("x")},
		"131,077 bytes":     {websocket.BinaryMessage, websocket.CloseMessageTooBig, make([]byte, awsiot.MaxTunnelWebSocket+1)},
		"payload over 63kb": {websocket.BinaryMessage, websocket.CloseProtocolError, awsiot.AppendTunnelMessage(nil, data(1, "", strings.Repeat("x", awsiot.MaxTunnelPayload+1)))},
		"another field":     {websocket.BinaryMessage, websocket.CloseProtocolError, []byte{0, 6, 8, 2, 16, 1, 0x40, 1}},
		"no message":        {websocket.BinaryMessage, websocket.CloseProtocolError, []byte{0, 1, 0xff}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t)
			_, tokens := a.open(t)
			c := a.connect(t, "source", awsiot.TunnelV1, tokens.Source)
			_ = c.WriteMessage(test.kind, test.data) // the service may close before its end
			if code := c.ended(); code != test.code {
				t.Errorf("close code %d, want %d", code, test.code)
			}
		})
	}
}

// Arbitrary bytes end the connection or are forwarded, and the tunnel can be used again.
func FuzzDataPlane(f *testing.F) {
	f.Add([]byte{0, 4, 8, 2, 16, 1})
	f.Add(awsiot.AppendTunnelMessage(awsiot.AppendTunnelMessage(nil, start(1, "SSH")), data(1, "SSH", "x")))
	f.Fuzz(func(t *testing.T, stream []byte) {
		a := newAccount(t)
		id, tokens := a.open(t, "SSH")
		c := a.connect(t, "source", awsiot.TunnelV3, tokens.Source)
		_ = c.WriteMessage(websocket.BinaryMessage, stream)
		if err := a.CloseTunnel(id, true); err != nil {
			t.Fatal(err)
		}
		c.ended()
	})
}
