package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"example.com/fleety/device/awsiot"
)

const (
	readSize     = 32 << 10
	localTimeout = 10 * time.Second // to connect to a service, and for its end
	stallTimeout = 2 * time.Minute  // of a service that reads nothing: all streams wait for it. A line of 9600 baud is seen to read every 70 seconds
)

// A tunnel is one connection to a tunnel.
type tunnel struct {
	service  *Service
	services []string // that it may reach
	log      *slog.Logger
	ws       *websocket.Conn
	writing  sync.Mutex
	running  *sync.WaitGroup    // of connections
	streams  map[string]*stream // by service id, as in the messages: empty in version 1

	mu sync.Mutex // of the connections of streams
}

// A link is the network connection of a tunnel, under TLS.
type link struct {
	net.Conn
	patience time.Duration // with silence; 0 is endless. It belongs to who reads
}

// Read fails when nothing came for too long. It waits on while the network is there and takes no
// more: the pong waits behind what was sent before where the source reads nothing, which closes the
// window of TCP, and on a slow link.
func (l *link) Read(p []byte) (int, error) {
	for {
		if l.patience > 0 {
			_ = l.SetReadDeadline(time.Now().Add(l.patience)) // it cannot fail
		}
		n, err := l.Conn.Read(p)
		if n > 0 || l.patience == 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !backlogged(l.Conn) {
			return n, err
		}
	}
}

// A stream is the active stream of a service.
type stream struct {
	id          int32
	plain       bool                   // the source uses no connection ids
	connections map[uint32]*connection // by id, 0 in a plain stream; nil once the stream has ended
}

// A connection is one to a service of the device.
type connection struct {
	*io.PipeWriter             // closed when the source has ended it; the other end, when the service has
	ended          atomic.Bool // by the source
}

// use receives messages until the WebSocket connection or life ends, and ends the streams then.
// Connections to services outlive it by what they still have to write.
func (t *tunnel) use(ctx, life context.Context) error {
	pinging, cancel := context.WithCancel(life)
	defer cancel()
	defer context.AfterFunc(life, func() { t.ws.Close() })()
	defer t.ws.Close()
	defer t.endStreams("")
	t.running.Go(func() {
		for tick := time.Tick(t.service.config.PingInterval); ; {
			// A deadline would end the connection where the source reads nothing for as long.
			_ = t.ws.WriteControl(websocket.PingMessage, nil, time.Time{}) // the reader notices
			select {
			case <-tick:
			case <-pinging.Done():
				return
			}
		}
	})
	var buffer []byte // not more than a message in the tunnel and a chunk, however long the frames are
	chunk := make([]byte, readSize)
	for {
		kind, reader, err := t.ws.NextReader()
		if err == nil && kind != websocket.BinaryMessage {
			err = errors.New("AWS IoT sent text, which is not part of the protocol")
		}
		for n := 0; err == nil; {
			n, err = reader.Read(chunk)
			buffer = append(buffer, chunk[:n]...)
			for complete := n > 0; complete; {
				var m awsiot.TunnelMessage
				var rejected error
				if m, buffer, complete, rejected = awsiot.CutTunnelMessage(buffer); complete {
					rejected = t.receive(ctx, m)
				}
				if rejected != nil {
					return rejected
				}
			}
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
	}
}

// send sends a message of the stream or connection that of is of. After an error the reader ends.
func (t *tunnel) send(of awsiot.TunnelMessage, kind awsiot.TunnelMessageType, payload []byte) {
	m := awsiot.TunnelMessage{Type: kind, StreamID: of.StreamID, ServiceID: of.ServiceID, ConnectionID: of.ConnectionID, Payload: payload}
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.ws.WriteMessage(websocket.BinaryMessage, awsiot.AppendTunnelMessage(nil, m)) != nil {
		t.ws.Close()
	}
}

// receive handles a message, unless its stream or connection is no longer active.
func (t *tunnel) receive(ctx context.Context, m awsiot.TunnelMessage) error {
	s := t.streams[m.ServiceID]
	unknown := m.Type < awsiot.TunnelData || m.Type > awsiot.TunnelConnectionReset
	switch {
	case m.Type == awsiot.TunnelStreamStart:
		t.endStreams(m.ServiceID)
		s = &stream{id: m.StreamID, plain: m.ConnectionID == 0, connections: map[uint32]*connection{}}
		t.streams[m.ServiceID] = s
		t.connect(ctx, s, m)
		return nil
	case m.Type == awsiot.TunnelSessionReset:
		t.endStreams("")
		return nil
	case unknown && !m.Ignorable:
		return fmt.Errorf("AWS IoT sent a message of the unknown type %d", m.Type)
	case unknown || m.Type == awsiot.TunnelServiceIDs || s == nil || s.id != m.StreamID: // the notification had the service ids
		return nil
	}
	if m.ConnectionID = max(m.ConnectionID, 1); s.plain {
		m.ConnectionID = 0
	}
	t.mu.Lock()
	c := s.connections[m.ConnectionID]
	t.mu.Unlock()
	switch {
	case m.Type == awsiot.TunnelStreamReset:
		t.end(s)
		delete(t.streams, m.ServiceID)
	case m.Type == awsiot.TunnelConnectionStart && c == nil:
		t.connect(ctx, s, m)
	case c == nil:
	case m.Type == awsiot.TunnelData:
		_, _ = c.Write(m.Payload) // it fails once the service has ended it
	default: // ConnectionReset, or the ConnectionStart of one that there is, which is an error
		t.end(s, m.ConnectionID)
		if m.Type == awsiot.TunnelConnectionStart {
			t.send(m, awsiot.TunnelConnectionReset, nil)
		}
	}
	return nil
}

// endStreams ends the stream of a service, as another takes its place. A stream without service id
// ends those with one, and the other way round.
func (t *tunnel) endStreams(service string) {
	for other, s := range t.streams {
		if service == "" || other == "" || other == service {
			t.end(s)
			delete(t.streams, other)
		}
	}
}

// end ends connections of a stream, the whole stream without ids, because the source did: what came
// before is still written.
func (t *tunnel) end(s *stream, ids ...uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, c := range s.connections {
		if len(ids) == 0 || slices.Contains(ids, id) {
			delete(s.connections, id)
			c.ended.Store(true)
			c.Close()
		}
	}
	if len(ids) == 0 {
		s.connections = nil
	}
}

// connect connects to the service of a StreamStart or ConnectionStart. A failure is answered with
// the reset of what was to be started, and so is the service's end.
func (t *tunnel) connect(ctx context.Context, s *stream, m awsiot.TunnelMessage) {
	name := m.ServiceID
	if name == "" && len(t.services) == 1 {
		name = t.services[0]
	}
	log := t.log.With("service", awsiot.Printable(name))
	t.service.mu.Lock()
	address := t.service.services[name]
	t.service.mu.Unlock()
	if !slices.Contains(t.services, name) || !t.service.countConnection(1) {
		log.Warn("rejected a connection from a tunnel: the service is not configured, or there are too many connections", "most", maxConnections)
		t.reset(s, m, false)
		return
	}
	in, out := io.Pipe()
	c, dialed := &connection{PipeWriter: out}, make(chan *net.TCPConn, 1)
	t.mu.Lock()
	active := s.connections != nil
	if active {
		s.connections[m.ConnectionID] = c
	}
	t.mu.Unlock()
	if !active { // the source has not received the reset of its stream yet
		t.service.countConnection(-1)
		return
	}
	t.running.Go(func() { write(in, dialed) })
	t.running.Go(func() {
		dialer := net.Dialer{Timeout: localTimeout}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		service, _ := conn.(*net.TCPConn) // nil after an error
		dialed <- service
		if err == nil {
			log.Info("connected a tunnel to a service")
			t.carry(ctx, service, c, m)
		}
		in.Close()
		t.mu.Lock()
		if s.connections[m.ConnectionID] == c {
			delete(s.connections, m.ConnectionID)
		}
		t.mu.Unlock()
		t.service.countConnection(-1)
		log.Info("a connection from a tunnel has ended", "error", err)
		if !c.ended.Load() {
			t.reset(s, m, err == nil)
		}
	})
}

// reset ends a connection for the source. The stream ends, too, where it has no other, or where its
// first one was not started.
func (t *tunnel) reset(s *stream, of awsiot.TunnelMessage, started bool) {
	kind := awsiot.TunnelConnectionReset
	if s.plain || of.Type == awsiot.TunnelStreamStart && !started {
		kind = awsiot.TunnelStreamReset
		t.end(s)
	}
	t.send(of, kind, nil)
}

// write writes to a service what the source sends, the first piece of which may come before the
// service is connected to.
func write(in io.Reader, dialed <-chan *net.TCPConn) {
	buffer := make([]byte, readSize)
	n, err := in.Read(buffer)
	conn := <-dialed
	if conn == nil {
		return
	}
	for ; err == nil; n, err = in.Read(buffer) {
		_ = conn.SetWriteDeadline(time.Now().Add(stallTimeout))
		if _, err := conn.Write(buffer[:n]); err != nil {
			conn.Close()
			return
		}
	}
	_ = conn.CloseWrite() // to close with unread data would lose the end of what was written
	_ = conn.SetReadDeadline(time.Now().Add(localTimeout))
}

// carry sends the source what a service writes, until the service ends the connection, or the
// source has and the service got what came before.
func (t *tunnel) carry(ctx context.Context, conn *net.TCPConn, c *connection, m awsiot.TunnelMessage) {
	defer conn.Close()
	_ = conn.SetWriteBuffer(awsiot.MaxTunnelPayload) // not the megabytes that a kernel would hold for a stuck service
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for buffer := make([]byte, readSize); ; {
		n, err := conn.Read(buffer)
		if n > 0 && !c.ended.Load() {
			t.send(m, awsiot.TunnelData, buffer[:n])
		}
		if err != nil {
			return
		}
	}
}
