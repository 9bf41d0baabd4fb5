package broker

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
)

const subprotocol = "mqtt" // [MQTT-6.0.0-4]

// ServeWebSocket serves MQTT over WebSocket to a client whose request the caller has authorized,
// and returns when the connection has ended or cannot be made.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html
func (b *Broker) ServeWebSocket(w http.ResponseWriter, r *http.Request, p Principal) {
	if websocket.IsWebSocketUpgrade(r) && !slices.Contains(websocket.Subprotocols(r), subprotocol) { // [MQTT-6.0.0-3]
		http.Error(w, "the WebSocket subprotocol must be "+subprotocol, http.StatusBadRequest)
		return
	}
	upgrader := websocket.Upgrader{Subprotocols: []string{subprotocol}, CheckOrigin: func(*http.Request) bool { return true }}
	socket, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // answered
	}
	stream := &wire{Conn: &webSocket{Conn: socket.NetConn(), socket: socket}}
	raw, c := socket.NetConn(), b.newConn(stream, stream, p)
	if b.begin(raw, func() {
		defer b.release(raw)
		defer time.AfterFunc(webSocketLife, func() { c.end(reasonWebSocketTTL, packets.ErrMaxConnectTime) }).Stop()
		b.establish(c)
		b.serve(r.Context(), c)
	}) {
		<-c.ended
	}
}

// A webSocket is a WebSocket connection as a stream of bytes: packets may span frames, and frames
// hold several [MQTT-6.0.0-2].
type webSocket struct {
	net.Conn      // below socket
	socket        *websocket.Conn
	frame         io.Reader                 // that is being read; nil between two
	writeDeadline atomic.Pointer[time.Time] // of the next write; the library's own is not safe for concurrent use
}

func (s *webSocket) Read(p []byte) (int, error) {
	for {
		if s.frame == nil {
			kind, frame, err := s.socket.NextReader()
			timeout, ok := errors.AsType[net.Error](err)
			switch {
			case ok && timeout.Timeout():
				return 0, os.ErrDeadlineExceeded
			case websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseNoStatusReceived):
				return 0, io.EOF
			case err != nil:
				return 0, err
			case kind != websocket.BinaryMessage:
				return 0, packets.ErrProtocolViolation // [MQTT-6.0.0-1]
			}
			s.frame = frame
		}
		n, err := s.frame.Read(p)
		if err == io.EOF {
			s.frame, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write sends one frame. The connection has one writer at a time.
func (s *webSocket) Write(p []byte) (int, error) {
	if t := s.writeDeadline.Load(); t != nil {
		_ = s.socket.SetWriteDeadline(*t) // cannot fail
	}
	if err := s.socket.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *webSocket) Close() error {
	_ = s.socket.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(closeTimeout))
	return s.socket.Close()
}

func (s *webSocket) SetWriteDeadline(t time.Time) error {
	s.writeDeadline.Store(&t)
	return s.Conn.SetWriteDeadline(t)
}
func (s *webSocket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}
