package session_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

func TestSubscribeTakesOnePacketForAllFilters(t *testing.T) {
	var got []string
	s := serve(t, nil, broker(map[byte]func(io.Writer, packets.ControlPacket) bool{
		packets.Subscribe: func(w io.Writer, p packets.ControlPacket) bool {
			got = append(got, p.(*packets.SubscribePacket).Topics...)
			answer(w, p)
			return true
		},
	}))
	c := connect(t, s.options())
	if err := c.Subscribe(t.Context(), "a/accepted", "a/rejected", "b/#"); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Errorf("one SUBSCRIBE held %q", got)
	}
}

func TestMessagesArriveInOrder(t *testing.T) {
	s := serve(t, nil, broker(map[byte]func(io.Writer, packets.ControlPacket) bool{
		packets.Subscribe: func(w io.Writer, p packets.ControlPacket) bool {
			answer(w, p)
			for _, payload := range []string{"one", "two", ""} {
				w.Write(publish("t", payload))
			}
			return true
		},
	}))
	o := s.options()
	messages := make(chan session.Message, 3)
	o.OnMessage = func(m session.Message) { messages <- m }
	c := connect(t, o)
	if err := c.Subscribe(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 3 {
		m := <-messages
		got = append(got, m.Topic+"="+string(m.Payload))
	}
	if diff := cmp.Diff([]string{"t=one", "t=two", "t="}, got); diff != "" {
		t.Error(diff)
	}
}

// [MQTT-4.6.0-2]: also where several goroutines have a PUBACK sent along with their packets.
func TestPUBACKsLeaveInTheOrderOfTheMessages(t *testing.T) {
	const publishers, each = 16, 200
	sent, acknowledged := uint16(0), make(chan uint16, publishers*each)
	s := serve(t, nil, broker(map[byte]func(io.Writer, packets.ControlPacket) bool{
		packets.Publish: func(w io.Writer, p packets.ControlPacket) bool {
			answer(w, p)
			sent++
			message := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
			message.TopicName, message.Qos, message.MessageID = "t", 1, sent
			message.Write(w)
			return true
		},
		packets.Puback: func(_ io.Writer, p packets.ControlPacket) bool {
			acknowledged <- p.Details().MessageID
			return true
		},
	}))
	c := connect(t, s.options())
	var publishing sync.WaitGroup
	for range publishers {
		publishing.Go(func() {
			for range each {
				if err := c.Publish(t.Context(), "t", nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	publishing.Wait()
	if t.Failed() {
		return
	}
	for want := range uint16(publishers * each) {
		if got := <-acknowledged; got != want+1 {
			t.Fatalf("PUBACK %d of all is of message %d", want+1, got)
		}
	}
}

func TestPublishWaitsForPuback(t *testing.T) {
	release := make(chan struct{})
	received := make(chan struct{})
	s := serve(t, nil, broker(map[byte]func(io.Writer, packets.ControlPacket) bool{
		packets.Publish: func(w io.Writer, p packets.ControlPacket) bool {
			close(received)
			<-release
			answer(w, p)
			return true
		},
	}))
	c := connect(t, s.options())
	published := make(chan error)
	go func() { published <- c.Publish(t.Context(), "fleet/x", []byte("hello")) }()
	<-received
	select {
	case <-published:
		t.Error("Publish returned before PUBACK")
	default:
	}
	close(release)
	if err := <-published; err != nil {
		t.Error(err)
	}
}

func TestPubackThatIsTheLastPacketCounts(t *testing.T) {
	s := serve(t, nil, broker(hooks{
		packets.Publish: func(w io.Writer, p packets.ControlPacket) bool {
			answer(w, p)
			return false
		},
	}))
	for range 30 {
		c := connect(t, s.options())
		if err := c.Publish(t.Context(), "t", nil); err != nil {
			t.Fatal(err)
		}
		<-c.Done()
	}
}

func TestPublishObeysItsContext(t *testing.T) {
	s := serve(t, nil, broker(map[byte]func(io.Writer, packets.ControlPacket) bool{
		packets.Publish: func(io.Writer, packets.ControlPacket) bool { return true },
	}))
	c := connect(t, s.options())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := c.Publish(ctx, "fleet/x", nil)
	e := sessionError(t, err)
	if !errors.Is(err, context.DeadlineExceeded) || e.Stage != session.StagePublish || e.Class() != awsiot.Temporary {
		t.Errorf("got %v (%v, %v)", err, e.Stage, e.Class())
	}
	if c.Err() != nil {
		t.Errorf("the session ended: %v", c.Err())
	}
}

func TestLimitsOfAWSAreKept(t *testing.T) {
	s := serve(t, nil, broker(nil))
	c := connect(t, s.options())
	if err := c.Publish(t.Context(), "t", make([]byte, session.MaxPayload+1)); err == nil {
		t.Error("a payload above the limit was sent")
	}
	if err := c.Subscribe(t.Context(), "1", "2", "3", "4", "5", "6", "7", "8", "9"); err == nil {
		t.Error("nine filters were sent")
	}
	if err := c.Publish(t.Context(), "t", make([]byte, session.MaxPayload)); err != nil {
		t.Error(err)
	}
}

func TestCloseSendsDisconnect(t *testing.T) {
	disconnected := make(chan bool, 1)
	s := serve(t, nil, func(conn *tls.Conn) {
		for {
			p, err := packets.ReadPacket(conn)
			if err != nil {
				disconnected <- false
				return
			}
			if _, ok := p.(*packets.DisconnectPacket); ok {
				disconnected <- true
				return
			}
			answer(conn, p)
		}
	})
	c := connect(t, s.options())
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if !<-disconnected {
		t.Error("no DISCONNECT came")
	}
	<-c.Done()
	if c.Err() != nil {
		t.Errorf("Err after Close is %v", c.Err())
	}
	if err := c.Publish(t.Context(), "t", nil); !errors.Is(err, session.ErrNotConnected) {
		t.Errorf("Publish after Close: %v", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestCloseEndsAPublishThatWaits(t *testing.T) {
	received := make(chan struct{})
	s := serve(t, nil, broker(map[byte]func(io.Writer, packets.ControlPacket) bool{
		packets.Publish: func(io.Writer, packets.ControlPacket) bool { close(received); return true },
	}))
	c := connect(t, s.options())
	published := make(chan error)
	go func() { published <- c.Publish(context.Background(), "t", nil) }()
	<-received
	c.Close(t.Context())
	if err := <-published; !errors.Is(err, session.ErrNotConnected) {
		t.Errorf("got %v", err)
	}
}

// A peer that reads no more must hold up neither Publish nor Close.
func TestCloseReturnsWhenThePeerReadsNoMore(t *testing.T) {
	ca := newAuthority(t)
	config := ca.serverConfig()
	o := session.Options{
		Endpoint:    "localhost",
		ClientID:    "device-1",
		RootCAs:     ca.pool(),
		Certificate: ca.clientCertificate(),
		Proxy:       "direct",
	}
	synctest.Test(t, func(t *testing.T) {
		client, peer := net.Pipe() // has no buffer: a write lasts until it is read
		o.DialContext = func(context.Context, string, string) (net.Conn, error) { return client, nil }
		go func() {
			conn := tls.Server(peer, config)
			if p, err := packets.ReadPacket(conn); err == nil {
				answer(conn, p)
			}
		}()
		s, err := session.Connect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		failed := make(chan error)
		for range 3 {
			go func() { failed <- s.Publish(ctx, "t", []byte("x")) }()
		}
		for range 3 {
			if err := <-failed; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Publish returned %v", err)
			}
		}
		began := time.Now()
		if err := s.Close(t.Context()); err == nil {
			t.Error("Close reports that DISCONNECT was sent")
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}

// Whenever the server closes the connection, and whenever Close is called, every call must
// return and nothing may go on running.
func TestSessionsEndWhateverHappens(t *testing.T) {
	for _, patience := range []int{0, 1, 2, 5, 8} {
		var seen atomic.Int32
		count := func(w io.Writer, p packets.ControlPacket) bool {
			if int(seen.Add(1)) > patience {
				return false
			}
			answer(w, p)
			return true
		}
		s := serve(t, nil, broker(hooks{packets.Subscribe: count, packets.Publish: count}))
		c := connect(t, s.options())
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				for range 3 {
					if err := c.Publish(t.Context(), "t", []byte("x")); err != nil {
						sessionError(t, err)
					}
				}
			})
		}
		calls.Go(func() { c.Subscribe(t.Context(), "a", "b") })
		if patience%2 == 0 {
			calls.Go(func() { c.Close(t.Context()) })
		}
		calls.Wait()
		c.Close(t.Context())
		<-c.Done()
	}
}

// A fleet holds thousands of sessions, and the agent's device is small.
func TestIdleSessionHasOneGoroutine(t *testing.T) {
	s := serve(t, nil, broker(nil))
	before := runtime.NumGoroutine() + 1 // the listener's handler becomes the server's side
	connect(t, s.options())
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		runtime.Gosched()
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines more than before", runtime.NumGoroutine()-before+1)
}

func TestKeepAlivePings(t *testing.T) {
	var pings atomic.Int32
	count := func(w io.Writer, p packets.ControlPacket) bool {
		pings.Add(1)
		answer(w, p)
		return true
	}
	bubble(t, tls.VersionTLS13, hooks{packets.Pingreq: count}, func(t *testing.T, o session.Options) {
		c, err := session.Connect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		time.Sleep(10 * session.DefaultKeepAlive)
		if c.Err() != nil || pings.Load() < 10 {
			t.Errorf("after 10 keep-alive times: %d pings, error %v", pings.Load(), c.Err())
		}
	})
}

// A piecewise connection has no buffer: a write of some hundred bytes lasts as long as they take.
type piecewise struct{ net.Conn }

func (c piecewise) Write(p []byte) (n int, err error) {
	for piece := range slices.Chunk(p, 512) {
		time.Sleep(512 * time.Second / slowRate)
		written, err := c.Conn.Write(piece)
		if n += written; err != nil {
			return n, err
		}
	}
	return n, nil
}

const slowRate = 3 << 10 // bytes per second

// The greatest message takes 44 seconds, in either direction.
func TestSlowLinkCarriesTheGreatestMessage(t *testing.T) {
	echo := func(w io.Writer, p packets.ControlPacket) bool {
		answer(w, p)
		p.Write(w)
		return true
	}
	for name, tc := range map[string]struct {
		rate int
		wrap func(net.Conn) net.Conn
	}{
		"buffered":   {slowRate, func(c net.Conn) net.Conn { return c }},
		"unbuffered": {0, func(c net.Conn) net.Conn { return piecewise{c} }},
	} {
		t.Run(name, func(t *testing.T) {
			slowBubble(t, tls.VersionTLS13, tc.rate, hooks{packets.Publish: echo}, func(t *testing.T, o session.Options) {
				dial := o.DialContext
				o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					c, err := dial(ctx, network, address)
					return tc.wrap(c), err
				}
				received := make(chan session.Message, 1)
				o.OnMessage = func(m session.Message) { received <- m }
				c, err := session.Connect(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close(t.Context())
				for range 5 { // PINGREQ is due at another moment of each
					if err := c.Publish(t.Context(), "t", make([]byte, session.MaxPayload)); err != nil {
						t.Fatal(err)
					}
					select {
					case m := <-received:
						if len(m.Payload) != session.MaxPayload {
							t.Errorf("received %d bytes", len(m.Payload))
						}
					case <-c.Done():
						t.Fatal(c.Err())
					}
				}
			})
		})
	}
}

// Large messages that the server has kept take minutes, and answers come behind them.
func TestAnswerBehindLargeMessagesIsAwaited(t *testing.T) {
	behind := func(w io.Writer, p packets.ControlPacket) bool {
		for range 2 {
			stored := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
			stored.TopicName, stored.Payload = "stored", make([]byte, session.MaxPayload)
			stored.Write(w)
		}
		answer(w, p)
		return true
	}
	for name, tc := range map[string]struct {
		hooks hooks
		idle  time.Duration
	}{
		"PUBACK":                        {hooks{packets.Publish: behind}, 0},
		"PINGRESP of before and PUBACK": {hooks{packets.Publish: behind, packets.Pingreq: behind}, session.DefaultKeepAlive},
	} {
		t.Run(name, func(t *testing.T) {
			slowBubble(t, tls.VersionTLS13, slowRate, tc.hooks, func(t *testing.T, o session.Options) {
				o.AnswerTimeout = 30 * time.Second
				c, err := session.Connect(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close(t.Context())
				time.Sleep(tc.idle)
				if err := c.Publish(t.Context(), "t", []byte("x")); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A server that is there, and sends other messages, does not make up for an answer.
func TestAnswerThatDoesNotComeIsNotAwaited(t *testing.T) {
	others := func(w io.Writer, p packets.ControlPacket) bool {
		w.Write(publish("other", "x"))
		answer(w, p)
		return true
	}
	nothing := func(io.Writer, packets.ControlPacket) bool { return true }
	for _, size := range []int{1, session.MaxPayload} {
		bubble(t, tls.VersionTLS13, hooks{packets.Publish: nothing, packets.Pingreq: others}, func(t *testing.T, o session.Options) {
			o.AnswerTimeout = 30 * time.Second
			c, err := session.Connect(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			began := time.Now()
			err = c.Publish(t.Context(), "t", make([]byte, size))
			took, least := time.Since(began), o.AnswerTimeout+time.Duration(size)*time.Second/(2<<10)
			if !errors.Is(sessionError(t, err), context.DeadlineExceeded) || took < least || took > least+time.Second {
				t.Errorf("a message of %d bytes: %v after %v", size, err, took)
			}
			time.Sleep(2 * session.DefaultKeepAlive)
			if err := c.Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDeadLinkIsNoticed(t *testing.T) {
	for _, size := range []int{1, session.MaxPayload} {
		nothing := func(io.Writer, packets.ControlPacket) bool { return true }
		bubble(t, tls.VersionTLS13, hooks{packets.Publish: nothing, packets.Pingreq: nothing}, func(t *testing.T, o session.Options) {
			c, err := session.Connect(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			began := time.Now()
			err = c.Publish(t.Context(), "t", make([]byte, size))
			most := session.DefaultKeepAlive*9/10 + 20*time.Second + time.Duration(size)*time.Second/(2<<10)
			if took := time.Since(began); err == nil || took > most {
				t.Errorf("a message of %d bytes: %v after %v", size, err, took)
			}
		})
	}
}

func TestSessionOffersWhatAWSRequires(t *testing.T) {
	for name, tc := range map[string]struct {
		port int
		alpn []string
	}{
		"8883 without ALPN": {8883, nil},
		"443 with ALPN":     {443, []string{"x-amzn-mqtt-ca"}},
	} {
		t.Run(name, func(t *testing.T) {
			hello := make(chan *tls.ClientHelloInfo, 1)
			packet := make(chan *packets.ConnectPacket, 1)
			s := serve(t, func(c *tls.Config) {
				c.NextProtos = tc.alpn
				c.GetConfigForClient = func(i *tls.ClientHelloInfo) (*tls.Config, error) {
					hello <- i
					return nil, nil
				}
			}, broker(map[byte]func(io.Writer, packets.ControlPacket) bool{
				packets.Connect: func(w io.Writer, p packets.ControlPacket) bool {
					packet <- p.(*packets.ConnectPacket)
					answer(w, p)
					return true
				},
			}))
			o := s.options()
			o.Endpoint, o.Port = "iot.example.com", tc.port
			c := connect(t, o)
			h, p := <-hello, <-packet
			for _, suite := range h.CipherSuites {
				if strings.Contains(tls.CipherSuiteName(suite), "CBC") {
					t.Errorf("%s is offered", tls.CipherSuiteName(suite))
				}
			}
			if h.ServerName != "iot.example.com" {
				t.Errorf("SNI is %q", h.ServerName)
			}
			if diff := cmp.Diff(tc.alpn, h.SupportedProtos); diff != "" {
				t.Error(diff)
			}
			if p.ProtocolVersion != 4 || !p.CleanSession || p.ClientIdentifier != "device-1" || p.Keepalive != 60 {
				t.Errorf("CONNECT is %v", p)
			}
			if v := c.TLS().Version; v < tls.VersionTLS12 {
				t.Errorf("TLS version is %x", v)
			}
		})
	}
}

func TestIPv6AddressIsDialled(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6")
	}
	defer l.Close()
	c, err := session.Dial(t.Context(), session.Options{Endpoint: "::1", Port: l.Addr().(*net.TCPAddr).Port, Proxy: "direct"})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestStatsCountBytes(t *testing.T) {
	s := serve(t, nil, broker(nil))
	c := connect(t, s.options())
	before := c.Stats()
	if err := c.Publish(t.Context(), "t", bytes.Repeat([]byte("x"), 1000)); err != nil {
		t.Fatal(err)
	}
	after := c.Stats()
	if after.BytesOut-before.BytesOut < 1000 || after.BytesIn <= before.BytesIn {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if after.Dial <= 0 || after.Handshake <= 0 || after.Connect <= 0 {
		t.Errorf("times are missing: %+v", after)
	}
}

// sessionError finds the error that every call must return.
func sessionError(t testing.TB, err error) *session.Error {
	t.Helper()
	e, ok := errors.AsType[*session.Error](err)
	if !ok {
		t.Fatalf("got %#v, want a *session.Error", err)
	}
	if text := err.Error(); strings.Contains(text, "within") && strings.Contains(text, context.DeadlineExceeded.Error()) {
		t.Errorf("says it twice: %s", text)
	}
	return e
}

// A server that has kept the session says so in CONNACK, and may send what has come
// meanwhile at once.
func TestKeptSessionIsPresentAndItsMessagesCome(t *testing.T) {
	for name, keep := range map[string]bool{"kept": true, "clean": false} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil, broker(map[byte]func(io.Writer, packets.ControlPacket) bool{
				packets.Connect: func(w io.Writer, p packets.ControlPacket) bool {
					if clean := p.(*packets.ConnectPacket).CleanSession; clean == keep {
						t.Errorf("clean session: %t", clean)
					}
					if !keep {
						answer(w, p)
						return true
					}
					w.Write(append([]byte{packets.Connack << 4, 2, 1, 0}, publish("a", "while away")...))
					return true
				},
			}))
			o := s.options()
			o.KeepSession = keep
			messages := make(chan session.Message, 1)
			o.OnMessage = func(m session.Message) { messages <- m }
			c := connect(t, o)
			if c.Present() != keep {
				t.Errorf("session present: %t", c.Present())
			}
			if keep {
				if m := <-messages; string(m.Payload) != "while away" {
					t.Errorf("received %q", m.Payload)
				}
			}
		})
	}
}
