package localcore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
	bandwidth "golang.org/x/time/rate"

	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/registry"
)

const (
	// alpnMQTT is the ALPN protocol of MQTT with a client certificate.
	// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html
	alpnMQTT = "x-amzn-mqtt-ca"

	handshakeTimeout = 10 * time.Second
	connectTimeout   = 30 * time.Second
)

// A listener accepts TLS connections with a certificate that may connect, and
// hands them to the broker. It implements mochi's [listeners.Listener].
type listener struct {
	id     string
	tcp    net.Listener
	tls    *tls.Config
	broker *broker

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // raw, under mu
}

var _ listeners.Listener = (*listener)(nil)

// listen opens a port. With requireALPN the client must ask for alpnMQTT.
func (b *broker) listen(id, address string, cert *tls.Certificate, requireALPN bool) (*listener, error) {
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	l := &listener{id: id, tcp: tcp, broker: b, conns: map[net.Conn]bool{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.tls = b.tlsConfig(cert, requireALPN)
	b.listeners = append(b.listeners, l)
	return l, nil
}

// tlsConfig demands a client certificate and looks it up by its fingerprint:
// no chain of AWS's device certificates can be verified.
func (b *broker) tlsConfig(cert *tls.Certificate, requireALPN bool) *tls.Config {
	least, most, _ := b.config.SecurityPolicy.versions() // validated
	return &tls.Config{
		Certificates:           []tls.Certificate{*cert},
		MinVersion:             least,
		MaxVersion:             most,
		NextProtos:             []string{alpnMQTT},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return nil, b.admitHello(hello, requireALPN)
		},
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			return b.admitCertificate(raw[0])
		},
	}
}

// A tlsRefusal is our own reason to end a handshake.
type tlsRefusal struct{ certificateID, reason string }

func (e *tlsRefusal) Error() string { return e.reason }

func (b *broker) admitHello(hello *tls.ClientHelloInfo, requireALPN bool) error {
	if hello.ServerName == "" && !b.config.Choices.AllowMissingSNI {
		return &tlsRefusal{reason: "the client named no server (SNI): connect to the host name localhost, not to an address"}
	}
	if requireALPN && !slices.Contains(hello.SupportedProtos, alpnMQTT) {
		return &tlsRefusal{reason: "this port demands the ALPN protocol " + alpnMQTT + fmt.Sprintf("; the client offered %q", hello.SupportedProtos)}
	}
	return nil
}

// admitCertificate admits a certificate that is registered, ACTIVE and within
// its validity.
func (b *broker) admitCertificate(der []byte) error {
	id := ca.Fingerprint(der)
	refuse := func(format string, args ...any) error {
		return &tlsRefusal{id, fmt.Sprintf(format, args...)}
	}
	cert, ok := b.registry.CertificateByID(id)
	if !ok {
		return refuse("the certificate is not registered here (was it issued by another server, or before the state was lost?)")
	}
	switch cert.Status {
	case registry.Active:
	case registry.PendingActivation:
		return refuse("the certificate is PENDING_ACTIVATION: RegisterThing has not succeeded for it yet")
	case registry.Inactive:
		return refuse("the certificate is INACTIVE: activate it with UpdateCertificate")
	default:
		return refuse("the certificate is %s", cert.Status)
	}
	if now := b.config.Now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return refuse("the certificate is valid from %s to %s only",
			cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func (l *listener) ID() string              { return l.id }
func (l *listener) Protocol() string        { return "mqtts" }
func (l *listener) Address() string         { return l.tcp.Addr().String() }
func (l *listener) Init(*slog.Logger) error { return nil }

func (l *listener) port() int { return l.tcp.Addr().(*net.TCPAddr).Port }

// Serve accepts connections until Close.
func (l *listener) Serve(establish listeners.EstablishFn) {
	for {
		raw, err := l.tcp.Accept()
		if err != nil {
			return
		}
		if !l.track(raw) {
			raw.Close()
			return
		}
		go func() {
			defer l.wg.Done()
			defer l.forget(raw)
			l.serve(raw, establish)
		}()
	}
}

// track counts the connection in, unless the listener is closed.
func (l *listener) track(raw net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return false
	}
	l.conns[raw] = true
	l.wg.Add(1)
	return true
}

func (l *listener) forget(raw net.Conn) {
	raw.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, raw)
}

// serve leads one connection through its handshake and its whole life.
func (l *listener) serve(raw net.Conn, establish listeners.EstablishFn) {
	secure := tls.Server(raw, l.tls)
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		l.broker.refuseHandshake(raw.RemoteAddr(), err)
		return
	}
	c := newConnection(secure, l.broker.newThroughput())
	defer close(c.ended)
	defer l.broker.letGo(c)
	defer c.endWriter()
	defer l.broker.survive(c)
	if err := c.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return
	}
	err := establish(l.id, c)
	switch {
	case c.announced, errors.Is(err, errConnectRefused):
	case c.established.Load():
		l.broker.abandon(c)
	default:
		l.broker.refuse(c, ActionConnect, "", fmt.Sprintf("no acceptable CONNECT came: %v", err))
	}
}

// newThroughput returns what delays a connection that moves too many bytes;
// nil without quotas. A packet fits whole.
func (b *broker) newThroughput() *bandwidth.Limiter {
	if b.config.Quotas != QuotasAWS {
		return nil
	}
	return bandwidth.NewLimiter(bytesPerSecond, bytesPerSecond)
}

// survive keeps a packet that makes the broker panic from ending everyone else.
func (b *broker) survive(c *connection) {
	if r := recover(); r != nil {
		b.config.Log.Error("the broker panicked", "panic", r, "client", c.session.ClientID,
			"certificate", c.certificateID, "stack", string(debug.Stack()))
	}
}

// refuseHandshake records why a handshake failed.
func (b *broker) refuseHandshake(from net.Addr, err error) {
	e := Event{Type: Refused, Action: ActionTLS, Address: from.String(), Reason: err.Error()}
	if refusal, ok := errors.AsType[*tlsRefusal](err); ok {
		e.CertificateID = refusal.certificateID
	} else if errors.Is(err, io.EOF) {
		e.Reason = "the client hung up during the handshake"
	} else if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		e.Reason = "the client refused our certificate: " + err.Error() + " (does it trust the server root in root.ca.bundle.pem?)"
	}
	b.journal.record(e)
}

// Close stops accepting, ends every connection and waits for the last.
func (l *listener) Close(closeClients listeners.CloseFn) {
	l.mu.Lock()
	l.cancel()
	l.mu.Unlock()
	l.tcp.Close()
	closeClients(l.id)
	l.mu.Lock()
	for raw := range l.conns {
		raw.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
}
