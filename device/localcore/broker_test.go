package localcore_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// free is a server with a certificate whose policy allows everything, so that only the broker's own
// rules show.
type free struct {
	*localcore.Server
	tls *tls.Config
	id  string // of the certificate
}

func startFree(t *testing.T, c localcore.Config) free {
	t.Helper()
	return startWithPolicy(t, c, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`)
}

// startWithPolicy starts a server with a certificate under this policy.
func startWithPolicy(t *testing.T, c localcore.Config, document string) free {
	t.Helper()
	s := start(t, c)
	cert, key := selfSigned(t)
	stored, err := s.Registry().CreateCertificate(registry.Certificate{PEM: string(cert), Status: registry.Active})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Registry().CreatePolicy("own", document); err != nil {
		t.Fatal(err)
	}
	if err := s.Registry().AttachPolicy("own", registry.CertificateTarget(stored.ID)); err != nil {
		t.Fatal(err)
	}
	return free{s, tlsConfig(t, s, cert, key), stored.ID}
}

// selfSigned makes a certificate of no authority: AWS IoT registers such ones too, and they are
// quickly made.
func selfSigned(t *testing.T) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

func (f free) connect(t *testing.T, version byte, id string, adjust ...func(*packets.Packet)) *rawClient {
	t.Helper()
	c, ack := connectRaw(t, f.Server, version, id, f.tls, adjust...)
	if ack.ReasonCode != 0 {
		t.Fatalf("CONNACK 0x%02x", ack.ReasonCode)
	}
	return c
}

// versions runs a test for both versions of MQTT.
func versions(t *testing.T, f func(t *testing.T, version byte)) {
	t.Run("3.1.1", func(t *testing.T) { t.Parallel(); f(t, 4) })
	t.Run("5", func(t *testing.T) { t.Parallel(); f(t, 5) })
}

func rejection(action localcore.Action, part string) func(localcore.Event) bool {
	return func(e localcore.Event) bool {
		return e.Type == localcore.Rejected && e.Action == action && strings.Contains(e.Reason, part)
	}
}

func awaitRejection(t *testing.T, s *localcore.Server, action localcore.Action, part string) localcore.Event {
	t.Helper()
	e, err := s.AwaitEvent(within(t), rejection(action, part))
	if err != nil {
		t.Fatalf("no %s was rejected because of %q: %v", action, part, err)
	}
	return e
}

func awaitDisconnect(t *testing.T, s *localcore.Server, client, reason string) {
	t.Helper()
	if _, err := s.AwaitEvent(within(t), func(e localcore.Event) bool {
		return e.Type == localcore.Disconnected && e.ClientID == client && e.Reason == reason
	}); err != nil {
		t.Fatalf("%s was not disconnected with %s: %v", client, reason, err)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: QoS 2 gets
// no PUBACK and no SUBACK in MQTT 3.1.1, and ends a connection of MQTT 5 with 0x9B.
func TestQoS2IsNotSupported(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	t.Run("3.1.1 publish gets no answer", func(t *testing.T) {
		c := s.connect(t, 4, "a")
		c.publish("t", 2, "x")
		c.alive()
	})
	t.Run("3.1.1 subscribe gets no answer", func(t *testing.T) {
		c := s.connect(t, 4, "b")
		c.subscribe(2, "t")
		c.alive()
	})
	t.Run("5 publish", func(t *testing.T) {
		c := s.connect(t, 5, "c")
		c.publish("t", 2, "x")
		if got := c.receive(packets.Disconnect).ReasonCode; got != 0x9B {
			t.Errorf("DISCONNECT 0x%02x", got)
		}
		c.closed()
	})
	t.Run("5 subscribe", func(t *testing.T) {
		c := s.connect(t, 5, "d")
		c.subscribe(2, "t")
		if got := c.receive(packets.Disconnect).ReasonCode; got != 0x9B {
			t.Errorf("DISCONNECT 0x%02x", got)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: PUBREC,
// PUBREL, PUBCOMP and AUTH are not supported.
func TestPubrecClosesTheConnection(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 4, "a")
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pubrec}, PacketID: 1})
	c.closed()
	awaitDisconnect(t, s.Server, "a", "CLIENT_ERROR")
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: the filter
// sensor/# does not match the topic sensor.
func TestMultiLevelWildcardDoesNotMatchItsParent(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		c := s.connect(t, version, "a")
		c.mustSubscribe(0, "sensor/#", "+/b/#")
		c.publish("sensor", 0, "parent")
		c.publish("a/b", 0, "parent")
		c.publish("sensor/1", 0, "child")
		if got := string(c.receive(packets.Publish).Payload); got != "child" {
			t.Errorf("received %q", got)
		}
		if more := c.settled(); len(more) > 0 {
			t.Errorf("received %q besides", more[0].Payload)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a retained
// message comes on subscribing with its exact topic, never for a wildcard.
func TestRetainedMessagesComeForExactFiltersOnly(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		p := s.connect(t, version, "publisher")
		p.publish("a/b", 1, "kept", func(pk *packets.Packet) { pk.FixedHeader.Retain = true })
		p.receive(packets.Puback)
		c := s.connect(t, version, "c")
		c.mustSubscribe(1, "a/+")
		c.alive()
		c.mustSubscribe(1, "a/b")
		m := c.receive(packets.Publish)
		if string(m.Payload) != "kept" || !m.FixedHeader.Retain || m.FixedHeader.Qos != 1 {
			t.Errorf("received %q, retain %v, QoS %d", m.Payload, m.FixedHeader.Retain, m.FixedHeader.Qos)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a reserved
// topic takes no retained message.
func TestReservedTopicsTakeNoRetainedMessages(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 5, "a")
	c.publish("$aws/things/a/shadow/update", 0, "{}", func(pk *packets.Packet) { pk.FixedHeader.Retain = true })
	if got := c.receive(packets.Disconnect).ReasonCode; got != 0x90 {
		t.Errorf("DISCONNECT 0x%02x", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: of two
// connections under one client id the newer wins, and the older is dropped.
func TestDuplicateClientIDTakesOver(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		older := s.connect(t, version, "a")
		newer := s.connect(t, version, "a")
		if version == 5 {
			if got := older.receive(packets.Disconnect).ReasonCode; got != 0x8E {
				t.Errorf("DISCONNECT 0x%02x", got)
			}
		}
		older.closed()
		newer.alive()
		awaitDisconnect(t, s.Server, "a", "DUPLICATE_CLIENTID")
		newer.mustSubscribe(0, "t")
		newer.publish("t", 0, "x")
		newer.receive(packets.Publish)
	})
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a keep-alive of
// 0 or more than 1200 seconds becomes 1200, one of less than 30 becomes 30.
func TestKeepAliveIsClamped(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	for name, test := range map[string]struct{ asked, granted uint16 }{
		"none":      {0, 1200},
		"too short": {5, 30},
		"in range":  {60, 60},
		"too long":  {2000, 1200},
	} {
		t.Run(name, func(t *testing.T) {
			_, ack := connectRaw(t, s.Server, 5, "a", s.tls, func(pk *packets.Packet) { pk.Connect.Keepalive = test.asked })
			if got := ack.Properties.ServerKeepAlive; got != test.granted {
				t.Errorf("granted %d, want %d", got, test.granted)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: CONNACK of
// MQTT 5 advertises QoS 1 at most, no subscription identifiers, 8 topic aliases, packets of 146 KB
// and the expiry that is granted.
func TestConnackAdvertisesAWSFeatures(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	_, ack := connectRaw(t, s.Server, 5, "a", s.tls, func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 1e6, true
	})
	type offer struct {
		QoS, Retain, Wildcard, SubscriptionID byte
		Aliases                               uint16
		SessionExpiry, PacketSize             uint32
	}
	p := ack.Properties
	got := offer{p.MaximumQos, p.RetainAvailable, p.WildcardSubAvailable, p.SubIDAvailable, p.TopicAliasMaximum, p.SessionExpiryInterval, p.MaximumPacketSize}
	if diff := cmp.Diff(offer{1, 1, 1, 0, 8, 3600, 146 * 1024}, got); diff != "" {
		t.Error(diff)
	}
	if !p.SubIDAvailableFlag || !p.RetainAvailableFlag || !p.WildcardSubAvailableFlag {
		t.Error("an availability is left out")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: an MQTT 5
// client that brings no client id is assigned one.
func TestEmptyClientID(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	t.Run("3.1.1 is rejected", func(t *testing.T) {
		c, ack := connectRaw(t, s.Server, 4, "", s.tls)
		if ack.ReasonCode != 2 {
			t.Errorf("CONNACK %d", ack.ReasonCode)
		}
		c.closed()
	})
	t.Run("5 is assigned one", func(t *testing.T) {
		c, ack := connectRaw(t, s.Server, 5, "", s.tls)
		if ack.ReasonCode != 0 || ack.Properties.AssignedClientID == "" {
			t.Errorf("CONNACK 0x%02x, assigned %q", ack.ReasonCode, ack.Properties.AssignedClientID)
		}
		c.alive()
	})
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a client id has
// 128 bytes at most.
func TestClientIDHas128BytesAtMost(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		s.connect(t, version, strings.Repeat("x", 128)).alive()
		c, ack := connectRaw(t, s.Server, version, strings.Repeat("x", 129), s.tls)
		if want := map[byte]byte{4: 2, 5: 0x85}[version]; ack.ReasonCode != want {
			t.Errorf("CONNACK 0x%02x, want 0x%02x", ack.ReasonCode, want)
		}
		c.closed()
	})
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a topic has 256
// bytes and 7 slashes at most, those of $aws/rules/NAME/ not counted, and a payload 128 KB.
func TestPublishLimits(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	for name, test := range map[string]struct {
		topic   string
		payload int
		code    byte // of PUBACK and DISCONNECT; 0 is accepted
	}{
		"longest topic":         {strings.Repeat("t", 256), 1, 0},
		"too long topic":        {strings.Repeat("t", 257), 1, 0x90},
		"seven slashes":         {"a/b/c/d/e/f/g/h", 1, 0},
		"eight slashes":         {"a/b/c/d/e/f/g/h/i", 1, 0x90},
		"ten slashes in a rule": {"$aws/rules/r/a/b/c/d/e/f/g/h", 1, 0},
		"eleven in a rule":      {"$aws/rules/r/a/b/c/d/e/f/g/h/i", 1, 0x90},
		"longest for a rule":    {"$aws/rules/r/" + strings.Repeat("t", 256), 1, 0},
		"too long for a rule":   {"$aws/rules/r/" + strings.Repeat("t", 257), 1, 0x90},
		"largest payload":       {"t", 128 << 10, 0},
		"too large payload":     {"t", 128<<10 + 1, 0x97},
		"unknown reserved":      {"$aws/unheard/of", 1, 0x90},
		"other reserved":        {"$own", 1, 0x90},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.connect(t, 5, "c-"+strings.ReplaceAll(name, " ", "-"))
			c.publish(test.topic, 1, strings.Repeat("x", test.payload))
			if test.code == 0 {
				if got := c.receive(packets.Puback).ReasonCode; got != 0 {
					t.Errorf("PUBACK 0x%02x", got)
				}
				return
			}
			for _, kind := range []byte{packets.Puback, packets.Disconnect} {
				if got := c.receive(kind).ReasonCode; got != test.code {
					t.Errorf("%s 0x%02x, want 0x%02x", packets.PacketNames[kind], got, test.code)
				}
			}
			c.closed()
		})
	}
}

// https://docs.aws.amazon.com/general/latest/gr/iot-core.html: a SUBSCRIBE has
// 8 filters and a connection 50 subscriptions at most; SUBACK 0x80 or 0x97 answers what is beyond.
func TestSubscriptionLimits(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		c := s.connect(t, version, "a")
		over := map[byte]byte{4: 0x80, 5: 0x97}[version]
		nine := strings.Split("a b c d e f g h i", " ")
		c.subscribe(0, nine...)
		if got, want := c.receive(packets.Suback).ReasonCodes, []byte(strings.Repeat(string([]byte{over}), 9)); !cmp.Equal(got, want) {
			t.Errorf("SUBACK of nine filters: %x", got)
		}
		for i := range 49 {
			c.mustSubscribe(0, "t"+string(rune('A'+i)))
		}
		c.subscribe(0, "last", "last") // is one
		if got := c.receive(packets.Suback).ReasonCodes; !cmp.Equal(got, []byte{0, 0}) {
			t.Errorf("SUBACK of the 50th, named twice: %x", got)
		}
		c.subscribe(0, "one-more", "tA")
		if got := c.receive(packets.Suback).ReasonCodes; !cmp.Equal(got, []byte{over, 0}) {
			t.Errorf("SUBACK of the 51st and of a known one: %x", got)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/cwl-format.html: one
// SUBACK can grant a filter and reject another with 0x8F.
func TestFiltersAreAuthorizedOneByOne(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 5, "a")
	c.subscribe(1, "good", "bad#", "b/+x", "$own/x", strings.Repeat("t", 257), "$aws/rules/r/#", "$share/g/$aws/rules/r")
	if got := c.receive(packets.Suback).ReasonCodes; !cmp.Equal(got, []byte{1, 0x8F, 0x8F, 0x8F, 0x8F, 0x8F, 0x8F}) {
		t.Errorf("SUBACK %x", got)
	}
	c.alive()
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a persistent
// session keeps subscriptions and messages of QoS 1 while its client is away, and CONNACK says that
// it is present.
func TestPersistentSessionKeepsSubscriptionsAndMessages(t *testing.T) {
	t.Parallel()
	persistent := func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 60, true
	}
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		c, ack := connectRaw(t, s.Server, version, "a", s.tls, persistent)
		if ack.SessionPresent {
			t.Error("a new session is called present")
		}
		c.mustSubscribe(1, "t")
		c.conn.Close()
		awaitDisconnect(t, s.Server, "a", "CONNECTION_LOST")
		p := s.connect(t, version, "p")
		p.publish("t", 1, "while away")
		p.receive(packets.Puback)
		p.alive() // fan-out follows the PUBACK
		c, ack = connectRaw(t, s.Server, version, "a", s.tls, persistent)
		if !ack.SessionPresent {
			t.Error("the session was lost")
		}
		m := c.receive(packets.Publish)
		if string(m.Payload) != "while away" || m.FixedHeader.Dup {
			t.Errorf("received %q, DUP %v", m.Payload, m.FixedHeader.Dup)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a session of
// one version of MQTT cannot be resumed with the other.
func TestSessionOfOtherVersionIsNotResumed(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 4, "a", func(pk *packets.Packet) { pk.Connect.Clean = false })
	c.mustSubscribe(1, "t")
	c.conn.Close()
	awaitDisconnect(t, s.Server, "a", "CONNECTION_LOST")
	_, ack := connectRaw(t, s.Server, 5, "a", s.tls, func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 60, true
	})
	if ack.SessionPresent {
		t.Error("a session of MQTT 3.1.1 was resumed with 5")
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html:
// a will is sent, but not after a client's own DISCONNECT.
func TestWillIsSentUnlessTheClientDisconnects(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		watcher := s.connect(t, version, "watcher")
		watcher.mustSubscribe(0, "will")
		will := func(text string) func(*packets.Packet) {
			return func(pk *packets.Packet) {
				pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, "will", []byte(text)
			}
		}
		polite := s.connect(t, version, "polite", will("polite"))
		polite.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
		polite.closed()
		awaitDisconnect(t, s.Server, "polite", "CLIENT_INITIATED_DISCONNECT")
		s.connect(t, version, "rude", will("rude")).conn.Close()
		if got := string(watcher.receive(packets.Publish).Payload); got != "rude" {
			t.Errorf("received the will %q", got)
		}
		if version == 5 {
			for _, disconnect := range []string{"\xe0\x01\x04", "\xe0\x02\x04\x00", "\xe0\x01\x80", "\xe0\x01\x82", "\xe0\x02\x99\x00"} { // with will message, and the codes of failures
				s.connect(t, version, "asks", will("asked for")).write([]byte(disconnect))
				if got := string(watcher.receive(packets.Publish).Payload); got != "asked for" {
					t.Errorf("received the will %q", got)
				}
			}
		}
		s.connect(t, version, "twice", will("taken over"))
		s.connect(t, version, "twice")
		if got := string(watcher.receive(packets.Publish).Payload); got != "taken over" {
			t.Errorf("received the will %q", got)
		}
	})
}

// https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html:
// connecting, disconnecting, subscribing and unsubscribing are published under $aws/events/.
func TestLifecycleEvents(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	watcher := mustDial(t, s.Server, "watcher", s.tls)
	if token := watcher.Subscribe("$aws/events/#", 1, nil); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	watcher.next(t) // its own subscription
	c := s.connect(t, 4, "a")
	c.mustSubscribe(0, "t")
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 3, Filters: packets.Subscriptions{{Filter: "t"}}})
	c.receive(packets.Unsuback)
	c.conn.Close()

	events := map[string]map[string]any{}
	for range 4 {
		m := watcher.next(t)
		var e map[string]any
		if err := json.Unmarshal(m.Payload(), &e); err != nil {
			t.Fatal(err)
		}
		if e["clientId"] != "a" || e["principalIdentifier"] != s.id || e["timestamp"] == nil || e["sessionIdentifier"] == "" {
			t.Errorf("%s: %s", m.Topic(), m.Payload())
		}
		events[m.Topic()] = e
	}
	for topic, want := range map[string]map[string]any{
		"$aws/events/presence/connected/a":         {"eventType": "connected", "ipAddress": "127.0.0.1"},
		"$aws/events/subscriptions/subscribed/a":   {"eventType": "subscribed", "topics": []any{"t"}},
		"$aws/events/subscriptions/unsubscribed/a": {"eventType": "unsubscribed", "topics": []any{"t"}},
		"$aws/events/presence/disconnected/a":      {"eventType": "disconnected", "disconnectReason": "CONNECTION_LOST", "clientInitiatedDisconnect": false},
	} {
		for key, value := range want {
			if !cmp.Equal(events[topic][key], value) {
				t.Errorf("%s: %s is %v, want %v", topic, key, events[topic][key], value)
			}
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html:
// a second CONNECT ends the connection with CLIENT_ERROR.
func TestSecondConnectClosesTheConnection(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		c := s.connect(t, version, "a")
		pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}}
		pk.Connect.ProtocolName, pk.Connect.ClientIdentifier, pk.Connect.Clean = []byte("MQTT"), "a", true
		c.send(pk)
		if version == 5 {
			c.receive(packets.Disconnect)
		}
		c.closed()
		awaitDisconnect(t, s.Server, "a", "CLIENT_ERROR")
	})
}

func TestTopicAliasIsResolvedBeforeAuthorization(t *testing.T) {
	t.Parallel()
	s := startWithPolicy(t, localcore.Config{}, `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":["iot:Connect","iot:Subscribe","iot:Receive"],"Resource":"*"},
		{"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:us-east-1:123456789012:topic/mine"}]}`)
	c := s.connect(t, 5, "a")
	c.mustSubscribe(0, "mine")
	alias := func(pk *packets.Packet) { pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 1, true }
	c.publish("mine", 0, "first", alias)
	c.receive(packets.Publish)
	c.publish("", 0, "second", alias)
	if m := c.receive(packets.Publish); m.TopicName != "mine" || string(m.Payload) != "second" {
		t.Errorf("received %q on %q", m.Payload, m.TopicName)
	}
}

func TestInboundPacketIDDoesNotEraseAnUnacknowledgedDelivery(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	persistent := func(pk *packets.Packet) { pk.Connect.Clean = false }
	c := s.connect(t, 4, "a", persistent)
	c.mustSubscribe(1, "t")
	p := s.connect(t, 4, "p")
	p.publish("t", 1, "keep")
	p.receive(packets.Puback)
	delivered := c.receive(packets.Publish)
	c.publish("other", 1, "x", func(pk *packets.Packet) { pk.PacketID = delivered.PacketID })
	c.receive(packets.Puback)
	c.conn.Close()
	awaitDisconnect(t, s.Server, "a", "CONNECTION_LOST")
	again := s.connect(t, 4, "a", persistent)
	if got := string(again.receive(packets.Publish).Payload); got != "keep" {
		t.Errorf("received %q again", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_UpdateCertificate.html:
// a certificate that leaves ACTIVE disconnects who uses it.
func TestDeactivatedCertificateDisconnectsItsClients(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		c := s.connect(t, version, "a")
		if err := s.Registry().UpdateCertificate(s.id, registry.Inactive); err != nil {
			t.Fatal(err)
		}
		if version == 5 {
			c.receive(packets.Disconnect)
		}
		c.closed()
		awaitDisconnect(t, s.Server, "a", "AUTH_ERROR")
	})
}

func TestPahoOrdersItsMessages(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	d := mustDial(t, s.Server, "a", s.tls, func(o *paho.ClientOptions) { o.SetOrderMatters(true) })
	if token := d.Subscribe("t", 1, nil); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	for _, text := range []string{"1", "2", "3"} {
		if err := d.publish(t, "t", 1, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"1", "2", "3"} {
		if got := string(d.next(t).Payload()); got != want {
			t.Errorf("received %s, want %s", got, want)
		}
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html:
// a packet that cannot be read ends the connection with CLIENT_ERROR.
func TestMalformedPacketEndsTheConnection(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		c := s.connect(t, version, "a")
		c.write([]byte("\x30\x02\x00\x09")) // a topic that is longer than its packet
		if version == 5 {
			c.receive(packets.Disconnect)
		}
		c.closed()
		awaitRejection(t, s.Server, localcore.ActionPacket, "")
		awaitDisconnect(t, s.Server, "a", "CLIENT_ERROR")
	})
}

func TestWillMayBeEmpty(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, version byte) {
		s := startFree(t, localcore.Config{})
		watcher := s.connect(t, version, "watcher")
		watcher.mustSubscribe(0, "will")
		s.connect(t, version, "a", func(pk *packets.Packet) {
			pk.Connect.WillFlag, pk.Connect.WillTopic = true, "will"
		}).conn.Close()
		if m := watcher.receive(packets.Publish); m.TopicName != "will" || len(m.Payload) != 0 {
			t.Errorf("received %x on %s", m.Payload, m.TopicName)
		}
	})
}

func TestDisconnectAfterDeactivationCanBeDelayed(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{AmbiguousBehavior: localcore.AmbiguousBehavior{DisconnectDelay: time.Hour}})
	c := s.connect(t, 4, "a")
	if err := s.Registry().UpdateCertificate(s.id, registry.Inactive); err != nil {
		t.Fatal(err)
	}
	c.alive()
	if err := handshake(t, s, s.tls); err == nil {
		t.Error("a new connection came about")
	}
	awaitRejection(t, s.Server, localcore.ActionTLS, "INACTIVE")
	c.alive()
}
