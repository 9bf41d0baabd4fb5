package tunnel

import (
	"errors"
	"net"
	"os"
	"time"
)

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
