package session_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"

	"example.com/fleety/device/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An authority issues the certificates of one test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	a.cert = a.sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "Test Root"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
		NotBefore:             time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC),
	}, &a.key.PublicKey)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(c *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	parent := a.cert
	if parent == nil {
		parent = c
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// issue returns a certificate for localhost, valid for a year around 2026.
func (a *authority) issue(change func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	c := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		DNSNames:    []string{"localhost", "iot.example.com"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:    time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if change != nil {
		change(c)
	}
	key := newKey(a.t)
	return tls.Certificate{Certificate: [][]byte{a.sign(c, &key.PublicKey).Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// A server is one literal peer: what it does with a connection is a function.
type server struct {
	ca       *authority
	config   *tls.Config
	listener net.Listener
}

// serve runs handle for every connection that a client makes.
func serve(t testing.TB, change func(*tls.Config), handle func(*tls.Conn)) *server {
	t.Helper()
	ca := newAuthority(t)
	s := &server{ca: ca, config: ca.serverConfig()}
	if change != nil {
		change(s.config)
	}
	s.listener = listen(t, func(conn net.Conn) { handle(tls.Server(conn, s.config)) })
	return s
}

func (a *authority) serverConfig() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{a.issue(nil)},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    a.pool(),
	}
}

// listen accepts connections until the test ends, and closes each when its
// handler returns.
func listen(t testing.TB, handle func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l
}

// optionsTo are those of options, by way of l.
func (s *server) optionsTo(l net.Listener) session.Options {
	o := s.options()
	o.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
	}
	return o
}

// options connect to the server with a certificate that it accepts.
func (s *server) options() session.Options {
	return session.Options{
		Endpoint:       "localhost",
		Port:           s.listener.Addr().(*net.TCPAddr).Port,
		ClientID:       "device-1",
		RootCAs:        s.ca.pool(),
		Certificate:    s.ca.clientCertificate(),
		Proxy:          "direct",
		ConnectTimeout: 5 * time.Second,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.listener.Addr().String())
		},
	}
}

func (a *authority) clientCertificate() func(context.Context) (*tls.Certificate, error) {
	c := a.issue(nil)
	return func(context.Context) (*tls.Certificate, error) { return &c, nil }
}

// Answers of a server, byte by byte.
var (
	connackAccepted = []byte{0x20, 2, 0, 0}
	pingresp        = []byte{0xd0, 0}
)

// broker answers every packet as MQTT requires until the client disconnects.
// A hook, by packet type, takes the place of the answer; it ends the
// connection by returning false. What MQTT forbids a client panics.
func broker(hooks map[byte]func(io.Writer, packets.ControlPacket) bool) func(*tls.Conn) {
	return func(conn *tls.Conn) {
		for first := true; ; first = false {
			packet, err := packets.ReadPacket(conn)
			if err != nil {
				return
			}
			if _, connect := packet.(*packets.ConnectPacket); connect != first {
				panic(fmt.Sprintf("%T, first packet: %v", packet, first)) // MQTT 3.1.1, section 3.1
			}
			if d := packet.Details(); d.Qos > 0 && d.MessageID == 0 {
				panic(fmt.Sprintf("%T without a packet identifier", packet)) // section 2.3.1
			}
			if hook := hooks[kind(packet)]; hook != nil {
				if !hook(conn, packet) {
					conn.CloseWrite()
					return
				}
				continue
			}
			answer(conn, packet)
		}
	}
}

func kind(p packets.ControlPacket) byte {
	switch p.(type) {
	case *packets.ConnectPacket:
		return packets.Connect
	case *packets.SubscribePacket:
		return packets.Subscribe
	case *packets.PublishPacket:
		return packets.Publish
	case *packets.PubackPacket:
		return packets.Puback
	case *packets.PingreqPacket:
		return packets.Pingreq
	}
	return 0
}

func answer(w io.Writer, packet packets.ControlPacket) {
	switch p := packet.(type) {
	case *packets.ConnectPacket:
		w.Write(connackAccepted)
	case *packets.SubscribePacket:
		w.Write(suback(p.MessageID, p.Qoss...))
	case *packets.PublishPacket:
		w.Write(puback(p.MessageID))
	case *packets.PingreqPacket:
		w.Write(pingresp)
	}
}

func suback(id uint16, codes ...byte) []byte {
	return append([]byte{0x90, byte(2 + len(codes)), byte(id >> 8), byte(id)}, codes...)
}

func puback(id uint16) []byte { return []byte{0x40, 2, byte(id >> 8), byte(id)} }

// publish is a PUBLISH at QoS 1 with packet id 7.
func publish(topic, payload string) []byte {
	body := append([]byte{0, byte(len(topic))}, topic...)
	body = append(append(body, 0, 7), payload...)
	return append([]byte{0x32, byte(len(body))}, body...)
}

// connect opens a session that lasts until the test ends.
func connect(t testing.TB, o session.Options) *session.Session {
	t.Helper()
	s, err := session.Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}
