package tunnel

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httputil"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"example.com/fleety/device/awsiot"
)

const (
	maxHandshake = 4 << 10          // bytes of the request
	writeTimeout = 10 * time.Minute // of a side that reads nothing
)

// disconnect ends the connections.
func (t *tunnel) disconnect() {
	for _, one := range t.sides {
		if one.peer != nil {
			one.peer.ws.Close()
		}
	}
}

// A stream is the latest stream of a service.
type stream struct {
	id     int32
	active bool
}

// A peer is one side's connection.
type peer struct {
	mode    string
	version int // of the protocol
	ws      *websocket.Conn
	writing sync.Mutex
	resets  sync.WaitGroup // of the other side's streams: they precede what this side sends
}

// write sends messages, or closes the connection, which its reader notices.
func (p *peer) write(data []byte) {
	p.writing.Lock()
	defer p.writing.Unlock()
	_ = p.ws.SetWriteDeadline(time.Now().Add(writeTimeout)) // it cannot fail
	if p.ws.WriteMessage(websocket.BinaryMessage, data) != nil {
		p.ws.Close()
	}
}

// The protocols, the newest first: the newest that the client offers is used.
var versions = []string{awsiot.TunnelV3, awsiot.TunnelV2, awsiot.TunnelV1}

// The access token is what counts: browsers connect from any site.
var upgrader = websocket.Upgrader{Subprotocols: versions, CheckOrigin: func(*http.Request) bool { return true }}

// ServeHTTP serves one client of the data plane, until it or the tunnel goes.
//
// https://github.com/aws-samples/aws-iot-securetunneling-localproxy/blob/main/docs/V3WebSocketProtocolGuide.md
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	channel := rand.Text()
	w.Header().Set("channel-id", channel)
	mode := r.URL.Query().Get("local-proxy-mode")
	t, status, reason := s.authenticate(r, mode)
	if t == nil {
		s.config.Log.Warn("rejected a client of a tunnel", "mode", awsiot.Printable(mode), "channel", channel, "reason", reason)
		http.Error(w, string(awsiot.EncodeJSON(map[string]string{"message": reason})), status)
		return
	}
	defer s.handlers.Done()
	ws, err := upgrader.Upgrade(w, r, http.Header{"channel-id": {channel}})
	if err != nil {
		return // it has answered
	}
	defer ws.Close()
	ws.SetReadLimit(awsiot.MaxTunnelWebSocket)
	p := &peer{mode: mode, version: 3 - slices.Index(versions, ws.Subprotocol()), ws: ws}
	if !s.attach(t, p) {
		return
	}
	s.config.Log.Info("connected to a tunnel", "tunnel", t.ID, "mode", mode, "protocol", ws.Subprotocol(), "channel", channel)
	err = s.forward(r, t, p)
	s.mu.Lock()
	if one := t.sides[mode]; one.peer == p {
		one.peer, *one.state = nil, ConnectionState{Disconnected, s.now()}
	}
	s.mu.Unlock()
	s.config.Log.Info("disconnected from a tunnel", "tunnel", t.ID, "mode", mode, "channel", channel, "reason", err)
	p.resets.Wait()
}

var clientToken = regexp.MustCompile(`^[a-zA-Z0-9-]{32,128}$`)

// authenticate returns the tunnel that the access token of a handshake is for, and uses the token;
// or no tunnel, the HTTP status and the reason. With a tunnel, the caller calls handlers.Done.
func (s *Service) authenticate(r *http.Request, mode string) (t *tunnel, status int, reason string) {
	secrets := r.Header.Values("access-token")
	for _, cookie := range r.CookiesNamed("awsiot-tunnel-token") {
		secrets = append(secrets, cookie.Value)
	}
	clients := append(r.Header.Values("client-token"), "")
	dump, err := httputil.DumpRequest(r, false)
	switch {
	case err != nil || len(dump) > maxHandshake:
		reason = fmt.Sprintf("the request has more than %d bytes", maxHandshake)
	case !websocket.IsWebSocketUpgrade(r):
		reason = "the request is no WebSocket handshake"
	case opposite[mode] == "":
		reason = "local-proxy-mode must be source or destination"
	case len(secrets) != 1:
		reason = "the request must have one access token, in the header access-token or in the cookie awsiot-tunnel-token"
	case len(clients) > 2 || len(clients) == 2 && !clientToken.MatchString(clients[0]):
		reason = "client-token must be one value of 32 to 128 letters, digits and hyphens"
	case !slices.ContainsFunc(websocket.Subprotocols(r), func(p string) bool { return slices.Contains(versions, p) }):
		reason = "Sec-WebSocket-Protocol has no protocol of secure tunneling"
	}
	if reason != "" {
		return nil, http.StatusBadRequest, reason
	}
	secret, client := awsiot.Secret(secrets[0]), clients[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	i := slices.IndexFunc(s.tunnels, func(t *tunnel) bool {
		return t.sides[source].token == secret || t.sides[destination].token == secret
	})
	if i < 0 || s.closed {
		return nil, http.StatusForbidden, "Invalid access token"
	}
	t = s.tunnels[i]
	own := t.sides[mode]
	switch {
	case t.Status != Open:
		reason = "the tunnel is closed"
	case own.token != secret:
		reason = "the access token is of the other local-proxy-mode"
	case own.used && (own.client == "" || own.client != client):
		reason = "the access token was used already, with another client token or without one"
	case !own.used && client != "" && slices.ContainsFunc(s.tunnels, func(t *tunnel) bool {
		return t.Status == Open && (t.sides[source].client == client || t.sides[destination].client == client)
	}):
		reason = "the client token is in use with another access token"
	}
	if reason != "" {
		return nil, http.StatusForbidden, reason
	}
	own.client, own.used = client, true
	s.handlers.Add(1)
	return t, http.StatusSwitchingProtocols, ""
}

// attach makes p a side of the tunnel, in the place of another; the other side's streams are reset.
// What the other side sends from then on waits for the service ids, which are p's first message.
func (s *Service) attach(t *tunnel, p *peer) bool {
	p.writing.Lock()
	defer p.writing.Unlock()
	s.mu.Lock()
	if t.Status != Open || s.closed {
		s.mu.Unlock()
		return false
	}
	own, other := t.sides[p.mode], t.sides[opposite[p.mode]].peer
	if own.peer != nil {
		own.peer.ws.Close()
	}
	own.peer, *own.state = p, ConnectionState{Connected, s.now()}
	hello := awsiot.TunnelMessage{Type: awsiot.TunnelServiceIDs}
	if t.DestinationConfig != nil {
		hello.ServiceIDs = t.DestinationConfig.Services
	}
	var resets []byte
	for _, service := range slices.Sorted(maps.Keys(t.streams)) {
		if one := t.streams[service]; one.active {
			one.active = false
			resets = awsiot.AppendTunnelMessage(resets, awsiot.TunnelMessage{Type: awsiot.TunnelStreamReset, StreamID: one.id, ServiceID: service})
		}
	}
	s.mu.Unlock()
	if p.version > 1 {
		_ = p.ws.WriteMessage(websocket.BinaryMessage, awsiot.AppendTunnelMessage(nil, hello)) // a connection that is gone has nothing to read
	}
	if other != nil && len(resets) > 0 {
		p.resets.Go(func() { other.write(resets) }) // the other side may read nothing
	}
	return true
}

// forward hands the messages of a side to the other one, as they are, until its connection ends. A
// message that AWS IoT does not accept ends it. Messages to a side that is not connected are lost.
func (s *Service) forward(r *http.Request, t *tunnel, p *peer) error {
	reject := func(code int, err error) error {
		_ = p.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, err.Error()), time.Now().Add(time.Second)) // it may be gone
		return err
	}
	var buffer []byte
	for {
		kind, data, err := p.ws.ReadMessage()
		switch {
		case err != nil:
			return err
		case kind != websocket.BinaryMessage:
			return reject(websocket.CloseUnsupportedData, errors.New("a WebSocket message is not binary"))
		}
		if err := t.limit.WaitN(r.Context(), len(data)); err != nil {
			return err
		}
		buffer = append(slices.Clone(buffer), data...)
		for complete := true; complete; {
			var m awsiot.TunnelMessage
			var rest []byte
			var to *peer
			if m, rest, complete, err = awsiot.CutTunnelMessage(buffer); complete {
				s.mu.Lock()
				err, to = t.accept(p, m), t.sides[opposite[p.mode]].peer
				s.mu.Unlock()
			}
			if err != nil {
				return reject(websocket.CloseProtocolError, err)
			}
			if to != nil {
				p.resets.Wait()
				to.write(buffer[:len(buffer)-len(rest)])
			}
			buffer = rest
		}
	}
}

// accept returns an error for a message that is not valid from p, and follows the streams.
func (t *tunnel) accept(p *peer, m awsiot.TunnelMessage) error {
	version, start := 1, m.Type == awsiot.TunnelStreamStart || m.Type == awsiot.TunnelConnectionStart
	switch {
	case m.Type == awsiot.TunnelConnectionStart || m.Type == awsiot.TunnelConnectionReset || m.ConnectionID != 0:
		version = 3
	case m.ServiceID != "":
		version = 2
	}
	one := t.streams[m.ServiceID]
	switch {
	case t.sides[p.mode].peer != p:
		return errors.New("another client has taken the place of this one")
	case m.Extended || len(m.ServiceIDs) > 0:
		return errors.New("a message has a field that it may not have")
	case m.Type < awsiot.TunnelData || m.Type > awsiot.TunnelConnectionReset:
		return fmt.Errorf("message type %d is unknown", m.Type)
	case m.Type == awsiot.TunnelSessionReset || m.Type == awsiot.TunnelServiceIDs:
		return errors.New("only the service sends such a message")
	case version > p.version:
		return fmt.Errorf("the message is of version %d, the connection of version %d", version, p.version)
	case start && p.mode == destination:
		return errors.New("only the source starts streams and connections")
	case m.StreamID == 0:
		return errors.New("a message has stream id 0")
	case m.ServiceID != "" && (t.DestinationConfig == nil || !slices.Contains(t.DestinationConfig.Services, m.ServiceID)):
		return fmt.Errorf("service %q is not one of the tunnel's", awsiot.Printable(m.ServiceID))
	case m.Type == awsiot.TunnelStreamStart:
		for service, old := range t.streams { // streams with a service end those without, and the other way round
			if (service == "") != (m.ServiceID == "") {
				old.active = false
			}
		}
		t.streams[m.ServiceID] = &stream{m.StreamID, true}
	case one == nil:
		return errors.New("a message is of a service that no stream was started for")
	case m.ServiceID != "" && t.streams[""] != nil && t.streams[""].active:
		return errors.New("the stream was started without a service id")
	case m.Type == awsiot.TunnelStreamReset && one.id == m.StreamID:
		one.active = false
	}
	return nil
}
