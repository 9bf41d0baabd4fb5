package localcore_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/registry"
)

// narrow allows little, so that the rest is denied.
const narrow = `{"Version":"2012-10-17","Statement":[
	{"Effect":"Allow","Action":"iot:Connect","Resource":"arn:aws:iot:us-east-1:123456789012:client/ok*"},
	{"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:us-east-1:123456789012:topic/ok*"},
	{"Effect":"Allow","Action":"iot:Subscribe","Resource":"arn:aws:iot:us-east-1:123456789012:topicfilter/ok*"},
	{"Effect":"Allow","Action":"iot:Receive","Resource":"arn:aws:iot:us-east-1:123456789012:topic/ok/heard"}]}`

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-policy-actions.html:
// CONNECT needs iot:Connect; MQTT 5 gets CONNACK 0x87.
func TestConnectThatNoPolicyAllows(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, narrow)
	t.Run("3.1.1 is closed in silence", func(t *testing.T) {
		c := dialRaw(t, s.Server, 4, s.tls)
		c.write([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x"))
		c.closed()
	})
	t.Run("5 gets 0x87", func(t *testing.T) {
		c, ack := connectRaw(t, s.Server, 5, "x", s.tls)
		if ack.ReasonCode != 0x87 {
			t.Errorf("CONNACK 0x%02x", ack.ReasonCode)
		}
		c.closed()
	})
	e := awaitRejection(t, s.Server, localcore.ActionConnect, "client/x")
	if e.CertificateID != s.id || e.ClientID != "x" || e.Address == "" {
		t.Errorf("the event is %+v", e)
	}
}

func TestConnackOnDenyCanBeChosen(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{AmbiguousBehavior: localcore.AmbiguousBehavior{ConnackOnDeny: 7}}, narrow)
	c, ack := connectRaw(t, s.Server, 4, "x", s.tls)
	if ack.ReasonCode != 7 {
		t.Errorf("CONNACK %d", ack.ReasonCode)
	}
	c.closed()
}

// https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html:
// the topic of a will needs iot:Publish.
func TestWillOnDeniedTopicRejectsTheConnect(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, narrow)
	_, ack := connectRaw(t, s.Server, 5, "ok", s.tls, func(pk *packets.Packet) {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, "forbidden", []byte("x")
	})
	if ack.ReasonCode != 0x87 {
		t.Errorf("CONNACK 0x%02x", ack.ReasonCode)
	}
	awaitRejection(t, s.Server, localcore.ActionConnect, "forbidden")
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-policy-actions.html:
// PUBLISH needs iot:Publish, and iot:RetainPublish if it is retained; MQTT 5 is answered with
// PUBACK 0x87.
func TestPublishThatNoPolicyAllows(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, narrow)
	t.Run("3.1.1 is closed without PUBACK", func(t *testing.T) {
		c := s.connect(t, 4, "ok4")
		c.publish("forbidden", 1, "x")
		c.closed()
		awaitDisconnect(t, s.Server, "ok4", "FORBIDDEN_ACCESS")
	})
	t.Run("5 gets PUBACK and DISCONNECT 0x87", func(t *testing.T) {
		c := s.connect(t, 5, "ok5")
		c.publish("forbidden", 1, "x")
		if got := c.receive(packets.Puback).ReasonCode; got != 0x87 {
			t.Errorf("PUBACK 0x%02x", got)
		}
		if got := c.receive(packets.Disconnect).ReasonCode; got != 0x87 {
			t.Errorf("DISCONNECT 0x%02x", got)
		}
		c.closed()
	})
	t.Run("retained needs RetainPublish too", func(t *testing.T) {
		c := s.connect(t, 5, "ok-retain")
		c.publish("ok", 1, "x", func(pk *packets.Packet) { pk.FixedHeader.Retain = true })
		if got := c.receive(packets.Puback).ReasonCode; got != 0x87 {
			t.Errorf("PUBACK 0x%02x", got)
		}
		awaitRejection(t, s.Server, localcore.ActionPublish, "RetainPublish")
	})
}

func TestMQTT5ConnectionCanStayOpenAfterADenial(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{AmbiguousBehavior: localcore.AmbiguousBehavior{KeepOpenOnDeny: true}}, narrow)
	c := s.connect(t, 5, "ok")
	c.publish("forbidden", 1, "x")
	c.receive(packets.Puback)
	c.subscribe(1, "forbidden", "ok")
	if got := fmt.Sprintf("%x", c.receive(packets.Suback).ReasonCodes); got != "8701" {
		t.Errorf("SUBACK %s", got)
	}
	c.alive()
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-policy-actions.html:
// SUBSCRIBE needs iot:Subscribe for each filter; MQTT 5 is answered with SUBACK 0x87.
func TestSubscribeThatNoPolicyAllows(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, narrow)
	t.Run("3.1.1 is closed without SUBACK", func(t *testing.T) {
		c := s.connect(t, 4, "ok4")
		c.subscribe(1, "ok", "forbidden")
		c.closed()
	})
	t.Run("5 gets SUBACK 0x87 for each filter", func(t *testing.T) {
		c := s.connect(t, 5, "ok5")
		c.subscribe(1, "ok", "forbidden")
		if got := fmt.Sprintf("%x", c.receive(packets.Suback).ReasonCodes); got != "0187" {
			t.Errorf("SUBACK %s", got)
		}
		c.receive(packets.Disconnect)
		c.closed()
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-policy-actions.html:
// a message is delivered only if iot:Receive is allowed.
func TestReceiveThatNoPolicyAllowsIsNotDelivered(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startWithPolicy(t, localcore.Config{}, narrow)
		c := s.connect(t, version, "ok")
		c.mustSubscribe(0, "ok/+")
		c.publish("ok/secret", 0, "x")
		c.publish("ok/heard", 0, "y")
		if got := string(c.receive(packets.Publish).Payload); got != "y" {
			t.Errorf("received %q", got)
		}
		awaitRejection(t, s.Server, localcore.ActionReceive, "ok/secret")
		c.alive()
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-policies.html: a
// change of a policy holds for connections that are open.
func TestPolicyChangeAppliesToOpenConnections(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, narrow)
	c := s.connect(t, 4, "ok")
	c.publish("ok", 1, "x")
	c.receive(packets.Puback)
	if err := s.Registry().DetachPolicy("own", registry.CertificateTarget(s.id)); err != nil {
		t.Fatal(err)
	}
	c.publish("ok", 1, "x")
	c.closed()
}

// https://docs.aws.amazon.com/iot/latest/developerguide/diagnosing-connectivity-issues.html:
// a client without a certificate that is registered and ACTIVE cannot connect.
func TestTLSRejectionsAreRecorded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		alter   func(t *testing.T, s free) *tls.Config
		explain string // in the reason; the status of the certificate
	}{
		"no certificate": {func(t *testing.T, s free) *tls.Config {
			c := s.tls.Clone()
			c.Certificates = nil
			return c
		}, ""},
		"unknown certificate": {func(t *testing.T, s free) *tls.Config {
			cert, key := selfSigned(t)
			return tlsConfig(t, s.Server, cert, key)
		}, ""},
		"inactive certificate": {func(t *testing.T, s free) *tls.Config {
			if err := s.Registry().UpdateCertificate(s.id, registry.Inactive); err != nil {
				t.Fatal(err)
			}
			return s.tls
		}, "INACTIVE"},
		"revoked certificate": {func(t *testing.T, s free) *tls.Config {
			if err := s.Registry().UpdateCertificate(s.id, registry.Revoked); err != nil {
				t.Fatal(err)
			}
			return s.tls
		}, "REVOKED"},
		"client with another root": {func(t *testing.T, s free) *tls.Config {
			c := s.tls.Clone()
			c.RootCAs = nil
			return c
		}, ""},
		"old TLS": {func(t *testing.T, s free) *tls.Config {
			c := s.tls.Clone()
			c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
			return c
		}, ""},
		"another ALPN protocol": {func(t *testing.T, s free) *tls.Config {
			c := s.tls.Clone()
			c.NextProtos = []string{"mqtt"}
			return c
		}, ""},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+" "+tls.VersionName(version), func(t *testing.T) {
				s := startFree(t, localcore.Config{})
				config := test.alter(t, s).Clone()
				if config.MaxVersion == 0 {
					config.MinVersion, config.MaxVersion = version, version
				}
				if err := handshake(t, s, config); err == nil {
					t.Error("the connection came about")
				}
				awaitRejection(t, s.Server, localcore.ActionTLS, test.explain)
			})
		}
	}
}

// handshake dials and reads once: in TLS 1.3 a client does not learn before that that its
// certificate was rejected.
func handshake(t *testing.T, s free, config *tls.Config) error {
	t.Helper()
	_, port := s.Endpoint()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

// https://docs.aws.amazon.com/iot/latest/developerguide/x509-client-certs.html:
// a certificate connects only while it is valid.
func TestExpiredCertificateIsRejected(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{Now: func() time.Time { return time.Now().Add(2 * time.Hour) }})
	if err := handshake(t, s, s.tls); err == nil {
		t.Error("the connection came about")
	}
	awaitRejection(t, s.Server, localcore.ActionTLS, "")
}

// An addressAsName names the server by its address, as mosquitto does where Go names none.
type addressAsName struct{ net.Conn }

func (c addressAsName) Write(p []byte) (int, error) {
	return c.Conn.Write(bytes.Replace(p, []byte("localhost"), []byte("127.0.0.1"), 1))
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-connect-devices.html:
// a client that names no server (SNI) is rejected.
func TestSNIIsRequired(t *testing.T) {
	t.Parallel()
	silent := func(s free) *tls.Config {
		c := s.tls.Clone()
		c.ServerName = "127.0.0.1" // no name: Go sends no SNI for an address
		return c
	}
	t.Run("by default", func(t *testing.T) {
		s := startFree(t, localcore.Config{})
		if err := handshake(t, s, silent(s)); err == nil {
			t.Error("the connection came about")
		}
		awaitRejection(t, s.Server, localcore.ActionTLS, "SNI")
	})
	t.Run("which an address is not", func(t *testing.T) {
		s := startFree(t, localcore.Config{})
		_, port := s.Endpoint()
		raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		if err := tls.Client(addressAsName{raw}, s.tls).Handshake(); err == nil {
			t.Error("the connection came about")
		}
		awaitRejection(t, s.Server, localcore.ActionTLS, "SNI")
	})
	// https://docs.aws.amazon.com/iot/latest/developerguide/diagnosing-connectivity-issues.html: the
	// right value is the endpoint's address. What another name gets is the server's certificate first.
	t.Run("and must be a name of the server", func(t *testing.T) {
		s := startFree(t, localcore.Config{})
		for _, name := range []string{"example.com", "a.b.iot.us-east-1.amazonaws.com", "localhost.example.com"} {
			c := s.tls.Clone()
			c.ServerName, c.InsecureSkipVerify = name, true
			if err := handshake(t, s, c); err == nil {
				t.Errorf("%s was accepted", name)
			}
		}
		awaitRejection(t, s.Server, localcore.ActionTLS, "SNI")
		for _, name := range []string{"LOCALHOST", "abc-ats.iot.us-east-1.amazonaws.com"} {
			c := s.tls.Clone()
			c.ServerName = name
			if _, ack := connectRaw(t, s.Server, 4, name, c); ack.ReasonCode != 0 {
				t.Errorf("%s: CONNACK %d", name, ack.ReasonCode)
			}
		}
	})
	t.Run("unless it is allowed to miss", func(t *testing.T) {
		s := startFree(t, localcore.Config{AmbiguousBehavior: localcore.AmbiguousBehavior{AllowMissingSNI: true}})
		_, ack := connectRaw(t, s.Server, 4, "a", silent(s))
		if ack.ReasonCode != 0 {
			t.Errorf("CONNACK %d", ack.ReasonCode)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html: port
// 443 requires the ALPN protocol x-amzn-mqtt-ca.
func TestALPN(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{ListenALPN: "127.0.0.1:0"})
	with := s.tls.Clone()
	with.NextProtos = []string{"x-amzn-mqtt-ca"}
	connectRaw(t, s.Server, 4, "first", with)

	address := fmt.Sprintf("127.0.0.1:%d", s.PortALPN())
	conn, err := tls.Dial("tcp", address, with)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != "x-amzn-mqtt-ca" {
		t.Errorf("negotiated %q", got)
	}
	conn.Close()
	if conn, err := tls.Dial("tcp", address, s.tls); err == nil {
		conn.Close()
		t.Error("the second port admits a client without ALPN")
	}
	awaitRejection(t, s.Server, localcore.ActionTLS, "x-amzn-mqtt-ca")
}

// https://docs.aws.amazon.com/iot/latest/developerguide/transport-security.html:
// TLS session tickets are not supported.
func TestNoSessionTickets(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	config := s.tls.Clone()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for range 2 {
		c, _ := connectRaw(t, s.Server, 4, "a", config)
		if c.conn.(*tls.Conn).ConnectionState().DidResume {
			t.Error("the session was resumed")
		}
	}
}

func TestGarbageInsteadOfConnectIsRejected(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	for name, data := range map[string]string{
		"a PUBLISH":           "\x30\x03\x00\x01t",
		"HTTP":                "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"MQTT 3.1":            "\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01x",
		"a cut CONNECT":       "\x10\x04\x00\x04MQ",
		"an endless length":   "\x10\xff\xff\xff\xff\xff",
		"an oversized packet": "\x10\xff\xff\xff\x7f",
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, s.Server, 4, s.tls)
			c.write([]byte(data))
			if pk, err := c.read(); err == nil && (pk.FixedHeader.Type != packets.Connack || pk.ReasonCode == 0) {
				t.Errorf("answered with a %s", packets.PacketNames[pk.FixedHeader.Type])
			}
		})
	}
	s.connect(t, 4, "still-served").alive()
}

func TestListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]localcore.Config{
		"devices": {Listen: "0.0.0.0:0"},
		"tools":   {API: ":0"},
		"ALPN":    {ListenALPN: "192.0.2.1:443"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := localcore.Start(t.Context(), c)
			if err == nil {
				s.Close()
				t.Fatal("it started")
			}
			if !errors.Is(err, localcore.ErrBeyondLoopback) {
				t.Error(err)
			}
		})
	}
}

func TestFaultsOfTheConfigurationComeInOneOrder(t *testing.T) {
	t.Parallel()
	c := localcore.Config{Listen: "a", ListenALPN: "b", API: "c", Functions: map[string]lambdahost.Config{"a b": {}, "c d": {}, "e f": {}}}
	_, want := localcore.Start(t.Context(), c)
	for range 30 {
		if _, err := localcore.Start(t.Context(), c); err == nil || err.Error() != want.Error() {
			t.Fatalf("%v, before %v", err, want)
		}
	}
}

func TestPortDoesNotMakeAnAddressLoopback(t *testing.T) {
	t.Parallel()
	s, err := localcore.Start(t.Context(), localcore.Config{Listen: "127.0.0.1:-1"})
	if err == nil {
		s.Close()
	}
	if err == nil || errors.Is(err, localcore.ErrBeyondLoopback) {
		t.Errorf("error: %v", err)
	}
}

func TestListensAnywhereWithTheUnsafeSetting(t *testing.T) {
	t.Parallel()
	start(t, localcore.Config{Listen: "0.0.0.0:0", UnsafeAllowAnyAddress: true})
}

func TestPortInUseIsOneClearLine(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = localcore.Start(t.Context(), localcore.Config{Listen: l.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error: %v", err)
	}
}
