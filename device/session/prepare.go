package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Prepared session has its TCP connection and as much of its TLS handshake
// as can be had without the client's certificate. It costs no round trip to
// have it wait. The server may tire of it; Connect then fails, and a plain
// [Connect] is the way out.
//
// Either Connect or Close must be called, once. Close may be called at any
// time and more than once.
type Prepared struct {
	// ClientID is that of the options. It may be set until Connect.
	ClientID string

	o       Options
	meter   *meter
	conn    *tls.Conn
	stats   Stats
	asked   chan struct{} // closed when the handshake wants the certificate
	release chan struct{} // closed to let it have it
	cancel  context.CancelFunc
	done    chan struct{} // closed at the end of the handshake
	err     error         // how it ended; to be read after done

	used bool
	once sync.Once
}

// Prepare opens the connection and runs the handshake up to the point where
// the client's certificate is due. The context governs this call alone.
// Options.Certificate is not called before Connect; ClientID may be empty
// until then. The error is an [*Error].
func Prepare(ctx context.Context, o Options) (*Prepared, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := o.limit(ctx)
	defer cancel()
	began := time.Now()
	m, proxyTurns, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	p := &Prepared{
		ClientID: o.ClientID,
		o:        o,
		meter:    m,
		stats:    Stats{TCP: 1, Proxy: proxyTurns, Dial: time.Since(began)},
		asked:    make(chan struct{}),
		release:  make(chan struct{}),
		done:     make(chan struct{}),
	}
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// begin starts the handshake and waits until it holds, or ends.
func (p *Prepared) begin(ctx context.Context) error {
	began := time.Now()
	var handshakeCtx context.Context
	handshakeCtx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.conn = tls.Client(p.meter, p.o.tlsConfig(p.certificate))
	go func() {
		defer close(p.done)
		p.err = p.conn.HandshakeContext(handshakeCtx)
	}()

	select {
	case <-p.asked:
	case <-p.done: // refused, or a server that wants no certificate
		if p.err != nil {
			p.Close()
			return p.fail(StageTLS, p.err)
		}
	case <-ctx.Done():
		p.Close()
		return p.fail(StageTLS, context.Cause(ctx))
	}
	p.stats.Handshake = time.Since(began)
	return nil
}

// certificate is called by the handshake, once.
func (p *Prepared) certificate(ctx context.Context) (*tls.Certificate, error) {
	close(p.asked)
	select {
	case <-p.release:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if p.o.Certificate == nil {
		return &tls.Certificate{}, nil
	}
	c, err := p.o.Certificate(ctx)
	if err == nil && c == nil {
		err = errors.New("there is none")
	}
	if err != nil {
		return nil, &callbackError{err}
	}
	return c, nil
}

// Connect finishes the handshake with the client's certificate and opens the
// MQTT session. In TLS 1.3 both leave together, so that this takes one round
// trip. The error is an [*Error]; after it the Prepared is of no more use.
func (p *Prepared) Connect(ctx context.Context) (*Session, error) {
	if p.used {
		return nil, p.fail(StageOptions, errors.New("prepared session was used already"))
	}
	p.used = true
	if p.ClientID == "" || len(p.ClientID) > MaxClientIDLength {
		p.Close()
		return nil, p.fail(StageOptions, fmt.Errorf("client id of %d bytes; AWS IoT takes 1 to %d", len(p.ClientID), MaxClientIDLength))
	}
	ctx, cancel := p.o.limit(ctx)
	defer cancel()
	if err := p.finish(ctx); err != nil {
		p.Close()
		return nil, p.fail(StageTLS, err)
	}
	s, err := p.open(ctx)
	if err != nil {
		p.Close()
		return nil, err
	}
	p.once.Do(func() {}) // the connection is the session's now
	return s, nil
}

// finish lets the handshake have the certificate and waits for its end.
func (p *Prepared) finish(ctx context.Context) error {
	began := time.Now()
	stop := context.AfterFunc(ctx, p.cancel)
	defer stop()
	close(p.release)
	<-p.done
	p.stats.TLS = p.meter.lap()
	p.stats.Handshake += time.Since(began)
	return withCause(ctx, p.err)
}

// Close gives the connection up. After a Connect that succeeded it does
// nothing.
func (p *Prepared) Close() {
	p.once.Do(func() {
		p.cancel()
		p.meter.Close()
		<-p.done
	})
}

func (p *Prepared) fail(stage Stage, err error) error {
	return p.o.fail(stage, p.meter.RemoteAddr().String(), p.o.explain(err))
}
