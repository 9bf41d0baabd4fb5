package broker

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/event"
)

func FuzzPacketsOfOneClientHurtNoOther(f *testing.F) {
	for _, seed := range []string{
		"\xc0\x00", "\x30\x03\x00\x01t", "\x82\x06\x00\x01\x00\x01t\x00", "\xe0\x00", "\x10\x00",
		"\x32\x0a\x00\x03a/b\x00\x01\x00hi", "\xa2\x05\x00\x01\x00\x01t", "\x40\x02\x00\x01", "\xf0\x00", "\x62\x02\x00\x01",
		"\x31\x05\x00\x01t\x00x", "\x82\x0c\x00\x01\x00\x00\x07$share/\x01", "\x30\x80\x80\x80\x01",
	} {
		f.Add([]byte(seed), byte(4))
		f.Add([]byte(seed), byte(5))
	}
	f.Fuzz(func(t *testing.T, data []byte, version byte) {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, Config{Log: slog.New(panicIsAnError{slog.DiscardHandler, t})})
			other := b.connect(4+version%2, "other")
			fuzz := b.connect(4+version%2, "fuzz")
			go io.Copy(io.Discard, fuzz.reader)
			_, _ = fuzz.conn.Write(data) // the broker may close before the end
			synctest.Wait()
			other.ping()
			fuzz.conn.Close()
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	})
}

// panicIsAnError fails the test when the broker logs an error.
type panicIsAnError struct {
	slog.Handler
	t *testing.T
}

func (h panicIsAnError) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelError
}

func (h panicIsAnError) Handle(_ context.Context, r slog.Record) error {
	h.t.Error(r.Message)
	return nil
}

// What MQTT calls malformed or a protocol error ends the connection; with MQTT 5
// DISCONNECT has the code, and PUBACK only one of those that AWS uses there.
// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
func TestPacketThatMQTTForbidsEndsTheConnection(t *testing.T) {
	for name, test := range map[string]struct {
		v4, v5 string // what is sent; empty where the version has no such thing
		code   byte   // of DISCONNECT
	}{
		"length in more bytes than needed [MQTT-1.5.5-1]": {"\xc0\x80\x00", "\xc0\x80\x00", 0x81},
		"length of five bytes":                            {"\x30\xff\xff\xff\xff\x01", "\x30\xff\xff\xff\xff\x01", 0x81},
		"PINGREQ with a body":                             {"\xc0\x01x", "\xc0\x01x", 0x81},
		"DISCONNECT of 3.1.1 with a body":                 {"\xe0\x01\x00", "", 0},
		"wildcard in a topic":                             {"\x32\x07\x00\x03a/+\x00\x07", "\x32\x08\x00\x03a/+\x00\x07\x00", 0x82},
		"U+0000 in a topic":                               {"\x32\x06\x00\x02a\x00\x00\x07", "\x32\x07\x00\x02a\x00\x00\x07\x00", 0x81},
		"surrogate in a topic":                            {"\x32\x07\x00\x03\xed\xa0\x80\x00\x07", "\x32\x08\x00\x03\xed\xa0\x80\x00\x07\x00", 0x81},
		"packet id 0":                                     {"\x32\x05\x00\x01a\x00\x00", "\x32\x06\x00\x01a\x00\x00\x00", 0x82},
		"wildcard in a response topic [MQTT-3.3.2-14]":    {"", "\x32\x0b\x00\x01a\x00\x07\x05\x08\x00\x02r#", 0x82},
		"Payload Format Indicator 2":                      {"", "\x32\x08\x00\x01a\x00\x07\x02\x01\x02", 0x82},
		"Topic Alias over the maximum":                    {"", "\x32\x09\x00\x01a\x00\x07\x03\x23\x00\x09", 0x94},
		"Retain Handling 3":                               {"", "\x82\x07\x00\x09\x00\x00\x01a\x30", 0x82},
		"PUBACK with more than its id":                    {"\x40\x03\x00\x09\x00", "", 0},
		"reserved bits of a subscription [MQTT-3.8.3-5]":  {"", "\x82\x0b\x00\x09\x00\x00\x01a\x00\x00\x01b\x40", 0x81},
		"Subscription Identifier 0":                       {"", "\x82\x09\x00\x09\x02\x0b\x00\x00\x01a\x00", 0xA1},
		"Topic Alias twice":                               {"", "\x30\x0a\x00\x01a\x06\x23\x00\x01\x23\x00\x02", 0x82},
		"Content Type twice":                              {"", "\x30\x0a\x00\x01a\x06\x03\x00\x00\x03\x00\x00", 0x82},
		"Session Expiry Interval twice in DISCONNECT":     {"", "\xe0\x0c\x00\x0a\x11\x00\x00\x00\x00\x11\x00\x00\x00\x00", 0x82},
		"Reason String twice in PUBACK":                   {"", "\x40\x0a\x00\x09\x00\x06\x1f\x00\x00\x1f\x00\x00", 0x82},
		"Topic Alias that ends after the properties":      {"", "\x30\x08\x00\x01a\x02\x23\x00\x01x", 0x81},
		"User Property that ends after the properties":    {"", "\x82\x0d\x00\x09\x03\x26\x00\x00\x00\x02ab\x00\x00\x00", 0x81},
		"properties after the end of UNSUBSCRIBE":         {"", "\xa2\x06\x00\x09\x09\x26\x00\x00", 0x81},
		"long form of the length of properties":           {"", "\x30\x05\x00\x01a\x80\x00", 0x81},
		"length of properties over 32 bits":               {"", "\x30\x08\x00\x01a\x80\x80\x80\x80\x10", 0x81},
		"bytes after the properties of PUBACK":            {"", "\x40\x05\x00\x09\x00\x00x", 0x81},
		"reason code of PUBACK that is none":              {"", "\x40\x03\x00\x09\x55", 0x82},
		"reason code of DISCONNECT that is the server's":  {"", "\xe0\x01\x8e", 0x82},
		"reason code of DISCONNECT that is none":          {"", "\xe0\x02\x55\x00", 0x82},
		"bytes after the properties of DISCONNECT":        {"", "\xe0\x03\x00\x00x", 0x81},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, func(b *bubble, version byte) {
				data := map[byte]string{4: test.v4, 5: test.v5}[version]
				if data == "" {
					return
				}
				p := b.connect(version, "a")
				go func() { _, _ = p.conn.Write([]byte(data)) }() // the broker may close before the end
				if version == 5 {
					if got := p.receive(packets.Disconnect).ReasonCode; got != test.code {
						b.Errorf("DISCONNECT 0x%02x, want 0x%02x", got, test.code)
					}
				}
				p.closed()
				if !b.disconnected("a", "CLIENT_ERROR") {
					b.Error("the reason is not CLIENT_ERROR")
				}
			})
		})
	}
}

func TestConnectThatMQTTForbidsIsRejected(t *testing.T) {
	for name, test := range map[string]struct {
		version byte
		adjust  func(*packets.Packet)
		raw     string // properties in place of those of adjust
		code    byte   // of CONNACK
	}{
		"password without user name [MQTT-3.1.2-22]": {version: 4, adjust: func(pk *packets.Packet) {
			pk.Connect.PasswordFlag, pk.Connect.Password = true, []byte("x")
		}},
		"user name that is not UTF-8 [MQTT-3.1.3-11]": {version: 4, adjust: func(pk *packets.Packet) {
			pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte("\xff")
		}},
		"U+0000 in a user name [MQTT-1.5.4-2]": {version: 5, code: 0x80, adjust: func(pk *packets.Packet) {
			pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte("a\x00")
		}},
		"QoS of a will without a will [MQTT-3.1.2-13]": {version: 4, adjust: func(pk *packets.Packet) { pk.Connect.WillQos = 1 }},
		"will to a reserved topic": {version: 4, adjust: func(pk *packets.Packet) { // as mosquitto's bridge, by default
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload, pk.Connect.WillRetain = true, "$SYS/broker/connection/a/state", []byte("0"), true
		}},
		"Receive Maximum 0":             {version: 5, code: 0x80, raw: "\x21\x00\x00"},
		"Request Problem Information 2": {version: 5, code: 0x80, raw: "\x17\x02"},
		"Maximum Packet Size 0":         {version: 5, code: 0x80, raw: "\x27\x00\x00\x00\x00"},
		"Authentication Method":         {version: 5, code: 0x80, raw: "\x15\x00\x01x"},
		"will whose content type is too long": {version: 5, code: 0x97, adjust: func(pk *packets.Packet) {
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, "w", []byte("0")
			pk.Connect.WillProperties.ContentType = strings.Repeat("x", maxContentType+1)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, func(b *bubble, version byte) {
				if version != test.version {
					return
				}
				p := b.dial(version)
				if test.raw != "" {
					body := "\x00\x04MQTT\x05\x02\x00\x3c" + string(rune(len(test.raw))) + test.raw + "\x00\x01a"
					if _, err := p.conn.Write([]byte("\x10" + string(rune(len(body))) + body)); err != nil {
						b.Fatal(err)
					}
				} else {
					pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}}
					pk.Connect.ProtocolName, pk.Connect.ClientIdentifier, pk.Connect.Clean = []byte("MQTT"), "a", true
					test.adjust(&pk)
					p.send(pk)
				}
				if version == 5 {
					if got := p.receive(packets.Connack).ReasonCode; got != test.code {
						b.Errorf("CONNACK 0x%02x, want 0x%02x", got, test.code)
					}
				}
				p.closed()
				if !b.recorded(func(e event.Event) bool {
					return e.Type == event.Rejected && e.Action == event.Connect && e.ClientID == "a"
				}) {
					b.Error("the rejection was not recorded")
				}
			})
		})
	}
}

// A CONNECT that is malformed is not answered: MQTT leaves it open [MQTT-3.1.4-1].
func TestMalformedCONNECTIsNotAnswered(t *testing.T) {
	const will = "\x00\x01w\x00\x01x"
	for name, test := range map[string]struct{ level, flags, rest string }{
		"bytes after the client id":                      {"\x04", "\x02", "\x00\x01ax"},
		"bytes after the will":                           {"\x04", "\x06", "\x00\x01a" + will + "x"},
		"user name without its flag":                     {"\x04", "\x02", "\x00\x01a\x00\x01u"},
		"bytes after the user name":                      {"\x04", "\x82", "\x00\x01a\x00\x01ux"},
		"no user name":                                   {"\x04", "\x82", "\x00\x01a"},
		"bytes after the password":                       {"\x04", "\xc2", "\x00\x01a\x00\x01u\x00\x01px"},
		"bytes after the client id of MQTT 5":            {"\x05", "\x02", "\x00\x00\x01ax"},
		"bytes after everything of MQTT 5":               {"\x05", "\xc6", "\x00\x00\x01a\x00" + will + "\x00\x01u\x00\x01px"},
		"Receive Maximum twice":                          {"\x05", "\x02", "\x06\x21\x00\x01\x21\x00\x01\x00\x01a"},
		"value that ends after the properties":           {"\x05", "\x02", "\x02\x21\x00\x01a"},
		"Will Delay Interval twice":                      {"\x05", "\x06", "\x00\x00\x01a\x0a\x18\x00\x00\x00\x00\x18\x00\x00\x00\x00" + will},
		"value that ends after the properties of a will": {"\x05", "\x06", "\x00\x00\x01a\x02\x03\x00\x01w\x00\x01x"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, Config{})
				p := b.dial(5)
				body := "\x00\x04MQTT" + test.level + test.flags + "\x00\x3c" + test.rest
				go func() { _, _ = p.conn.Write([]byte("\x10" + string(rune(len(body))) + body)) }()
				p.closed()
				if !b.recorded(func(e event.Event) bool { return e.Type == event.Rejected && e.Action == event.Connect }) {
					b.Error("the rejection was not recorded")
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Both may be of zero length [MQTT-3.1.3-11], as those that paho sends for "".
func TestUserNameAndPasswordMayBeEmpty(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		b.connect(version, "a", func(pk *packets.Packet) { pk.Connect.UsernameFlag, pk.Connect.PasswordFlag = true, true }).ping()
	})
}

// A client that asks for no problem information still gets the User Properties
// of a PUBLISH [MQTT-3.1.2-29], and the time that a message has left in full.
func TestPropertiesOfAMessageReachItsSubscribers(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		if version != 5 {
			return
		}
		p := b.connect(5, "a", func(pk *packets.Packet) {
			pk.Properties.RequestProblemInfo, pk.Properties.RequestProblemInfoFlag = 0, true
		})
		p.subscribe(0, "t")
		b.Publish(&Message{
			Topic: "t", UTF8: true, ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte("c"),
			UserProperties: []UserProperty{{Key: "k", Val: "v"}, {Key: "k", Val: "w"}}, Expiry: 10 * time.Second,
		})
		got := p.receive(packets.Publish).Properties
		if len(got.User) != 2 || got.User[1].Val != "w" || got.PayloadFormat != 1 || got.ContentType != "text/plain" ||
			got.ResponseTopic != "r" || string(got.CorrelationData) != "c" || got.MessageExpiryInterval != 10 {
			b.Errorf("received %+v", got)
		}
	})
}

func TestExpiryCountsTheWholeSecondsThatAMessageWaited(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		if version != 5 {
			return
		}
		p := b.connect(5, "a", persistent(60))
		p.subscribe(1, "t")
		p.conn.Close()
		if !b.disconnected("a", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		b.Publish(&Message{Topic: "t", QoS: 1, Expiry: 10 * time.Second})
		time.Sleep(2500 * time.Millisecond)
		p = b.connect(5, "a", persistent(60))
		if got := p.receive(packets.Publish).Properties.MessageExpiryInterval; got != 8 {
			b.Errorf("%d seconds are left, want 8", got)
		}
	})
}

// What cannot be stored, as on a full disk, is not acknowledged, and what was retained stays.
func TestMessageThatCannotBeRetainedIsNotAcknowledged(t *testing.T) {
	for _, version := range []byte{4, 5} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, Config{State: filepath.Join(t.TempDir(), "broker.db")})
			if err := b.Publish(&Message{Topic: "t", Payload: []byte("first"), Retain: true}); err != nil {
				t.Fatal(err)
			}
			b.store.file.Close()
			if err := b.Publish(&Message{Topic: "t", Payload: []byte("second"), Retain: true}); err == nil {
				t.Error("no error")
			}
			p := b.connect(version, "a")
			p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Retain: true}, PacketID: 1, TopicName: "t"})
			if version == 5 {
				if got := p.receive(packets.Puback).ReasonCode; got != 0x97 {
					t.Errorf("PUBACK 0x%02x", got)
				}
				p.receive(packets.Disconnect)
			}
			p.closed()
			if m, ok := b.Retained("t"); !ok || string(m.Payload) != "first" {
				t.Errorf("retained %+v", m)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// So are sessions, subscriptions and messages for persistent sessions that cannot be stored: they
// would be gone after a restart. Who has no such session is not concerned.
func TestWhatCannotBeStoredIsNotAcknowledged(t *testing.T) {
	for _, version := range []byte{4, 5} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, Config{State: filepath.Join(t.TempDir(), "broker.db")})
			present, away := b.connect(version, "present", persistent(60)), b.connect(version, "away", persistent(60))
			present.subscribe(1, "a")
			away.subscribe(1, "b")
			away.conn.Close()
			if !b.disconnected("away", "CONNECTION_LOST") {
				t.Fatal("still connected")
			}
			clean := b.connect(version, "clean")
			clean.subscribe(1, "c")
			b.store.file.Close()
			for _, topic := range []string{"a", "b"} {
				p := b.connect(version, "publisher")
				p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1, TopicName: topic})
				if version == 5 {
					if got := p.receive(packets.Puback).ReasonCode; got != 0x97 {
						t.Errorf("%s: PUBACK 0x%02x", topic, got)
					}
					p.receive(packets.Disconnect)
				}
				p.closed()
				if !b.disconnected("publisher", "SERVER_ERROR") {
					t.Errorf("%s: the connection ended otherwise", topic)
				}
			}
			present.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 9, Filters: packets.Subscriptions{{Filter: "d"}}})
			if version == 5 {
				present.receive(packets.Disconnect)
			}
			present.closed()
			if !b.disconnected("present", "SERVER_ERROR") {
				t.Error("the subscriber's connection ended otherwise")
			}
			p := b.dial(version)
			connect := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}}
			connect.Connect.ProtocolName, connect.Connect.ClientIdentifier, connect.Connect.Keepalive = []byte("MQTT"), "new", 60
			persistent(60)(&connect)
			p.send(connect)
			if version == 5 {
				if got := p.receive(packets.Connack).ReasonCode; got != 0x80 {
					t.Errorf("CONNACK 0x%02x", got)
				}
			}
			p.closed()
			b.connect(version, "publisher").publish("c", "x")
			if got := clean.receive(packets.Publish); string(got.Payload) != "x" {
				t.Errorf("received %q", got.Payload)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A listener that fails until the third call, as one does without file descriptors.
type failingListener struct {
	net.Listener
	calls int
	conns chan net.Conn
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.calls++; l.calls < 3 {
		return nil, syscall.EMFILE
	}
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *failingListener) Close() error { close(l.conns); return nil }

func TestListenerOutlivesAFailureToAccept(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, _ byte) {
		l := &failingListener{conns: make(chan net.Conn)}
		b.listeners = append(b.listeners, &listener{l, new(tls.Config)})
		b.Serve(b.Context())
		ours, theirs := net.Pipe()
		theirs.Close()
		select {
		case l.conns <- ours:
		case <-time.After(time.Minute):
			b.Error("it accepts no more")
		}
	})
}

func TestSubscriptionsThatOverlapDeliverWhatOneOfThemAllows(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		if version != 5 {
			return
		}
		p := b.connect(5, "a")
		p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 9,
			Filters: packets.Subscriptions{{Filter: "t/#", NoLocal: true}, {Filter: "t/a"}}})
		p.receive(packets.Suback)
		p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: "t/a"})
		p.receive(packets.Publish) // not for t/#, but for t/a [MQTT-3.8.3-3]
		p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: "t/b"})
		p.ping()
	})
}

// A message that is accepted is acknowledged, whatever came with it.
func TestForbiddenPacketLeavesThePUBACKOfTheMessageBefore(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		p := b.connect(version, "a")
		var together bytes.Buffer
		pk := packets.Packet{ProtocolVersion: version, FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1, TopicName: "t"}
		if err := pk.PublishEncode(&together); err != nil {
			b.Fatal(err)
		}
		together.WriteString("\x50\x02\x00\x01") // PUBREC
		if _, err := p.conn.Write(together.Bytes()); err != nil {
			b.Fatal(err)
		}
		p.receive(packets.Puback)
		p.closed()
	})
}

// Messages that arrive in one TLS record or segment cost one write to their publisher, with all
// PUBACKs, and one to each subscriber.
func TestMessagesThatAreReadTogetherAreWrittenTogether(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		subscriber, publisher := b.connect(version, "s"), b.connect(version, "p")
		subscriber.subscribe(1, "t")
		var together bytes.Buffer
		for id := range uint16(3) {
			pk := packets.Packet{ProtocolVersion: version, FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1 + id, TopicName: "t"}
			if err := pk.PublishEncode(&together); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := publisher.conn.Write(together.Bytes()); err != nil {
			b.Fatal(err)
		}
		for p, kind := range map[*peer]byte{publisher: packets.Puback, subscriber: packets.Publish} {
			p.receive(kind)
			n := 1
			for ; p.reader.Buffered() > 0; n++ {
				p.receive(kind)
			}
			if n != 3 {
				b.Errorf("%d of 3 packets %s were written together", n, packets.PacketNames[kind])
			}
		}
	})
}

// A member of the group that is away gets a message only if all are away.
func TestSharedSubscriptionPrefersAClientThatIsConnected(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		away := b.connect(version, "away", persistent(60))
		away.subscribe(1, "$share/g/t")
		away.conn.Close()
		if !b.disconnected("away", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		here := b.connect(version, "here")
		here.subscribe(1, "$share/g/t")
		for range 20 {
			b.Publish(&Message{Topic: "t", QoS: 1})
			here.receive(packets.Publish)
		}
		here.conn.Close()
		if !b.disconnected("here", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		b.Publish(&Message{Topic: "t", QoS: 1})
		b.connect(version, "away", persistent(60)).receive(packets.Publish)
	})
}

func TestMemoryOfAllClientsIsBounded(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		large := strings.Repeat("x", MaxPayload)
		b.queued.Store(maxAllQueuedBytes - 1000) // as if others had so much
		p := b.connect(version, "a", persistent(60))
		p.subscribe(1, "t")
		b.Publish(&Message{Topic: "t", Payload: []byte(large), QoS: 1})
		p.ping()
		b.queued.Store(0)
		b.Publish(&Message{Topic: "t", Payload: []byte(large), QoS: 1})
		p.receive(packets.Publish) // and no PUBACK
		if b.queued.Load() < MaxPayload {
			b.Errorf("%d bytes are counted", b.queued.Load())
		}
		p.conn.Close()
		if !b.disconnected("a", "CONNECTION_LOST") {
			b.Fatal("still connected")
		}
		b.connect(version, "a") // which ends the session
		if got := b.queued.Load(); got != 0 {
			b.Errorf("%d bytes are counted when no session is left", got)
		}

		b.retained.bytes = maxRetainedBytes - 1000
		b.Publish(&Message{Topic: "r", Payload: []byte(large), Retain: true})
		if _, kept := b.Retained("r"); kept {
			b.Error("a retained message is over the bound")
		}
		b.retained.bytes = 0
		for _, payload := range []string{large, "x", ""} {
			b.Publish(&Message{Topic: "r", Payload: []byte(payload), Retain: true})
		}
		if b.retained.bytes != 0 {
			b.Errorf("%d retained bytes are counted when none is left", b.retained.bytes)
		}
		if !b.recorded(func(e event.Event) bool { return e.Type == event.Rejected && e.Topic == "r" }) {
			b.Error("nothing says that a message was not retained")
		}
	})
}
