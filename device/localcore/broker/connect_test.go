package broker

import (
	"crypto/x509"
	"errors"
	"net/http"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/event"
)

// connectOf returns the bytes of a CONNECT of client id a with this protocol.
func connectOf(name string, level byte) []byte {
	body := append([]byte{0, byte(len(name))}, name...)
	body = append(body, level, 2, 0, 60) // clean, 60 s
	if level == 5 {
		body = append(body, 0) // no properties
	}
	body = append(body, 0, 1, 'a')
	return append([]byte{0x10, byte(len(body))}, body...)
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: AWS IoT Core
// speaks MQTT 3.1.1 and 5; another protocol level gets return code 1 of MQTT
// 3.1.1.
func TestProtocolLevels(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		protocol string
		level    byte
		want     byte // return code of CONNACK
	}{
		"3.1.1":                  {"MQTT", 4, 0},
		"3.1.1 with bridge bit":  {"MQTT", 0x84, 0}, // what mosquitto's bridges send
		"3.1":                    {"MQIsdp", 3, 1},
		"3.1 with bridge bit":    {"MQIsdp", 0x83, 1},
		"5 with bridge bit":      {"MQTT", 0x85, 1},
		"a level of the future":  {"MQTT", 6, 1},
		"a level that is no one": {"MQTT", 0, 1},
		"another protocol":       {"MQTX", 4, 1}, // [MQTT-3.1.2-1]
		"no protocol":            {"", 5, 1},
		"3.1 with level 3.1.1":   {"MQIsdp", 4, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Config{}, func(b *bubble, _ byte) {
				p := b.dial(4)
				if _, err := p.conn.Write(connectOf(test.protocol, test.level)); err != nil {
					b.Fatal(err)
				}
				if got := p.receive(packets.Connack).ReasonCode; got != test.want {
					b.Errorf("CONNACK %d, want %d", got, test.want)
				}
				if test.want == 0 {
					p.ping()
				} else {
					p.closed()
				}
			})
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a client must
// wait for CONNACK before it sends another packet.
func TestPacketBeforeConnackEndsTheConnection(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble, version byte) {
		p := b.dial(version)
		if _, err := p.conn.Write(append(connectOf("MQTT", version), 0xC0, 0)); err != nil { // PINGREQ
			b.Fatal(err)
		}
		if version == 5 {
			if got := p.receive(packets.Connack).ReasonCode; got != 0x80 {
				b.Errorf("CONNACK 0x%02x", got)
			}
		}
		p.closed()
		if !b.recorded(func(e event.Event) bool { return e.Type == event.Rejected && e.Action == event.Connect }) {
			b.Error("the rejection was not recorded")
		}
	})
}

// leavesActive verifies a certificate once, in the handshake.
type leavesActive struct{ allowAll }

func (leavesActive) VerifyCertificate(Principal, []*x509.Certificate, bool) error {
	return errors.New("INACTIVE")
}

func TestCertificateThatLeavesActiveAfterTheHandshakeGetsNoHTTPResponse(t *testing.T) {
	c := Config{Authorizer: leavesActive{}, HTTP: func(*http.Request, Principal) *http.Response {
		t.Error("answered")
		return new(http.Response)
	}}
	inBubble(t, c, func(b *bubble, version byte) {
		p := b.dial(version)
		if _, err := p.conn.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
			b.Fatal(err)
		}
		p.closed()
		if !b.recorded(func(e event.Event) bool { return e.Action == event.Credentials && e.Reason == "INACTIVE" }) {
			b.Error("the rejection was not recorded")
		}
	})
}

func TestCertificateThatLeavesActiveAfterTheHandshakeCannotConnect(t *testing.T) {
	inBubble(t, Config{Authorizer: leavesActive{}}, func(b *bubble, version byte) {
		p := b.dial(version)
		if _, err := p.conn.Write(connectOf("MQTT", version)); err != nil {
			b.Fatal(err)
		}
		if version == 5 {
			if got := p.receive(packets.Connack).ReasonCode; got != 0x87 {
				b.Errorf("CONNACK 0x%02x", got)
			}
		}
		p.closed()
	})
}
