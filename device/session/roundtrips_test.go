package session_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

const rtt = 200 * time.Millisecond

// A link is a network that delays each byte by half a round trip, on the
// bubble's clock: a wait is a whole number of round trips, exactly.
type link struct {
	server  func(net.Conn)
	rate    int // bytes per second in each direction, 0 for any; what waits is buffered
	running sync.WaitGroup
}

func (l *link) DialContext(context.Context, string, string) (net.Conn, error) {
	time.Sleep(rtt) // SYN, SYN-ACK
	client, near := net.Pipe()
	far, peer := net.Pipe()
	l.running.Go(func() { l.delay(far, near) })
	l.running.Go(func() { l.delay(near, far) })
	l.running.Go(func() { l.server(peer); peer.Close() })
	return client, nil
}

func (l *link) delay(to, from net.Conn) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	queue := make(chan chunk, 1000)
	go func() {
		defer close(queue)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			queue <- chunk{buf[:n], time.Now().Add(rtt / 2)}
		}
	}()
	for c := range queue {
		time.Sleep(time.Until(c.due))
		for packet := range slices.Chunk(c.data, 1<<10) {
			if l.rate > 0 {
				time.Sleep(time.Duration(len(packet)) * time.Second / time.Duration(l.rate))
			}
			to.Write(packet)
		}
	}
	to.Close()
}

// bubble runs a test over a link to a broker that speaks up to the given
// version of TLS.
func bubble(t *testing.T, version uint16, h hooks, test func(t *testing.T, o session.Options)) {
	slowBubble(t, version, 0, h, test)
}

func slowBubble(t *testing.T, version uint16, rate int, h hooks, test func(t *testing.T, o session.Options)) {
	ca := newAuthority(t)
	config := ca.serverConfig()
	config.MaxVersion = version
	certificate := ca.clientCertificate()
	synctest.Test(t, func(t *testing.T) {
		o := session.Options{
			Endpoint:    "localhost",
			ClientID:    "device-1",
			RootCAs:     ca.pool(),
			Certificate: certificate,
			Proxy:       "direct",
		}
		l := &link{rate: rate, server: func(c net.Conn) { broker(h)(tls.Server(c, config)) }}
		defer l.running.Wait()
		o.DialContext = l.DialContext
		test(t, o)
	})
}

func TestConnectTakesNoRoundTripTooMany(t *testing.T) {
	for name, tc := range map[string]struct {
		version uint16
		want    session.Stats
	}{
		"TLS 1.3": {tls.VersionTLS13, session.Stats{TCP: 1, TLS: 1, MQTT: 1}},
		"TLS 1.2": {tls.VersionTLS12, session.Stats{TCP: 1, TLS: 2, MQTT: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, tc.version, nil, func(t *testing.T, o session.Options) {
				began := time.Now()
				s, err := session.Connect(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close(t.Context())
				checkRoundTrips(t, time.Since(began), s.Stats(), tc.want)
			})
		})
	}
}

// A countedConn counts the writes to it.
type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// countWrites counts the writes to the connections of o.
func countWrites(o *session.Options) *atomic.Int64 {
	var writes atomic.Int64
	dial := o.DialContext
	o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return countedConn{conn, &writes}, err
	}
	return &writes
}

func TestEndOfHandshakeLeavesWithCONNECTAndDISCONNECTWithTheAlert(t *testing.T) {
	for name, tc := range map[string]struct {
		version         uint16
		connect, closed int64 // writes up to CONNACK, and to the end
	}{
		"TLS 1.3": {tls.VersionTLS13, 2, 3},
		"TLS 1.2": {tls.VersionTLS12, 3, 4},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, tc.version, nil, func(t *testing.T, o session.Options) {
				writes := countWrites(&o)
				s, err := session.Connect(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if n := writes.Load(); n != tc.connect {
					t.Errorf("%d writes up to CONNACK, want %d", n, tc.connect)
				}
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if n := writes.Load(); n != tc.closed {
					t.Errorf("%d writes in all, want %d", n, tc.closed)
				}
			})
		})
	}
}

func TestPUBACKLeavesWithTheNextPacketOrSoon(t *testing.T) {
	var acknowledged atomic.Int32
	send := func(w io.Writer, p packets.ControlPacket) bool {
		answer(w, p)
		w.Write(publish("t", "message"))
		return true
	}
	count := func(io.Writer, packets.ControlPacket) bool {
		acknowledged.Add(1)
		return true
	}
	h := hooks{packets.Subscribe: send, packets.Publish: send, packets.Puback: count}
	bubble(t, tls.VersionTLS13, h, func(t *testing.T, o session.Options) {
		writes := countWrites(&o)
		received := make(chan struct{}, 1)
		o.OnMessage = func(session.Message) { received <- struct{}{} }
		s, err := session.Connect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		message := func() {
			<-received
			synctest.Wait()
		}
		for _, step := range []struct {
			name         string
			do           func()
			acknowledged int32 // after it
		}{
			{"SUBSCRIBE", func() { err = s.Subscribe(t.Context(), "t"); message() }, 0},
			{"PUBLISH", func() { err = s.Publish(t.Context(), "t", nil); message() }, 1},
			{"nothing", func() { time.Sleep(rtt) }, 2},
			{"another PUBLISH", func() { err = s.Publish(t.Context(), "t", nil); message() }, 2},
			{"DISCONNECT", func() { err = s.Close(t.Context()); time.Sleep(rtt) }, 3},
		} {
			before := writes.Load()
			step.do()
			if n := writes.Load() - before; err != nil || n != 1 {
				t.Errorf("%s: %d writes, %v", step.name, n, err)
			}
			if n := acknowledged.Load(); n != step.acknowledged {
				t.Errorf("%d messages are acknowledged after %s, want %d", n, step.name, step.acknowledged)
			}
		}
	})
}

func TestPreparedSessionNeedsOneRoundTripMore(t *testing.T) {
	for name, tc := range map[string]struct {
		version uint16
		left    int // round trips of Prepared.Connect
		want    session.Stats
	}{
		"TLS 1.3": {tls.VersionTLS13, 1, session.Stats{TCP: 1, TLS: 1, MQTT: 1}},
		"TLS 1.2": {tls.VersionTLS12, 2, session.Stats{TCP: 1, TLS: 2, MQTT: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, tc.version, nil, func(t *testing.T, o session.Options) {
				o.ClientID = ""
				certificate := o.Certificate
				called := false
				o.Certificate = func(ctx context.Context) (*tls.Certificate, error) {
					called = true
					return certificate(ctx)
				}
				began := time.Now()
				p, err := session.Prepare(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if got := time.Since(began); got != 2*rtt {
					t.Errorf("Prepare took %v, want %v", got, 2*rtt)
				}
				time.Sleep(3 * time.Second)
				if called {
					t.Error("the certificate was asked for before Connect")
				}
				p.ClientID = "thing-1"
				began = time.Now()
				s, err := p.Connect(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close(t.Context())
				if got, want := time.Since(began), time.Duration(tc.left)*rtt; got != want {
					t.Errorf("Connect took %v, want %v", got, want)
				}
				total := time.Duration(tc.want.RoundTrips()) * rtt
				checkRoundTrips(t, total, s.Stats(), tc.want)
			})
		})
	}
}

func TestEachWaitIsOneRoundTrip(t *testing.T) {
	bubble(t, tls.VersionTLS13, nil, func(t *testing.T, o session.Options) {
		began := time.Now()
		s, err := session.Connect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		if err := s.Subscribe(t.Context(), "a", "b", "c", "d"); err != nil {
			t.Error(err)
		}
		if err := s.Publish(t.Context(), "a", nil); err != nil {
			t.Error(err)
		}
		checkRoundTrips(t, time.Since(began), s.Stats(), session.Stats{TCP: 1, TLS: 1, MQTT: 3})
	})
}

func TestSubscribeAndPublishShareARoundTrip(t *testing.T) {
	bubble(t, tls.VersionTLS13, nil, func(t *testing.T, o session.Options) {
		began := time.Now()
		s, err := session.Connect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		if err := s.SubscribeAndPublish(t.Context(), []string{"a", "b"}, "c", nil); err != nil {
			t.Error(err)
		}
		checkRoundTrips(t, time.Since(began), s.Stats(), session.Stats{TCP: 1, TLS: 1, MQTT: 2})
	})
}

func checkRoundTrips(t *testing.T, took time.Duration, got, want session.Stats) {
	t.Helper()
	ignore := cmpopts.IgnoreFields(session.Stats{}, "BytesIn", "BytesOut", "Dial", "Handshake", "Connect")
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("counted round trips (-want +got):\n%s", diff)
	}
	if trips := time.Duration(want.RoundTrips()); took != trips*rtt {
		t.Errorf("took %v, want %d round trips of %v", took, trips, rtt)
	}
}

func TestPreparedSessionCanBeGivenUp(t *testing.T) {
	bubble(t, tls.VersionTLS13, nil, func(t *testing.T, o session.Options) {
		p, err := session.Prepare(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
		p.Close()
		if _, err := p.Connect(t.Context()); err == nil {
			t.Error("Connect succeeded after Close")
		}
	})
}

func TestPreparedSessionEndsWithItsContext(t *testing.T) {
	bubble(t, tls.VersionTLS13, nil, func(t *testing.T, o session.Options) {
		o.Certificate = func(ctx context.Context) (*tls.Certificate, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		p, err := session.Prepare(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.Connect(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || sessionError(t, err).Class() != awsiot.Temporary {
			t.Errorf("got %v", err)
		}
	})
}

func TestPreparationHasATimeLimit(t *testing.T) {
	silent := func(c net.Conn) {
		for buf := make([]byte, 1000); ; {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	}
	bubble(t, tls.VersionTLS13, nil, func(t *testing.T, o session.Options) {
		l := &link{server: silent}
		defer l.running.Wait()
		o.DialContext = l.DialContext
		o.ConnectTimeout = 7 * time.Second
		began := time.Now()
		_, err := session.Prepare(t.Context(), o)
		e := sessionError(t, err)
		if e.Stage != session.StageTLS || e.Class() != awsiot.Temporary || time.Since(began) != 7*time.Second {
			t.Errorf("after %v: %v (%v, %v)", time.Since(began), err, e.Stage, e.Class())
		}
	})
}

// A server that drops a held handshake must be found out by Connect, so that
// the caller falls back to a plain connection.
func TestServerClosesAHeldHandshake(t *testing.T) {
	bubble(t, tls.VersionTLS13, nil, func(t *testing.T, o session.Options) {
		dial := o.DialContext
		var conn net.Conn
		o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			var err error
			conn, err = dial(ctx, network, address)
			return conn, err
		}
		p, err := session.Prepare(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if _, err := p.Connect(t.Context()); err == nil {
			t.Error("Connect succeeded on a dead connection")
		}
		s, err := session.Connect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		s.Close(t.Context())
	})
}
