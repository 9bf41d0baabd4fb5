package session_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

type hooks = map[byte]func(io.Writer, packets.ControlPacket) bool

// respond answers with the given bytes.
func respond(answer ...byte) func(io.Writer, packets.ControlPacket) bool {
	return func(w io.Writer, _ packets.ControlPacket) bool { w.Write(answer); return true }
}

func closeConn(io.Writer, packets.ControlPacket) bool { return false }

func TestConnackRejections(t *testing.T) {
	for name, tc := range map[string]struct {
		code byte
		want awsiot.Class
	}{
		"protocol version":          {1, awsiot.Denied},
		"client id":                 {2, awsiot.Denied},
		"server unavailable":        {3, awsiot.Temporary},
		"user name":                 {4, awsiot.Denied},
		"not authorized":            {5, awsiot.Denied},
		"not authorized, older AWS": {7, awsiot.Denied},
		"an undefined code":         {200, awsiot.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil, broker(hooks{packets.Connect: respond(0x20, 2, 0, tc.code)}))
			_, err := session.Connect(t.Context(), s.options())
			e := sessionError(t, err)
			rejection, ok := errors.AsType[*session.ConnackError](err)
			if !ok || rejection.Code != tc.code || e.Stage != session.StageConnect || e.Class() != tc.want {
				t.Errorf("got %v (%v, %v)", err, e.Stage, e.Class())
			}
		})
	}
}

func TestSilentCloseNamesTheUnansweredPacket(t *testing.T) {
	for name, tc := range map[string]struct {
		hooks hooks
		want  session.Error
	}{
		"CONNECT": {
			hooks{packets.Connect: closeConn},
			session.Error{Stage: session.StageConnect, After: "CONNECT"},
		},
		"SUBSCRIBE": {
			hooks{packets.Subscribe: closeConn},
			session.Error{Stage: session.StageSubscribe, After: "SUBSCRIBE"},
		},
		"PUBLISH": {
			hooks{packets.Publish: closeConn},
			session.Error{Stage: session.StagePublish, After: "PUBLISH"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil, broker(tc.hooks))
			err := converse(t, s.options())
			e := sessionError(t, err)
			if !errors.Is(err, session.ErrClosedSilently) || e.Stage != tc.want.Stage || e.After != tc.want.After || session.Unanswered(err) != tc.want.After || e.Class() != awsiot.Temporary {
				t.Errorf("got %v (stage %v, after %q, %v)", err, e.Stage, e.After, e.Class())
			}
		})
	}
}

// converse connects, subscribes and publishes, and returns the first error.
func converse(t *testing.T, o session.Options) error {
	t.Helper()
	s, err := session.Connect(t.Context(), o)
	if err != nil {
		return err
	}
	defer s.Close(t.Context())
	if err := s.Subscribe(t.Context(), "t/accepted", "t/rejected"); err != nil {
		return err
	}
	return s.Publish(t.Context(), "t", nil)
}

// A connection cut with RST is as silent as one closed with FIN.
func TestResetIsASilentClose(t *testing.T) {
	s := serve(t, nil, func(conn *tls.Conn) {
		if _, err := packets.ReadPacket(conn); err == nil {
			conn.NetConn().(*net.TCPConn).SetLinger(0)
		}
	})
	_, err := session.Connect(t.Context(), s.options())
	if e := sessionError(t, err); !errors.Is(err, session.ErrClosedSilently) || e.After != "CONNECT" {
		t.Errorf("got %v (after %q)", err, e.After)
	}
}

func TestLostSessionHasItsCause(t *testing.T) {
	lose := make(chan struct{})
	s := serve(t, nil, func(conn *tls.Conn) {
		if p, err := packets.ReadPacket(conn); err == nil {
			answer(conn, p)
		}
		<-lose
	})
	c := connect(t, s.options())
	if c.Err() != nil {
		t.Errorf("Err of a live session is %v", c.Err())
	}
	close(lose)
	<-c.Done()
	e := sessionError(t, c.Err())
	if e.Stage != session.StageLost || e.After != "" || session.Unanswered(e) != "" || !errors.Is(e, session.ErrClosedSilently) {
		t.Errorf("got %v (stage %v, after %q)", e, e.Stage, e.After)
	}
	if err := c.Publish(t.Context(), "t", nil); !errors.Is(err, e) {
		t.Errorf("a later Publish returns %v", err)
	}
}

func TestMissingPingrespEndsTheSession(t *testing.T) {
	bubble(t, tls.VersionTLS13, hooks{packets.Pingreq: respond()}, func(t *testing.T, o session.Options) {
		c, err := session.Connect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		began := time.Now()
		<-c.Done()
		if e := sessionError(t, c.Err()); e.Stage != session.StageLost || e.Class() != awsiot.Temporary {
			t.Errorf("got %v (%v, %v)", e, e.Stage, e.Class())
		}
		if took := time.Since(began); took > session.DefaultKeepAlive*3/2 {
			t.Errorf("took %v", took)
		}
	})
}

func TestRejectedFiltersAreNamed(t *testing.T) {
	s := serve(t, nil, broker(hooks{
		packets.Subscribe: func(w io.Writer, p packets.ControlPacket) bool {
			sub := p.(*packets.SubscribePacket)
			codes := make([]byte, len(sub.Topics))
			for i, topic := range sub.Topics {
				codes[i] = 1
				if topic == "bad" {
					codes[i] = 0x80
				}
			}
			w.Write(suback(sub.MessageID, codes...))
			return true
		},
	}))
	c := connect(t, s.options())
	err := c.Subscribe(t.Context(), "good", "bad", "fine")
	rejection, ok := errors.AsType[*session.SubackError](err)
	if !ok || len(rejection.Filters) != 1 || rejection.Filters[0] != "bad" || sessionError(t, err).Class() != awsiot.Temporary {
		t.Errorf("got %v", err)
	}
}

func TestProtocolErrorsDifferFromSilentCloses(t *testing.T) {
	for name, h := range map[string]hooks{
		"SUBACK with too many codes": {packets.Subscribe: respond(0x90, 9, 0, 1, 1, 1, 1, 1, 1, 1, 1)},
		"SUBACK with too few codes":  {packets.Subscribe: respond(0x90, 3, 0, 1, 1)},
		"SUBACK without a request":   {packets.Subscribe: respond(0x90, 4, 0, 9, 1, 1)},
		"SUBACK before CONNACK":      {packets.Connect: respond(0x90, 4, 0, 1, 1, 1)},
		"second CONNACK":             {packets.Publish: respond(connackAccepted...)},
		"empty CONNACK":              {packets.Connect: respond(0x20, 0)},
		"packet type 15":             {packets.Publish: respond(0xf0, 0)},
		"endless length":             {packets.Publish: respond(0x30, 0xff, 0xff, 0xff, 0xff, 0xff)},
		"packet of 200 MB":           {packets.Publish: respond(0x30, 0xff, 0xff, 0xff, 0x60)},
		"PUBLISH without a topic":    {packets.Publish: respond(0x30, 1, 0)},
		"PUBLISH at QoS 2":           {packets.Publish: respond(0x34, 5, 0, 1, 't', 0, 1)},
		"not MQTT at all":            {packets.Connect: respond([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")...)},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil, broker(h))
			err := converse(t, s.options())
			e := sessionError(t, err)
			if errors.Is(err, session.ErrClosedSilently) || !errors.Is(err, session.ErrProtocol) || e.Class() != awsiot.Temporary {
				t.Errorf("got %v (%v, %v)", err, e.Stage, e.Class())
			}
		})
	}
}

func TestMissingAnswersEndWithTheTimeLimit(t *testing.T) {
	bubble(t, tls.VersionTLS13, hooks{packets.Connect: respond()}, func(t *testing.T, o session.Options) {
		o.ConnectTimeout = 7 * time.Second
		began := time.Now()
		_, err := session.Connect(t.Context(), o)
		e := sessionError(t, err)
		if e.Stage != session.StageConnect || e.After != "CONNECT" || session.Unanswered(err) != "" || e.Class() != awsiot.Temporary || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v (%v, after %q, %v)", err, e.Stage, e.After, e.Class())
		}
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestCancelledConnectIsNoFailureOfTheServer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := serve(t, nil, broker(hooks{packets.Connect: func(io.Writer, packets.ControlPacket) bool { cancel(); return true }}))
	_, err := session.Connect(ctx, s.options())
	if e := sessionError(t, err); e.Class() != awsiot.Interrupted || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v (%v)", err, e.Class())
	}
}

// The alerts of a real server, and one that only rejects the
// certificate, in both versions: TLS 1.3 shows them after the handshake.
func TestServerAlertsAreReported(t *testing.T) {
	for version, id := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		for name, tc := range map[string]struct {
			server func(*tls.Config)
			client func(*authority, *session.Options)
			alert  tls.AlertError
		}{
			"certificate of another CA": {
				client: func(_ *authority, o *session.Options) { o.Certificate = newAuthority(t).clientCertificate() },
				alert:  48,
			},
			"certificate that expired": {
				client: func(ca *authority, o *session.Options) {
					c := ca.issue(func(c *x509.Certificate) { c.NotAfter = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) })
					o.Certificate = func(context.Context) (*tls.Certificate, error) { return &c, nil }
				},
				alert: 45,
			},
			"certificate that AWS does not know": {
				server: func(c *tls.Config) {
					c.VerifyConnection = func(tls.ConnectionState) error { return errors.New("unknown") }
				},
				alert: 42,
			},
		} {
			t.Run(version+"/"+name, func(t *testing.T) {
				s := serve(t, func(c *tls.Config) {
					c.MaxVersion = id
					if tc.server != nil {
						tc.server(c)
					}
				}, broker(nil))
				o := s.options()
				if tc.client != nil {
					tc.client(s.ca, &o)
				}
				_, err := session.Connect(t.Context(), o)
				e := sessionError(t, err)
				alert, ok := errors.AsType[tls.AlertError](err)
				if !ok || alert != tc.alert || e.Class() != awsiot.Denied || errors.Is(err, session.ErrClosedSilently) {
					t.Errorf("got %v (%v, %v)", err, e.Stage, e.Class())
				}
			})
		}
	}
}

// A captive portal, a server that was set up anew, a clock that is not set yet:
// all of them pass.
func TestServerCertificateFaultsAreTemporary(t *testing.T) {
	expired := func(c *x509.Certificate) { c.NotAfter = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) }
	for name, tc := range map[string]struct {
		certificate func(*x509.Certificate)
		client      func(*session.Options)
		found       func(error) bool
	}{
		"unknown CA": {
			client: func(o *session.Options) { o.RootCAs = x509.NewCertPool() },
			found:  is[x509.UnknownAuthorityError],
		},
		"another name": {
			certificate: func(c *x509.Certificate) { c.DNSNames = []string{"elsewhere"} },
			found:       is[x509.HostnameError],
		},
		"expired": {
			certificate: expired,
			found:       is[*awsiot.ValidityError],
		},
		"clock is 1970": {
			client: func(o *session.Options) { o.Now = func() time.Time { return time.Unix(60, 0) } },
			found: func(err error) bool {
				e, ok := errors.AsType[*awsiot.ValidityError](err)
				return ok && e.NotYetValid() && e.Now.Equal(time.Unix(60, 0))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil, broker(nil))
			s.config.Certificates = []tls.Certificate{s.ca.issue(tc.certificate)}
			o := s.options()
			if tc.client != nil {
				tc.client(&o)
			}
			_, err := session.Connect(t.Context(), o)
			e := sessionError(t, err)
			if !tc.found(err) || e.Stage != session.StageTLS || e.Class() != awsiot.Temporary || e.Authenticated {
				t.Errorf("got %v (%v, %v)", err, e.Stage, e.Class())
			}
		})
	}
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// Anything on the way may send these: they are no answer of AWS IoT.
func TestWhatComesBeforeTheServerAuthenticatesIsTemporary(t *testing.T) {
	for name, answer := range map[string]string{
		"a web server":                "HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n",
		"a mail server":               "220 mail ESMTP\r\n",
		"alert: unknown CA":           "\x15\x03\x03\x00\x02\x02\x30",
		"alert: bad certificate":      "\x15\x03\x03\x00\x02\x02\x2a",
		"alert: access denied":        "\x15\x03\x03\x00\x02\x02\x31",
		"alert: handshake failure":    "\x15\x03\x03\x00\x02\x02\x28",
		"alert: protocol version":     "\x15\x03\x03\x00\x02\x02\x46",
		"CONNACK without TLS":         "\x20\x02\x00\x05",
		"closed without a byte":       "",
		"half a record, then no more": "\x16\x03\x03\x00\x7a\x02",
		"an unassigned alert":         "\x15\x03\x03\x00\x02\x02\xee",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, nil, nil)
			l := listen(t, func(c net.Conn) { c.Read(make([]byte, 5000)); io.WriteString(c, answer) })
			_, err := session.Connect(t.Context(), s.optionsTo(l))
			if e := sessionError(t, err); e.Stage != session.StageTLS || e.Class() != awsiot.Temporary || e.Authenticated {
				t.Errorf("got %v (%v, %v, authenticated %v)", err, e.Stage, e.Class(), e.Authenticated)
			}
		})
	}
}

func TestServerWithOldTLSOnly(t *testing.T) {
	s := serve(t, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, broker(nil))
	_, err := session.Connect(t.Context(), s.options())
	if e := sessionError(t, err); e.Stage != session.StageTLS || e.Class() != awsiot.Temporary {
		t.Errorf("got %v (%v, %v)", err, e.Stage, e.Class())
	}
}

// middlebox forwards connections to the server whose ClientHello fits into one
// segment; reject handles the others.
func middlebox(t *testing.T, s *server, reject func(net.Conn)) net.Listener {
	return listen(t, func(c net.Conn) {
		hello := make([]byte, 5000)
		n, _ := c.Read(hello)
		if n > 1400 {
			reject(c)
			return
		}
		up, err := net.Dial("tcp", s.listener.Addr().String())
		if err != nil {
			return
		}
		up.Write(hello[:n])
		go func() { io.Copy(c, up); c.Close() }()
		io.Copy(up, c)
		up.Close()
	})
}

func TestHandshakeFallsBackToASmallClientHello(t *testing.T) {
	for name, reject := range map[string]func(net.Conn){
		"reset":   func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) },
		"closed":  func(net.Conn) {},
		"dropped": func(c net.Conn) { io.Copy(io.Discard, c) },
		"alert":   func(c net.Conn) { io.WriteString(c, "\x15\x03\x03\x00\x02\x02\x2f") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, nil, broker(nil))
			o := s.optionsTo(middlebox(t, s, reject))
			o.ConnectTimeout = 900 * time.Millisecond
			c := connect(t, o)
			if c.TLS().CurveID == tls.X25519MLKEM768 {
				t.Error("the session uses ML-KEM")
			}
		})
	}
	t.Run("not when the caller chose", func(t *testing.T) {
		s := serve(t, nil, broker(nil))
		o := s.optionsTo(middlebox(t, s, func(net.Conn) {}))
		o.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
		if _, err := session.Connect(t.Context(), o); !errors.Is(err, session.ErrNoServerHello) {
			t.Errorf("got %v", err)
		}
	})
}

func TestUnsuitableEndpointsAreNamed(t *testing.T) {
	for endpoint, want := range map[string]string{
		"192.0.2.7:8883": "SNI", "[2001:db8::7]:8883": "SNI",
		"c1.credentials.iot.eu-west-1.amazonaws.com:8883": "credentials",
		"iot.eu-west-1.amazonaws.com:8883":                "control plane",
		"abc-ats.iot.eu-west-1.amazonaws.com:8883":        "",
		"localhost:8883": "",
	} {
		text := (&session.Error{Stage: session.StageTLS, Endpoint: endpoint, Err: io.EOF}).Error()
		if plain := "negotiating TLS with " + endpoint + ": EOF"; !strings.Contains(text, want) || (want == "") != (text == plain) {
			t.Errorf("%s: %s", endpoint, text)
		}
	}
}

// What the server or the proxy chose must not forge a line of the log or steer
// a terminal.
func TestErrorsAreOnePrintableLine(t *testing.T) {
	const forged = "x\n\x1b[31m\u009b\u202eerror: all is well"
	for name, err := range map[string]error{
		"proxy":       &session.Error{Stage: session.StageProxy, Err: &session.ProxyError{StatusCode: 407, Status: forged, Schemes: []string{forged}}},
		"certificate": &session.Error{Stage: session.StageTLS, Err: x509.HostnameError{Host: "a", Certificate: &x509.Certificate{DNSNames: []string{forged}}}},
	} {
		if text := err.Error(); strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func TestNetworkFaults(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	resolving := func(e net.DNSError) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &e}
		}
	}
	for name, tc := range map[string]struct {
		dial  func(context.Context, string, string) (net.Conn, error)
		stage session.Stage
		class awsiot.Class
		is    error
	}{
		"no such name":       {resolving(net.DNSError{Err: "no such host", IsNotFound: true}), session.StageResolve, awsiot.Temporary, nil},
		"resolver is silent": {resolving(net.DNSError{Err: "i/o timeout", IsTimeout: true}), session.StageResolve, awsiot.Temporary, nil},
		"connection refused": {func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, dead.Addr().String())
		}, session.StageDial, awsiot.Temporary, syscall.ECONNREFUSED},
		"no answer": {func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done() // as far away as the time limit
			return nil, ctx.Err()
		}, session.StageDial, awsiot.Temporary, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil, nil)
			o := s.options()
			o.DialContext = tc.dial
			if errors.Is(tc.is, context.DeadlineExceeded) {
				o.ConnectTimeout = 20 * time.Millisecond
			}
			_, err := session.Connect(t.Context(), o)
			e := sessionError(t, err)
			if e.Stage != tc.stage || e.Class() != tc.class || (tc.is != nil && !errors.Is(err, tc.is)) {
				t.Errorf("got %v (%v, %v)", err, e.Stage, e.Class())
			}
		})
	}
}

// The dialer has a timer of its own for the context's deadline.
func TestDialThatTimesOutWithItsContextHasTheContextsCause(t *testing.T) {
	o := serve(t, nil, nil).options()
	reason := errors.New("gave up")
	o.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		deadline, _ := ctx.Deadline()
		for time.Now().Before(deadline) {
			runtime.Gosched()
		}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, reason)
	defer cancel()
	if _, err := session.Connect(ctx, o); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
}

func TestCertificateThatCannotBeHad(t *testing.T) {
	s := serve(t, nil, broker(nil))
	o := s.options()
	broken := errors.New("token is locked")
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return nil, broken }
	_, err := session.Connect(t.Context(), o)
	if e := sessionError(t, err); !errors.Is(err, broken) || e.Class() != awsiot.Failed {
		t.Errorf("got %v (%v)", err, e.Class())
	}
}

func TestOptionsThatCannotBeUsed(t *testing.T) {
	for name, change := range map[string]func(*session.Options){
		"no endpoint":       func(o *session.Options) { o.Endpoint = "" },
		"port out of range": func(o *session.Options) { o.Port = 70000 },
		"no client id":      func(o *session.Options) { o.ClientID = "" },
		"long client id":    func(o *session.Options) { o.ClientID = strings.Repeat("x", 129) },
		"SOCKS proxy":       func(o *session.Options) { o.Proxy = "socks5://user:secret@proxy:1080" },
		"proxy not a URL":   func(o *session.Options) { o.Proxy = "http://user:secret@[" },
		"empty scheme":      func(o *session.Options) { o.Proxy = "://user:secret@proxy" },
		"slash in password": func(o *session.Options) { o.Proxy = "http://user:1secret/1@proxy:3128" },
		"mark in password":  func(o *session.Options) { o.Proxy = "user:1?secret@proxy:3128" },
		"port of the proxy": func(o *session.Options) { o.Proxy = "http://user:secret@proxy:99999" },
		"user as scheme":    func(o *session.Options) { o.Proxy = "user:secret://proxy:3128" },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, nil, broker(nil))
			o := s.options()
			change(&o)
			_, err := session.Connect(t.Context(), o)
			if e := sessionError(t, err); e.Class() != awsiot.Misconfigured || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v (%v)", err, e.Class())
			}
		})
	}
}

// proxy is an HTTP proxy that leads every tunnel to one address. It answers
// 407 to all but user "dev" with password "pass word".
func proxy(t *testing.T, status int, to string) net.Listener {
	credentials := "Basic " + base64.StdEncoding.EncodeToString([]byte("dev:pass word"))
	return listen(t, func(c net.Conn) { tunnel(c, status, credentials, to, "iot.example.com:443") })
}

// tunnel answers one CONNECT for an address with the status, and leads a
// tunnel that it grants to another.
func tunnel(c net.Conn, status int, credentials, to, wanted string) {
	r := bufio.NewReader(c)
	request, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	if request.Header.Get("Proxy-Authorization") != credentials {
		status = http.StatusProxyAuthRequired
	}
	if status/100 != 2 || request.Method != http.MethodConnect || request.Host != wanted {
		answer := http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}}
		if status == http.StatusProxyAuthRequired {
			answer.Header["Proxy-Authenticate"] = []string{"Negotiate", "NTLM"}
		}
		answer.Write(c)
		return
	}
	fmt.Fprintf(c, "HTTP/1.1 %d Connection established\r\n\r\n", status)
	up, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	done := make(chan struct{})
	go func() { defer close(done); io.Copy(c, up); c.Close() }()
	io.Copy(up, r)
	up.Close()
	<-done
}

func TestSessionThroughProxy(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		user   string
		stage  session.Stage
	}{
		"with credentials":    {200, "http://dev:pass%20word@", ""},
		"without a scheme":    {200, "dev:pass%20word@", ""},
		"any 2xx":             {202, "http://dev:pass%20word@", ""},
		"without credentials": {200, "http://", session.StageProxy},
		"forbidden":           {403, "http://dev:pass%20word@", session.StageProxy},
		"overloaded":          {503, "http://dev:pass%20word@", session.StageProxy},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(c *tls.Config) { c.NextProtos = []string{session.ALPNProtocol} }, broker(nil))
			p := proxy(t, tc.status, s.listener.Addr().String())
			o := s.options()
			o.Endpoint, o.Port, o.DialContext = "iot.example.com", 443, nil
			o.Proxy = tc.user + p.Addr().String()
			c, err := session.Connect(t.Context(), o)
			if tc.stage == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := c.Stats(); got.Proxy != 1 || got.RoundTrips() != 4 {
					t.Errorf("stats are %+v", got)
				}
				c.Close(t.Context())
				return
			}
			e := sessionError(t, err)
			if e.Stage != tc.stage || e.Class() != awsiot.Temporary || strings.Contains(err.Error(), "pass") {
				t.Errorf("got %v (%v, %v)", err, e.Stage, e.Class())
			}
			if tc.user == "http://" {
				if rejection, ok := errors.AsType[*session.ProxyError](err); !ok || rejection.StatusCode != 407 || !slices.Equal(rejection.Schemes, []string{"Negotiate", "NTLM"}) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

func TestDeadProxyIsNamed(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	o := serve(t, nil, nil).options()
	o.DialContext, o.Proxy = nil, "http://user:secret@"+dead.Addr().String()
	_, err = session.Connect(t.Context(), o)
	e := sessionError(t, err)
	if e.Stage != session.StageProxy || e.Address != dead.Addr().String() || e.Class() != awsiot.Temporary || !errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v (%v at %s, %v)", err, e.Stage, e.Address, e.Class())
	}
}

func TestSilentProxyIsTemporary(t *testing.T) {
	for name, tc := range map[string]struct {
		handle func(net.Conn)
		is     error
	}{
		"waits":  {func(c net.Conn) { io.Copy(io.Discard, c) }, context.DeadlineExceeded},
		"closes": {func(c net.Conn) { c.Read(make([]byte, 1000)) }, session.ErrClosedSilently},
	} {
		t.Run(name, func(t *testing.T) {
			o := serve(t, nil, nil).options()
			o.DialContext = nil
			if errors.Is(tc.is, context.DeadlineExceeded) {
				o.ConnectTimeout = 100 * time.Millisecond
			}
			o.Proxy = "http://" + listen(t, tc.handle).Addr().String()
			_, err := session.Connect(t.Context(), o)
			e := sessionError(t, err)
			if e.Stage != session.StageProxy || e.Class() != awsiot.Temporary || !errors.Is(err, tc.is) {
				t.Errorf("got %v (%v, %v)", err, e.Stage, e.Class())
			}
		})
	}
}

// A proxy that is itself reached over TLS is verified with the system's roots.
func TestSessionThroughTLSProxy(t *testing.T) {
	ca := proxyAuthority(t)
	s := serve(t, nil, broker(nil))
	certificate := ca.issue(nil)
	l := listen(t, func(c net.Conn) {
		secure := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{certificate}})
		tunnel(secure, 200, "", s.listener.Addr().String(), "iot.example.com:8883")
	})
	o := s.options()
	o.Endpoint, o.Port, o.DialContext = "iot.example.com", 8883, nil
	o.Proxy = "https://localhost:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	c := connect(t, o)
	if got := c.Stats(); got.Proxy != 2 || got.RoundTrips() != 5 {
		t.Errorf("stats are %+v", got)
	}
}

// proxyAuthority stands for the system's roots, which a process reads once.
var systemRoots struct {
	sync.Once
	ca *authority
}

func proxyAuthority(t *testing.T) *authority {
	t.Helper()
	systemRoots.Do(func() {
		systemRoots.ca = newAuthority(t)
		path := filepath.Join(t.TempDir(), "roots.pem")
		data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: systemRoots.ca.cert.Raw})
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("SSL_CERT_FILE", path)
		if _, err := x509.SystemCertPool(); err != nil {
			t.Fatal(err)
		}
	})
	return systemRoots.ca
}

// The environment is read once: no other test may connect without an option.
func TestProxyComesFromTheEnvironment(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://proxy.example:3128")
	t.Setenv("NO_PROXY", "inside.example")
	for endpoint, want := range map[string]string{
		"iot.example.com": "http://proxy.example:3128",
		"inside.example":  "<nil>",
		"localhost":       "<nil>",
	} {
		u, err := session.Options{Endpoint: endpoint}.ProxyURL()
		if err != nil {
			t.Fatal(err)
		}
		got := "<nil>"
		if u != nil {
			got = u.String()
		}
		if got != want {
			t.Errorf("%s goes through %s, want %s", endpoint, got, want)
		}
	}
}

// The MQTT client has loggers of its own; nothing of it may be seen.
func TestNothingIsPrinted(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	stdout, stderr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = out, out
	defer func() { os.Stdout, os.Stderr = stdout, stderr }()

	s := serve(t, nil, broker(hooks{packets.Publish: closeConn}))
	if err := converse(t, s.options()); err == nil {
		t.Error("no error")
	}
	if info, err := out.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%d bytes were printed (%v)", info.Size(), err)
	}
}
