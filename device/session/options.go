package session

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"
)

// Defaults of the options.
const (
	DefaultPort           = 8883
	DefaultKeepAlive      = 60 * time.Second
	DefaultConnectTimeout = 30 * time.Second
)

// Limits of AWS IoT Core.
// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const (
	MaxFilters        = 8         // topic filters in one SUBSCRIBE
	MaxPayload        = 128 << 10 // bytes of one message
	MaxClientIDLength = 128       // bytes
)

// ALPNProtocol is what a client offers on port 443 to speak MQTT with a client certificate.
const ALPNProtocol = "x-amzn-mqtt-ca"

// Options say where and how to connect. Endpoint, ClientID and Certificate are
// required; every other zero value is usable.
type Options struct {
	Endpoint string // host name of the account's endpoint, also sent as SNI
	Port     int    // 0 means 8883; 443 offers ALPN x-amzn-mqtt-ca
	ClientID string

	RootCAs *x509.CertPool // verify the server; nil means those of the system

	// Certificate gives the client's certificate and key when the handshake
	// needs it. It may block; its context ends with the attempt.
	Certificate func(ctx context.Context) (*tls.Certificate, error)

	// Proxy is the URL of an HTTP proxy (http or https, with user and password
	// if it wants any; without a scheme it is http). Empty means what
	// HTTPS_PROXY and NO_PROXY say; "direct" means none.
	Proxy string

	// CurvePreferences are the key exchanges to offer; nil means those of
	// crypto/tls, ML-KEM among them, and after silence [ClassicCurves].
	CurvePreferences []tls.CurveID

	// KeepSession has the server keep the client id's subscriptions, and the QoS 1
	// messages for them, while the client is away: AWS IoT does for an hour, or what
	// the account's quota says. Default is a clean session.
	KeepSession bool

	KeepAlive      time.Duration // 0 means 60 s; AWS IoT honours 30 s to 1200 s
	ConnectTimeout time.Duration // from the look-up to CONNACK; 0 means 30 s
	// AnswerTimeout bounds the wait for an acknowledgement, besides the context of the call. What a
	// slow link needs for the bytes that are ahead of it, in either direction, comes on top.
	// 0 means no bound.
	AnswerTimeout time.Duration

	// OnMessage receives every message, in order, on a goroutine of the session. It must not block,
	// nor call the session. nil drops them. PUBACK follows with what is sent next, within 10 ms.
	OnMessage func(Message)
	// OnConnect receives what was measured as soon as CONNACK has come, on the goroutine that
	// connects. nil for none.
	OnConnect func(Stats)
	// OnClose receives what was measured of a connection over which CONNECT was sent, when it has
	// ended and before Close returns. nil for none.
	OnClose func(Stats)
	// DialContext opens TCP connections. nil means a net.Dialer, which races
	// IPv6 against IPv4 and turns Nagle's algorithm off.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	https bool // see Get

	Now func() time.Time // the clock that certificates are verified by; nil means time.Now
	Log *slog.Logger     // nil discards
}

// A Shared is the one connection of a device as each of those sees it that share it.
type Shared interface {
	ThingName() string
	// SessionPresent reports whether AWS IoT has kept the session of the connection before: no
	// message to the subscribed filters is lost then.
	SessionPresent() bool
	// Publish publishes at QoS 1, within the rates of AWS IoT, and waits for PUBACK, for 30 seconds
	// besides what a slow link needs for the bytes ahead of it. A topic that has ended three
	// connections in a row, as AWS IoT denies a publish, fails for an hour without being sent.
	Publish(ctx context.Context, topic string, payload []byte) error
}

// A Message is a PUBLISH from the server.
type Message struct {
	Topic   string
	Payload []byte
}

// withDefaults returns the options with every zero value replaced, or an
// [*Error] of [StageOptions].
func (o Options) withDefaults() (Options, error) {
	o.Port = cmp.Or(o.Port, DefaultPort)
	o.KeepAlive = cmp.Or(o.KeepAlive, DefaultKeepAlive)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, DefaultConnectTimeout)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	if o.DialContext == nil {
		o.DialContext = new(net.Dialer).DialContext
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	var err error
	switch {
	case o.Endpoint == "":
		err = errors.New("no endpoint")
	case o.Port < 1 || o.Port > 65535:
		err = fmt.Errorf("port %d is not between 1 and 65535", o.Port)
	case o.KeepAlive < time.Second || o.KeepAlive >= 1<<16*time.Second || o.ConnectTimeout < 0 || o.AnswerTimeout < 0:
		err = errors.New("duration out of range")
	default:
		return o, nil
	}
	return o, o.fail(StageOptions, "", err)
}

// address is the endpoint as host:port.
func (o *Options) address() string { return net.JoinHostPort(o.Endpoint, strconv.Itoa(o.Port)) }

// limit bounds an attempt by ConnectTimeout. One that is bounded already stays as it is.
func (o *Options) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	timeout := cmp.Or(o.ConnectTimeout, DefaultConnectTimeout)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= timeout {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, timeout, timeoutError(fmt.Sprintf("no answer within %v", timeout)))
}

// pingInterval is when PINGREQ is due, pingTimeout how long PINGRESP may take.
func (o *Options) pingInterval() time.Duration { return o.KeepAlive * 9 / 10 }
func (o *Options) pingTimeout() time.Duration  { return min(o.KeepAlive/2, 10*time.Second) }

// fail makes the error of an attempt.
func (o *Options) fail(stage Stage, address string, err error) error {
	return &Error{Stage: stage, Endpoint: o.address(), Address: address, Err: err}
}

// A meter counts the bytes and the round trips of a connection. A round trip is
// a read that brings bytes after a write.
type meter struct {
	net.Conn
	in, out    atomic.Int64
	roundTrips atomic.Int64
	wrote      atomic.Bool
	hold       atomic.Bool // the next write waits for the one after it, to share a segment with it
	held       []byte      // by such a write; writes are one after the other
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
	if m.hold.Swap(false) {
		m.held = bytes.Clone(p)
		return len(p), nil
	}
	if held := m.held; held != nil {
		m.held = nil
		n, err := m.Conn.Write(append(held, p...))
		return max(0, n-len(held)), err
	}
	return m.Conn.Write(p)
}

// takeRoundTrips returns the round trips since the last call.
func (m *meter) takeRoundTrips() int { return int(m.roundTrips.Swap(0)) }

// Stats are what a session has measured on its own connection so far.
//
// A round trip is counted when bytes arrive after something that must be answered was sent. The
// look-up of the name is not seen, and of TCP only that one handshake was needed. In TLS 1.3 the
// client's certificate travels with CONNECT and is answered with it.
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
