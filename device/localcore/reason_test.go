package localcore_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
)

// Each case ends an MQTT 5 connection with a reason code of AWS's table.
func TestReasonCodeOfDisconnect(t *testing.T) {
	t.Parallel()
	message := func(adjust func(*packets.Packet)) func(*rawClient) {
		return func(c *rawClient) { c.publish("t", 0, "x", adjust) }
	}
	s := startFree(t, localcore.Config{})
	for name, test := range map[string]struct {
		page string
		do   func(*rawClient)
		want byte
	}{
		"A packet that cannot be decoded gets DISCONNECT 0x81.": {"mqtt", func(c *rawClient) {
			c.write([]byte("\x30\x02\x00\x09"))
		}, 0x81},
		"A Remaining Length of five bytes gets DISCONNECT 0x81.": {"mqtt", func(c *rawClient) {
			c.write([]byte("\x30\x80\x80\x80\x80\x01"))
		}, 0x81},
		"Flags that MQTT reserves get DISCONNECT 0x81.": {"mqtt", func(c *rawClient) {
			c.write([]byte("\xc1\x00"))
		}, 0x81},
		"A second CONNECT gets DISCONNECT 0x82.": {"mqtt", func(c *rawClient) {
			pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}}
			pk.Connect.ProtocolName, pk.Connect.ClientIdentifier = []byte("MQTT"), "again"
			c.send(pk)
		}, 0x82},
		"A packet that only servers send gets DISCONNECT 0x82.": {"mqtt", func(c *rawClient) {
			c.write([]byte("\xd0\x00"))
		}, 0x82},
		"AUTH, which AWS does not support, gets DISCONNECT 0x82.": {"mqtt", func(c *rawClient) {
			c.write([]byte("\xf0\x02\x00\x00"))
		}, 0x82},
		"A topic alias that stands for no topic gets DISCONNECT 0x82.": {"mqtt", func(c *rawClient) {
			c.publish("", 0, "x", func(pk *packets.Packet) { pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 3, true })
		}, 0x82},
		"A SUBSCRIBE without filters gets DISCONNECT 0x82.": {"mqtt", func(c *rawClient) {
			c.write([]byte("\x82\x03\x00\x01\x00"))
		}, 0x82},
		"A packet over 146 KB gets DISCONNECT 0x95.": {"mqtt", func(c *rawClient) {
			c.write([]byte("\x30\xff\xff\x7f"))
		}, 0x95},
		"A topic with more than 7 slashes gets DISCONNECT 0x90.": {"mqtt", func(c *rawClient) {
			c.publish("a/b/c/d/e/f/g/h/i", 0, "x")
		}, 0x90},
		"A topic alias above 8 gets DISCONNECT 0x94.": {"mqtt", message(func(pk *packets.Packet) {
			pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 9, true
		}), 0x94},
		"A content type over 256 bytes gets DISCONNECT 0x97.": {"mqtt", message(func(pk *packets.Packet) {
			pk.Properties.ContentType = strings.Repeat("c", 257)
		}), 0x97},
		"Correlation data over 8 KB gets DISCONNECT 0x97.": {"mqtt", message(func(pk *packets.Packet) {
			pk.Mods.AllowResponseInfo = true // else it is not encoded
			pk.Properties.CorrelationData = bytes.Repeat([]byte("c"), 8<<10+1)
		}), 0x97},
		"User properties over 8 KB in sum get DISCONNECT 0x97.": {"mqtt", message(func(pk *packets.Packet) {
			half := strings.Repeat("u", 4<<10)
			pk.Properties.User = []packets.UserProperty{{Key: half, Val: half}, {Key: "one", Val: "more"}}
		}), 0x97},
		"A payload over 128 KB gets DISCONNECT 0x97.": {"mqtt", func(c *rawClient) {
			c.publish("t", 0, strings.Repeat("x", 128<<10+1))
		}, 0x97},
		"A PUBLISH of QoS 2 gets DISCONNECT 0x9B.": {"mqtt", func(c *rawClient) {
			c.publish("t", 2, "x")
		}, 0x9B},
		"A subscription identifier gets DISCONNECT 0xA1.": {"mqtt", func(c *rawClient) {
			c.write([]byte("\x82\x09\x00\x01\x02\x0b\x05\x00\x01t\x00"))
		}, 0xA1},
		"DeleteConnection gets DISCONNECT 0x98.": {"mqtt", func(c *rawClient) {
			if status, answer := call(t, s.Server, "DELETE", "/connections/a", ""); status != 200 {
				t.Errorf("DeleteConnection: %d %s", status, answer)
			}
		}, 0x98},
		"A client whose id is taken over gets DISCONNECT 0x8E.": {"mqtt", func(*rawClient) {
			s.connect(t, 5, "a")
		}, 0x8E},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.connect(t, 5, "a")
			test.do(c)
			if got := c.receive(packets.Disconnect).ReasonCode; got != test.want {
				t.Errorf("DISCONNECT 0x%02x, want 0x%02x", got, test.want)
			}
			c.closed()
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a broker
// that shuts down sends DISCONNECT 0x8B.
func TestClosingServerSendsDisconnect(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 5, "a")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := c.receive(packets.Disconnect).ReasonCode; got != 0x8B {
		t.Errorf("DISCONNECT 0x%02x", got)
	}
	c.closed()
}

// Each case rejects a CONNECT of MQTT 5 with a reason code of AWS's table.
func TestReasonCodeOfConnack(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	for name, test := range map[string]struct {
		page   string
		adjust func(*packets.Packet)
		want   byte
	}{
		"A client id over 128 bytes gets CONNACK 0x85.": {"mqtt", func(pk *packets.Packet) {
			pk.Connect.ClientIdentifier = strings.Repeat("c", 129)
		}, 0x85},
		"A will on an invalid topic gets CONNACK 0x90.": {"mqtt", func(pk *packets.Packet) {
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, "a/b/c/d/e/f/g/h/i", []byte("x")
		}, 0x90},
		"A will of QoS 2 gets CONNACK 0x9B.": {"mqtt", func(pk *packets.Packet) {
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload, pk.Connect.WillQos = true, "t", []byte("x"), 2
		}, 0x9B},
		"A Maximum Packet Size under 512 bytes is rejected.": {"mqtt", func(pk *packets.Packet) {
			pk.Properties.MaximumPacketSize = 511
		}, 0x80},
		"A Maximum Packet Size of 512 bytes is accepted.": {"mqtt", func(pk *packets.Packet) {
			pk.Properties.MaximumPacketSize = 512
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if _, ack := connectRaw(t, s.Server, 5, "a", s.tls, test.adjust); ack.ReasonCode != test.want {
				t.Errorf("CONNACK 0x%02x, want 0x%02x", ack.ReasonCode, test.want)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: an
// UNSUBSCRIBE gets one reason code for each filter, 0x8F for an invalid one.
func TestReasonCodesOfUnsuback(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 5, "a")
	c.mustSubscribe(0, "t")
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 3,
		Filters: packets.Subscriptions{{Filter: "t"}, {Filter: "a/#/b"}}})
	if diff := cmp.Diff([]byte{0, 0x8F}, c.receive(packets.Unsuback).ReasonCodes); diff != "" {
		t.Error(diff)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a message
// expiry of more than 604,800 seconds becomes 604,800.
func TestMessageExpiryIsClamped(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 5, "a")
	c.mustSubscribe(0, "t")
	c.publish("t", 0, "x", func(pk *packets.Packet) { pk.Properties.MessageExpiryInterval = 1e6 })
	if got := c.receive(packets.Publish).Properties.MessageExpiryInterval; got > 604_800 || got < 604_700 {
		t.Errorf("message expiry %d", got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html: a message
// larger than the client's Maximum Packet Size is not sent to it.
func TestMaximumPacketSizeOfTheClientIsKept(t *testing.T) {
	t.Parallel()
	s := startFree(t, localcore.Config{})
	c := s.connect(t, 5, "a", func(pk *packets.Packet) { pk.Properties.MaximumPacketSize = 600 })
	c.mustSubscribe(1, "t")
	p := s.connect(t, 5, "p")
	p.publish("t", 1, strings.Repeat("x", 700))
	p.publish("t", 1, "small")
	if got := string(c.receive(packets.Publish).Payload); got != "small" {
		t.Errorf("received %d bytes", len(got))
	}
}
