package tunnel_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"example.com/fleety/device/agent/tunnel"
	"example.com/fleety/device/awsiot"
)

const (
	interval = 100 * time.Millisecond // between pings
	long     = 10 * interval          // much more than silence may last
)

// A client is a connection to the data plane, as the other end has it.
type client struct {
	*websocket.Conn
	conn *net.TCPConn
	got  int // bytes of the service
}

// receive returns false when the connection has ended.
func (c *client) receive() bool {
	_, data, err := c.ReadMessage()
	m, _, _, _ := awsiot.CutTunnelMessage(data)
	c.got += len(m.Payload)
	return err == nil
}

// dataPlane is a data plane that answers pings, starts a stream after the first, and hands over to
// serve. Clients arrive when the tunnel is connected to again.
func dataPlane(t *testing.T, service func(net.Conn), serve func(*client)) {
	t.Helper()
	upgrader := websocket.Upgrader{Subprotocols: []string{awsiot.TunnelV3}, WriteBufferSize: 4 << 10}
	w := newWorld(t, map[string]string{"SSH": listen(t, service)}, func(rw http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		c := &client{Conn: ws, conn: ws.NetConn().(*tls.Conn).NetConn().(*net.TCPConn)}
		answer, first := ws.PingHandler(), true
		ws.SetPingHandler(func(text string) error {
			err := answer(text)
			if first && err == nil {
				first, err = false, ws.WriteMessage(websocket.BinaryMessage, awsiot.AppendTunnelMessage(nil, start(1, "SSH", 1)))
			}
			return err
		})
		if c.receive() {
			serve(c)
		}
	}, func(c *tunnel.Config) { c.PingInterval = interval })
	w.open(t, "SSH")
}

// fill writes until nothing is taken for long, or so much is written.
func fill(conn net.Conn, most int) (total int) {
	for chunk := make([]byte, 16<<10); total < most; {
		_ = conn.SetWriteDeadline(time.Now().Add(long))
		n, err := conn.Write(chunk)
		if total += n; err != nil {
			break
		}
	}
	return total
}

// silence waits until a service has been sent nothing for long.
func silence(conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(long))
	_, _ = conn.Read(make([]byte, 1))
	_ = conn.SetReadDeadline(time.Time{})
}

// A source that reads nothing for long is no silent network, although neither a ping gets through
// nor a pong comes: the connection stays, and all that the service has sent arrives.
func TestSourceThatReadsNothingKeepsItsConnection(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]int{"the service sends on": 1 << 30, "the service waits": 512 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent, done := make(chan int), make(chan struct{})
			dataPlane(t, func(conn net.Conn) {
				total := fill(conn, most)
				silence(conn)
				sent <- total
				_, _ = conn.Read(make([]byte, 1)) // until the tunnel ends
			}, func(c *client) {
				defer close(done)
				for want := <-sent; c.got < want; {
					if !c.receive() {
						t.Errorf("the connection has ended after %d of %d bytes", c.got, want)
						return
					}
				}
			})
			<-done
		})
	}
}

// A service that takes a message only after long keeps the connection, too: what comes behind the
// message waits in the network.
func TestServiceThatReadsLateKeepsItsConnection(t *testing.T) {
	t.Parallel()
	const size, count = 60_000, 20
	received := make(chan int64, 2)
	dataPlane(t, func(conn net.Conn) {
		_, _ = conn.Write([]byte("hello"))
		<-time.After(long)
		n, _ := io.CopyN(io.Discard, conn, size*count)
		received <- n
	}, func(c *client) {
		message, _ := c.NextWriter(websocket.BinaryMessage)
		m := start(1, "SSH", 1)
		m.Type, m.Payload = awsiot.TunnelData, make([]byte, size)
		for range count {
			_, _ = message.Write(awsiot.AppendTunnelMessage(nil, m))
		}
		_ = message.Close()
		c.receive() // until the tunnel ends
	})
	if n := <-received; n != size*count {
		t.Errorf("%d bytes arrived", n)
	}
}

// A network that becomes silent is left also while a service sends, and while the source reads
// nothing: what was sent is not acknowledged.
func TestSilentNetworkIsLeftWhileAServiceSends(t *testing.T) {
	t.Parallel()
	for name, closed := range map[string]bool{"open window": false, "closed window": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			full, connections := make(chan struct{}, 100), make(chan struct{}, 100)
			dataPlane(t, func(conn net.Conn) {
				if closed {
					fill(conn, 1<<30)
				}
				_, _ = conn.Write([]byte("hello"))
				full <- struct{}{}
				for range time.Tick(interval) {
					if _, err := conn.Write([]byte("more")); err != nil {
						return
					}
				}
			}, func(c *client) {
				connections <- struct{}{}
				<-full
				// All that arrives is dropped, and nothing is acknowledged.
				raw, err := c.conn.SyscallConn()
				if err != nil {
					t.Error(err)
				}
				drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
				_ = raw.Control(func(fd uintptr) {
					err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
				})
				if err != nil {
					t.Error(err)
				}
				c.receive()
			})
			<-connections
			<-connections
		})
	}
}

// A stream whose first connection fails late ends, with another connection whose service takes
// nothing: what the source sends on that has no effect, and the next stream is served.
func TestFailedStreamEndsWhileItsServiceIsStuck(t *testing.T) {
	t.Parallel()
	// A listener that lets one connection wait, and no other arrive.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	full, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	address := full.Addr().String()
	waiting, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	w := newWorld(t, map[string]string{"SSH": address}, nil)
	id, token := w.open(t, "SSH")
	w.awaitDevice(t, id)
	s := w.source(t, awsiot.TunnelV3, token)
	s.send(start(1, "SSH", 1))
	sent := fmt.Sprintf(" 0100007F:%04X 02 ", full.Addr().(*net.TCPAddr).Port) // SYN_SENT; see proc(5)
	eventually(t, func() bool {
		sockets, err := os.ReadFile("/proc/net/tcp")
		return err == nil && strings.Contains(string(sockets), sent)
	}, w.log.String)
	full.Close()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.send(with(start(1, "SSH", 2), awsiot.TunnelConnectionStart))
	stuck, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	l.Close()
	data := with(start(1, "SSH", 2), awsiot.TunnelData)
	data.Payload = make([]byte, awsiot.MaxTunnelPayload)
	for range 20 {
		s.send(data)
	}
	s.expect(with(start(1, "SSH", 1), awsiot.TunnelStreamReset)) // the kernel has tried again
	l, err = net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, echo)
	s.send(start(2, "SSH", 1))
	s.echoed(start(2, "SSH", 1), "hello")
}
