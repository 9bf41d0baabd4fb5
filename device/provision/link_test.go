package provision_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
)

// A link forwards connections, and cuts them on demand.
type link struct {
	target   string
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
		l.wg.Go(func() { io.Copy(far, near); far.Close() })
		l.wg.Go(func() { io.Copy(near, far); near.Close() })
	}
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
func newLink(t *testing.T, port int) (*link, int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{target: fmt.Sprintf("127.0.0.1:%d", port), listener: listener}
	l.wg.Go(l.serve)
	t.Cleanup(func() {
		listener.Close()
		l.close()
	})
	return l, listener.Addr().(*net.TCPAddr).Port
}
