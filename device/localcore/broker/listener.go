package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/event"
)

// alpnMQTT is the ALPN protocol of MQTT with a client certificate.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html
const alpnMQTT = "x-amzn-mqtt-ca"

// A listener is an open port.
type listener struct {
	tcp net.Listener
	tls *tls.Config
}

// Listen opens a port, which outlives ctx, and returns its number. Connections wait until Serve. It
// requires a client certificate that the Authorizer knows: no chain of AWS's device certificates can
// be verified. With requireALPN the client must ask for the protocol x-amzn-mqtt-ca.
func (b *Broker) Listen(ctx context.Context, address string, cert *tls.Certificate, requireALPN bool) (port int, err error) {
	c := net.ListenConfig{KeepAlive: -1} // MQTT's finds connections that are lost
	tcp, err := c.Listen(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	protocols := []string{alpnMQTT}
	if b.config.HTTP != nil && !requireALPN {
		protocols = append(protocols, "http/1.1")
	}
	b.listeners = append(b.listeners, &listener{tcp, &tls.Config{
		Certificates:           []tls.Certificate{*cert},
		MinVersion:             b.config.MinTLS,
		MaxVersion:             b.config.MaxTLS,
		NextProtos:             protocols,
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			// An address is no name there (RFC 6066, 3).
			if (hello.ServerName == "" || net.ParseIP(hello.ServerName) != nil) && !b.config.AllowMissingSNI {
				return nil, errors.New("the client named no server (SNI): connect to the host name localhost, not to an address")
			}
			if requireALPN && !slices.Contains(hello.SupportedProtos, alpnMQTT) {
				return nil, fmt.Errorf("this port requires the ALPN protocol %s; the client offered %q", alpnMQTT, hello.SupportedProtos)
			}
			return nil, nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			// Not before: the client may see by our certificate that it is at the wrong place.
			if err := cert.Leaf.VerifyHostname(state.ServerName); state.ServerName != "" && err != nil {
				return fmt.Errorf("the client named another server (SNI): %w", err)
			}
			p := Principal{Certificate: state.PeerCertificates[0], ServerName: state.ServerName}
			return b.config.Authorizer.VerifyCertificate(p, state.PeerCertificates[1:], false)
		},
	}})
	return tcp.Addr().(*net.TCPAddr).Port, nil
}

// accept accepts connections until the port is closed.
func (b *Broker) accept(ctx context.Context, l *listener) {
	for {
		raw, err := l.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as too many open files, which passes
			b.config.Log.Error("accepting a connection", "error", err)
			select {
			case <-time.After(acceptRetry):
			case <-ctx.Done():
				return
			}
			continue
		}
		if !b.begin(raw, func() { b.handshake(ctx, l, raw) }) {
			return
		}
	}
}

// begin starts a goroutine that serves a TCP connection and releases it in the end. It reports
// false when the broker is closed.
func (b *Broker) begin(raw net.Conn, serve func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		raw.Close()
		return false
	}
	b.open[raw] = struct{}{}
	b.work.Go(serve)
	return true
}

// release closes a TCP connection and forgets it.
func (b *Broker) release(raw net.Conn) {
	raw.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, raw)
}

// growStack grows the stack to what a handshake or the signing of a certificate needs, 32 KB, in
// one step instead of five, each of which would copy all that is on it.
//
//go:noinline
func growStack() {
	var frame [16 << 10]byte
	runtime.KeepAlive(&frame)
}

// handshake makes a TLS connection out of a TCP connection and answers its CONNECT. The loop that
// serves it gets a goroutine of its own: the reader of an idle connection would keep the stack that
// these need.
func (b *Broker) handshake(ctx context.Context, l *listener, raw net.Conn) {
	growStack()
	setQuickACK(raw)
	stream := &wire{Conn: raw}
	secure := tls.Server(stream, l.tls)
	_ = raw.SetDeadline(time.Now().Add(handshakeTimeout)) // until establish sets another; a context would take a goroutine
	err := secure.Handshake()
	state := secure.ConnectionState()
	var p Principal
	if err == nil {
		cert := state.PeerCertificates[0]
		p = Principal{CertificateID: awsiot.CertificateID(cert), Certificate: cert, ServerName: state.ServerName}
		err = b.config.Authorizer.VerifyCertificate(p, state.PeerCertificates[1:], true)
	}
	if err != nil {
		e := event.Event{Type: event.Rejected, Action: event.TLS, Address: raw.RemoteAddr().String(), Reason: err.Error()}
		if len(state.PeerCertificates) > 0 {
			e.CertificateID = awsiot.CertificateID(state.PeerCertificates[0])
		}
		if errors.Is(err, io.EOF) {
			e.Reason = "client closed the connection during the TLS handshake"
		} else if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
			e.Reason = "the client rejected our certificate: " + strings.TrimPrefix(err.Error(), "remote error: ") + " (does it trust the server root in root.ca.bundle.pem?)"
		}
		b.config.Record(e)
		secure.Close() // with an alert after a handshake that succeeded
		b.release(raw)
		return
	}
	c := b.newConn(secure, stream, p)
	b.establish(c)
	b.work.Go(func() {
		defer b.release(raw)
		b.serve(ctx, c)
	})
}
