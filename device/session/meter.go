package session

import (
	"net"
	"sync/atomic"
	"time"
)

// A meter counts the bytes and the round trips of a connection. A round trip is
// a read that brings bytes after a write.
type meter struct {
	net.Conn
	in, out    atomic.Int64
	roundTrips atomic.Int64
	wrote      atomic.Bool
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.in.Add(int64(n))
	if n > 0 && m.wrote.Swap(false) {
		m.roundTrips.Add(1)
	}
	return n, err
}

func (m *meter) Write(p []byte) (int, error) {
	m.wrote.Store(true)
	m.out.Add(int64(len(p)))
	return m.Conn.Write(p)
}

// takeRoundTrips returns the round trips since the last call.
func (m *meter) takeRoundTrips() int { return int(m.roundTrips.Swap(0)) }

// Stats are what a session has measured on its own connection so far.
//
// A round trip is counted when bytes arrive after something that must be
// answered was sent. The look-up of the name is not seen, and of TCP only
// that one handshake was needed. In TLS 1.3 the client's certificate travels
// with CONNECT and is answered with it.
type Stats struct {
	TCP   int // 1 for each TCP handshake
	Proxy int // tunnel through the proxy, with its own TLS if any
	TLS   int // 1 for TLS 1.3, 2 for TLS 1.2, 1 more for a HelloRetryRequest
	MQTT  int // CONNECT, SUBSCRIBE and PUBLISH at QoS 1, where they were waited for

	BytesIn, BytesOut int64 // TLS included, TCP and IP not

	Dial      time.Duration // look-up, TCP and proxy
	Handshake time.Duration // TLS; in a Prepared session without the time it was held
	Connect   time.Duration // CONNECT to CONNACK
}

// RoundTrips is the sum.
func (s Stats) RoundTrips() int { return s.TCP + s.Proxy + s.TLS + s.MQTT }
