package provision_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A link forwards connections and delays what is sent over them, each
// direction by delay. The TCP handshake with it is not delayed: the caller
// waits for a round trip before it dials on, so that the first byte to arrive
// has waited for one.
type link struct {
	target   string
	delay    time.Duration
	listener net.Listener

	wg    sync.WaitGroup
	mu    sync.Mutex
	conns []net.Conn // under mu
}

func (l *link) serve() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.target)
		if err != nil {
			near.Close()
			return
		}
		l.mu.Lock()
		l.conns = append(l.conns, near, far)
		l.mu.Unlock()
		l.wg.Go(func() { l.forward(far, near, 3*l.delay) }) // with TCP's round trip
		l.wg.Go(func() { l.forward(near, far, l.delay) })
	}
}

// A parcel is what was read, and when it is due.
type parcel struct {
	data []byte
	due  time.Time
}

// forward copies from one to another. The first parcel may take longer, as
// what is sent over a connection that is only being opened does.
func (l *link) forward(to, from net.Conn, first time.Duration) {
	parcels := make(chan parcel, 1024)
	l.wg.Go(func() {
		defer close(parcels)
		delay := first
		for {
			buffer := make([]byte, 32<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				parcels <- parcel{buffer[:n], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
			delay = l.delay
		}
	})
	for p := range parcels {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil && err != io.EOF {
			from.Close()
		}
	}
	to.Close()
}

// cut ends every connection that there is; new ones can be opened.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
}

func (l *link) close() {
	l.cut()
	l.wg.Wait()
}

// newLink returns a link to a port of this machine, and its own port.
func newLink(t *testing.T, port int, delay time.Duration) (*link, int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{target: fmt.Sprintf("127.0.0.1:%d", port), delay: delay, listener: listener}
	l.wg.Go(l.serve)
	t.Cleanup(func() {
		listener.Close()
		l.close()
	})
	return l, listener.Addr().(*net.TCPAddr).Port
}
