package session

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// A Prepared session has its TCP connection and as much of its TLS handshake as can be had without
// the client's certificate. It costs no round trip to have it wait. The server may close it
// meanwhile; Connect then fails, and a plain [Connect] is the alternative.
//
// Either Connect or Close must be called, once. Close may be called at any time and more than once.
type Prepared struct {
	// ClientID is that of the options. It may be set until Connect.
	ClientID string

	o         Options
	meter     *meter
	conn      *tls.Conn
	stats     Stats
	requested chan struct{} // closed when the server has authenticated and requests the certificate
	release   chan struct{} // closed to let the handshake have it
	cancel    func()        // ends the handshake and closes the connection
	done      chan struct{} // closed at the end of the handshake
	err       error         // how it ended; to be read after done
	signing   error         // of the private key; to be read after done

	once sync.Once // closes the connection, unless it has become a session's
}

// Prepare opens the connection and runs the handshake up to the point where the client's
// certificate is due. The context governs this call alone. Options.Certificate is not called before
// Connect; ClientID may be empty until then. The error is an [*Error].
//
// Unless Options.CurvePreferences chooses the key exchanges, a server that does not respond to a
// ClientHello with ML-KEM, or responds with an alert, is tried once more without.
func Prepare(ctx context.Context, o Options) (*Prepared, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := o.limit(ctx)
	defer cancel()
	if o.CurvePreferences != nil {
		return o.prepare(ctx, o.ConnectTimeout)
	}
	p, err := o.prepare(ctx, o.ConnectTimeout/3)
	_, alert := errors.AsType[tls.AlertError](err) // of an old server, or of a device on the way
	if !alert && !errors.Is(err, ErrNoServerHello) {
		return p, err
	}
	o.CurvePreferences = ClassicCurves
	p, err = o.prepare(ctx, o.ConnectTimeout)
	if err == nil {
		o.Log.WarnContext(ctx, "the server responded only to a TLS ClientHello without ML-KEM; a firewall or router on the way probably drops handshakes of more than one packet",
			"endpoint", o.address())
	}
	return p, err
}

// prepare makes one attempt. The server's first byte must come within helloTimeout.
func (o Options) prepare(ctx context.Context, helloTimeout time.Duration) (*Prepared, error) {
	began := time.Now()
	m, proxyRoundTrips, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	handshakeCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &Prepared{
		ClientID: o.ClientID,
		o:        o, meter: m,
		stats:     Stats{TCP: 1, Proxy: proxyRoundTrips, Dial: time.Since(began)},
		requested: make(chan struct{}), release: make(chan struct{}), done: make(chan struct{}),
	}
	began = time.Now()
	received := m.in.Load()
	p.cancel = func() {
		cancel()
		m.Close()
	}
	p.conn = tls.Client(m, o.tlsConfig(func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return p.certificate(handshakeCtx, info)
	}))
	go func() {
		defer close(p.done)
		growStack()
		p.err = p.conn.Handshake() // with a context it would take a goroutine more
	}()
	hello := time.NewTimer(helloTimeout)
	defer hello.Stop()
	for {
		select {
		case <-p.requested:
			err = nil
		case <-p.done: // rejected, or a server that requests no certificate
			if err = p.err; err != nil && m.in.Load() == received && closedByPeer(err) {
				err = fmt.Errorf("%w (%w)", ErrNoServerHello, err)
			}
		case <-hello.C:
			if m.in.Load() != received {
				continue
			}
			err = fmt.Errorf("%w %w", ErrNoServerHello, timeoutError(fmt.Sprintf("within %v", helloTimeout)))
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			p.Close()
			return nil, p.fail(StageTLS, err)
		}
		p.stats.Handshake = time.Since(began)
		return p, nil
	}
}

// growStack grows the stack of a handshake to what it needs, in one step instead of five, each of
// which would copy all that is on it.
//
//go:noinline
func growStack() {
	var frame [16 << 10]byte
	runtime.KeepAlive(&frame)
}

// certificate is called by the handshake, once, after the server has proved its identity.
func (p *Prepared) certificate(ctx context.Context, info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	close(p.requested)
	select {
	case <-p.release:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// In TLS 1.3 the client speaks next too: what ends the handshake leaves with CONNECT.
	p.meter.hold.Store(info.Version >= tls.VersionTLS13)
	if p.o.Certificate == nil {
		return &tls.Certificate{}, nil
	}
	c, err := p.o.Certificate(ctx)
	if err == nil && c == nil {
		err = errors.New("there is none")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if key, ok := c.PrivateKey.(crypto.Signer); ok {
		copied := *c
		copied.PrivateKey = reportingSigner{key, &p.signing}
		c = &copied
	}
	return c, nil
}

// A reportingSigner keeps the error of a key, of which crypto/tls keeps the text
// alone. A key in hardware fails for reasons that are not the network's.
type reportingSigner struct {
	crypto.Signer
	failed *error
}

func (s reportingSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	signature, err := s.Signer.Sign(random, digest, opts)
	if err != nil {
		*s.failed = fmt.Errorf("%w: %w", ErrSigning, err)
	}
	return signature, err
}

// Connect finishes the handshake with the client's certificate and opens the
// MQTT session. In TLS 1.3 both leave together, so that this takes one round
// trip. The error is an [*Error]; after it the Prepared is of no more use.
func (p *Prepared) Connect(ctx context.Context) (*Session, error) {
	if p.ClientID == "" || len(p.ClientID) > MaxClientIDLength {
		p.Close()
		return nil, p.fail(StageOptions, fmt.Errorf("client id of %d bytes; AWS IoT accepts 1 to %d", len(p.ClientID), MaxClientIDLength))
	}
	ctx, cancel := p.o.limit(ctx)
	defer cancel()
	err := p.finishHandshake(ctx)
	var s *Session
	if err == nil {
		s, err = p.open(ctx)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	p.once.Do(func() {}) // the connection is the session's now
	return s, nil
}

func (p *Prepared) finishHandshake(ctx context.Context) error {
	began := time.Now()
	stop := context.AfterFunc(ctx, p.cancel)
	close(p.release)
	<-p.done
	stop()
	if err := withCause(ctx, cmp.Or(p.signing, p.err)); err != nil {
		return p.fail(StageTLS, err)
	}
	p.stats.TLS = p.meter.takeRoundTrips()
	p.stats.Handshake += time.Since(began)
	return nil
}

// Close gives the connection up. After a Connect that succeeded it does nothing.
func (p *Prepared) Close() {
	p.once.Do(func() {
		p.cancel()
		<-p.done
	})
}

func (p *Prepared) fail(stage Stage, err error) error {
	authenticated := false
	select {
	case <-p.requested:
		authenticated = true
	default:
	}
	return &Error{Stage: stage, Endpoint: p.o.address(), Address: p.meter.RemoteAddr().String(), Authenticated: authenticated, Err: p.o.explain(err), https: p.o.https}
}

// maxResponse bounds a response to Get, in bytes.
const maxResponse = 64 << 10

// Get sends a GET request over a connection of its own, which is made like that
// of a session: proxy, TLS and certificate are the options'. The response's body
// is in memory and need not be closed. The error is an [*Error].
func Get(ctx context.Context, o Options, path string, header http.Header) (*http.Response, error) {
	o.https = true
	p, err := Prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	ctx, cancel := p.o.limit(ctx)
	defer cancel()
	if err := p.finishHandshake(ctx); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { p.conn.SetDeadline(time.Unix(1, 0)) })()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.o.address()+path, nil)
	if err != nil {
		return nil, p.fail(StageOptions, err)
	}
	r.Header, r.Close = header, true
	writeErr := r.Write(p.conn) // what can be read may say more
	response, err := http.ReadResponse(bufio.NewReader(io.LimitReader(p.conn, maxResponse)), r)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(response.Body)
	} else if _, alert := receivedAlert(err); writeErr != nil && !alert {
		err = writeErr
	}
	if err != nil {
		return nil, p.fail(StageRequest, withCause(ctx, err))
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}
