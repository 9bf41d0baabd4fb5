// Package session is one MQTT 3.1.1 connection to AWS IoT Core: mutual TLS on
// port 8883, or on port 443 with ALPN, directly or through an HTTP proxy. It
// does not reconnect and does not retry; it tells precisely why an attempt or
// a session ended, so that its caller can decide.
//
// It knows nothing of provisioning, of files, or of what is in a message.
//
// AWS pages: https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html
// and https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// How long a packet may wait for the one before it to be written, and how
// long Close waits for DISCONNECT to leave.
const (
	handOverTimeout = 2 * time.Second
	closeTimeout    = 2 * time.Second
)

// A Session is a connection that CONNACK has accepted. Its methods may be
// called concurrently.
type Session struct {
	o      Options
	conn   *tls.Conn
	meter  *meter
	wire   *wire
	client mqtt.Client
	stats  Stats // without what meter and wire count

	mu     sync.Mutex
	closed bool           // under mu: no more calls into the client
	calls  sync.WaitGroup // those under way, which may outlive their callers

	end  sync.Once
	done chan struct{}
	err  error // why the session ended; to be read after done
}

// Connect opens a session: TCP, TLS, CONNECT, CONNACK. The context governs
// this call alone. The error is an [*Error].
func Connect(ctx context.Context, o Options) (*Session, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := o.limit(ctx)
	defer cancel()
	p, err := Prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	return p.Connect(ctx)
}

// open sends CONNECT over the finished handshake and waits for CONNACK.
func (p *Prepared) open(ctx context.Context) (*Session, error) {
	began := time.Now()
	s := &Session{
		o:     p.o,
		conn:  p.conn,
		meter: p.meter,
		wire:  newWire(p.conn, p.o.explain),
		done:  make(chan struct{}),
	}
	s.client = mqtt.NewClient(s.clientOptions(p.ClientID))
	stop := context.AfterFunc(ctx, func() { s.meter.Close() })
	token := s.client.Connect()
	<-token.Done()
	late := !stop()
	if late && token.Error() == nil {
		s.client.Disconnect(uint(closeTimeout / time.Millisecond))
	}
	if late || token.Error() != nil {
		return nil, s.fault(StageConnect, nil, withCause(ctx, token.Error()))
	}
	s.stats = p.stats
	s.stats.Connect = time.Since(began)
	s.o.Log.DebugContext(ctx, "connected", "endpoint", p.o.address(), "clientId", p.ClientID, "roundTrips", s.Stats().RoundTrips())
	if s.o.OnConnect != nil {
		s.o.OnConnect(s.Stats())
	}
	return s, nil
}

// clientOptions sets the client up for one session over the connection that
// there is: no reconnecting, no resending, no fall-back to MQTT 3.1. Its
// package-level loggers discard everything and stay so: they are shared by
// the whole process, and what they tell is in our errors.
func (s *Session) clientOptions(clientID string) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions().
		AddBroker("mqtts://" + s.o.address()).
		SetClientID(clientID).
		SetProtocolVersion(4).
		SetCleanSession(true).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetOrderMatters(true).
		SetKeepAlive(s.o.KeepAlive).
		SetPingTimeout(s.o.pingTimeout()).
		SetConnectTimeout(s.o.ConnectTimeout + time.Second). // the context comes first, and says more
		SetWriteTimeout(handOverTimeout).
		SetConnectionLostHandler(func(_ mqtt.Client, why error) { s.lost(why) }).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return s.wire, nil })
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) {
		if s.o.OnMessage != nil {
			s.o.OnMessage(Message{Topic: m.Topic(), Payload: m.Payload()})
		}
	})
	return o
}

// lost ends the session for a reason other than Close.
func (s *Session) lost(why error) {
	err := s.fault(StageLost, nil, why)
	s.finish(err)
}

func (s *Session) finish(err error) {
	s.end.Do(func() {
		s.err = err
		close(s.done)
	})
}

// Subscribe subscribes to the topic filters at QoS 1 in one packet and waits
// for SUBACK. AWS IoT takes [MaxFilters] at most. The error is an [*Error].
func (s *Session) Subscribe(ctx context.Context, filters ...string) error {
	if len(filters) > MaxFilters {
		err := &limitError{fmt.Sprintf("%d topic filters; AWS IoT takes %d in one SUBSCRIBE", len(filters), MaxFilters)}
		return s.fault(StageSubscribe, filters, err)
	}
	wanted := make(map[string]byte, len(filters))
	for _, f := range filters {
		wanted[f] = 1
	}
	token, err := s.await(ctx, func() mqtt.Token { return s.client.SubscribeMultiple(wanted, nil) })
	if err == nil {
		err = refusedFilters(filters, token.(*mqtt.SubscribeToken).Result())
	}
	if err != nil {
		return s.fault(StageSubscribe, filters, err)
	}
	return nil
}

func refusedFilters(filters []string, granted map[string]byte) error {
	refused := slices.DeleteFunc(slices.Clone(filters), func(f string) bool {
		qos, ok := granted[f]
		return ok && qos <= 2
	})
	if len(refused) > 0 {
		return &SubackError{Filters: refused}
	}
	return nil
}

// Publish publishes at QoS 1 and waits for PUBACK. When the context ends
// first, the message may have arrived nevertheless. AWS IoT takes
// [MaxPayload] bytes at most. The error is an [*Error].
func (s *Session) Publish(ctx context.Context, topic string, payload []byte) error {
	topics := []string{topic}
	if len(payload) > MaxPayload {
		err := &limitError{fmt.Sprintf("%d bytes; AWS IoT takes %d in one message", len(payload), MaxPayload)}
		return s.fault(StagePublish, topics, err)
	}
	if _, err := s.await(ctx, func() mqtt.Token { return s.client.Publish(topic, 1, false, payload) }); err != nil {
		return s.fault(StagePublish, topics, err)
	}
	return nil
}

// await makes a call into the client and waits for its token, the end of the
// session or that of the context. The call itself may block while another
// packet is being written, and knows no context, so it has a goroutine.
func (s *Session) await(ctx context.Context, call func() mqtt.Token) (mqtt.Token, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	called := make(chan mqtt.Token, 1)
	if !s.begin(func() { called <- call() }) {
		return nil, ErrNotConnected
	}
	var token mqtt.Token
	var answered <-chan struct{}
	for {
		select {
		case token = <-called:
			answered = token.Done()
		case <-answered:
			if token.Error() == nil {
				return token, nil
			}
			answered = nil // the session is ending, and will say why
			if s.client.IsConnectionOpen() {
				return nil, token.Error()
			}
		case <-s.done:
			if token = taken(token, called); succeeded(token) { // the answer was the last thing that came
				return token, nil
			}
			return nil, s.reason()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// taken returns the token of a call when the session has ended. A call that
// the client has taken returns at once; one that came too late hangs for a
// while, and gets none.
func taken(token mqtt.Token, called <-chan mqtt.Token) mqtt.Token {
	if token != nil {
		return token
	}
	select {
	case token = <-called:
	case <-time.After(100 * time.Millisecond):
	}
	return token
}

// succeeded reports whether a token has its answer.
func succeeded(token mqtt.Token) bool {
	if token == nil {
		return false
	}
	select {
	case <-token.Done():
		return token.Error() == nil
	default:
		return false
	}
}

// begin runs a call into the client, unless the session is being closed.
func (s *Session) begin(call func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.calls.Go(call)
	}
	return !s.closed
}

// reason returns the bare cause of the session's end, for a call that was
// waiting when it came.
func (s *Session) reason() error {
	if e, ok := errors.AsType[*Error](s.err); ok {
		return e.Err
	}
	return ErrNotConnected
}

// fault makes the error for what went wrong at a stage. What the wire saw
// comes before what the client reports; an error that is complete stays.
func (s *Session) fault(stage Stage, topics []string, err error) error {
	if _, ok := err.(*Error); ok {
		return err
	}
	e := &Error{
		Stage:    stage,
		Endpoint: s.o.address(),
		Address:  s.conn.RemoteAddr().String(),
		Topics:   topics,
		Err:      err,
	}
	if cause := s.wire.cause(); cause != nil && !isContextError(err) {
		e.Err = cause
	}
	e.blameUnanswered(s.wire)
	return e
}

// Done is closed when the session has ended, for whatever reason.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err returns why the session ended: nil while it lasts and after Close, else
// an [*Error].
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Close sends DISCONNECT and closes the connection. It returns when nothing
// of the session runs any more, after two seconds or the end of the context
// at the latest, save for what OnMessage takes. The error tells that
// DISCONNECT could not be sent in time; it can mostly be ignored.
func (s *Session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.meter.Close() })
	s.endCalls()
	s.wire.close()
	s.client.Disconnect(uint(2 * closeTimeout / time.Millisecond))
	late := !stop()
	s.meter.Close()
	s.finish(nil)
	if late {
		return fmt.Errorf("closing the connection to %s: %w", s.o.address(), context.Cause(ctx))
	}
	return nil
}

// endCalls lets no call begin any more and waits for those under way.
func (s *Session) endCalls() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.calls.Wait()
}

// Stats returns what has been measured so far.
func (s *Session) Stats() Stats {
	stats := s.stats
	stats.MQTT = s.wire.roundTrips()
	stats.BytesIn, stats.BytesOut = s.meter.in.Load(), s.meter.out.Load()
	return stats
}

// TLS returns the state of the TLS connection: version, ALPN, the server's
// chain.
func (s *Session) TLS() tls.ConnectionState { return s.conn.ConnectionState() }
