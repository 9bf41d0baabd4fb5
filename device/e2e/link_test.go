package e2e

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A link is a TCP relay over which every byte takes delay, in each direction.
// A round trip takes twice that, and so does opening a connection: a relay
// cannot hold SYN back, so it holds the first bytes instead.
type link struct {
	net.Listener
	target string
	delay  time.Duration

	running sync.WaitGroup
	mu      sync.Mutex
	open    map[net.Conn]bool // both ends of each connection: whether it carries anything
	closed  bool
	down    bool // new connections end at once
}

func newLink(t testing.TB, target string, delay time.Duration) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{Listener: l, target: target, delay: delay, open: map[net.Conn]bool{}}
	k.running.Go(k.serve)
	return k
}

// close returns when nothing of the link runs any more.
func (k *link) close() {
	k.Close()
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.cut()
	k.running.Wait()
}

func (k *link) port() int { return k.Addr().(*net.TCPAddr).Port }

// cut ends every connection at once.
func (k *link) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.open {
		c.Close()
	}
}

// setDown cuts the link, or has it carry again.
func (k *link) setDown(down bool) {
	k.mu.Lock()
	k.down = down
	k.mu.Unlock()
	if down {
		k.cut()
	}
}

// silence has the connections of now carry nothing more, not even that the other end is
// gone: they are half open. Later connections work.
func (k *link) silence() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.open {
		k.open[c] = false
	}
}

func (k *link) carries(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open[c]
}

func (k *link) serve() {
	for {
		near, err := k.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", k.target)
		if err != nil {
			near.Close()
			continue
		}
		if !k.keep(near, far) {
			return
		}
		var both sync.WaitGroup
		both.Go(func() { k.carry(far, near, time.Now().Add(2*k.delay)) })
		both.Go(func() { k.carry(near, far, time.Time{}) })
		k.running.Go(func() {
			both.Wait()
			k.forget(near, far)
		})
	}
}

func (k *link) keep(conns ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		k.open[c] = true
		if k.closed || k.down {
			c.Close()
		}
	}
	return !k.closed
}

func (k *link) forget(conns ...net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(k.open, c)
	}
}

// carry moves what it reads, and the end of it, after the delay. Nothing
// counts as read before the connection is open.
func (k *link) carry(to, from net.Conn, opened time.Time) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	queue := make(chan chunk, 1024)
	go func() {
		defer close(queue)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			read := time.Now()
			if read.Before(opened) {
				read = opened
			}
			queue <- chunk{buf[:n], read.Add(k.delay)}
			if err != nil {
				return
			}
		}
	}()
	for c := range queue {
		time.Sleep(time.Until(c.due))
		if len(c.data) > 0 && k.carries(to) {
			_, _ = to.Write(c.data) // the other end may have closed
		}
	}
	// A process that was killed goes in both directions.
	if k.carries(to) {
		to.Close()
		from.Close()
	}
}
