package localcore_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
)

// A rawClient speaks MQTT packet by packet, so that it can also say what no client library would.
type rawClient struct {
	t       *testing.T
	conn    net.Conn
	reader  *bufio.Reader
	version byte
}

// dialRaw opens a TLS connection, without CONNECT.
func dialRaw(t *testing.T, s *localcore.Server, version byte, config *tls.Config) *rawClient {
	t.Helper()
	_, port := s.Endpoint()
	return dialPort(t, port, version, config)
}

func dialPort(t *testing.T, port int, version byte, config *tls.Config) *rawClient {
	t.Helper()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{t, conn, bufio.NewReader(conn), version}
}

// connectRaw dials and connects; adjust may change the CONNECT.
func connectRaw(t *testing.T, s *localcore.Server, version byte, id string, config *tls.Config, adjust ...func(*packets.Packet)) (*rawClient, packets.Packet) {
	t.Helper()
	c := dialRaw(t, s, version, config)
	return c, c.connect(id, adjust...)
}

// connect sends a CONNECT and returns what answers it.
func (c *rawClient) connect(id string, adjust ...func(*packets.Packet)) packets.Packet {
	c.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}}
	pk.Connect.ProtocolName = []byte("MQTT")
	pk.Connect.ClientIdentifier = id
	pk.Connect.Clean = true
	pk.Connect.Keepalive = 60
	for _, f := range adjust {
		f(&pk)
	}
	c.send(pk)
	return c.receive(packets.Connack)
}

func (c *rawClient) send(pk packets.Packet) {
	c.t.Helper()
	pk.ProtocolVersion = c.version
	var buffer bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&buffer)
	case packets.Publish:
		err = pk.PublishEncode(&buffer)
	case packets.Puback:
		err = pk.PubackEncode(&buffer)
	case packets.Pubrec:
		err = pk.PubrecEncode(&buffer)
	case packets.Subscribe:
		err = pk.SubscribeEncode(&buffer)
	case packets.Unsubscribe:
		err = pk.UnsubscribeEncode(&buffer)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&buffer)
	case packets.Pingreq:
		err = pk.PingreqEncode(&buffer)
	default:
		c.t.Fatalf("cannot send packet type %d", pk.FixedHeader.Type)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(buffer.Bytes())
}

// write sends bytes. That the server has closed already shows when reading.
func (c *rawClient) write(b []byte) { _, _ = c.conn.Write(b) }

// receive returns the next packet, which must be of this type.
func (c *rawClient) receive(kind byte) packets.Packet {
	c.t.Helper()
	pk, err := c.read()
	if err != nil {
		c.t.Fatalf("waiting for a %s: %v", packets.PacketNames[kind], err)
	}
	if pk.FixedHeader.Type != kind {
		c.t.Fatalf("got a %s (reason 0x%02x, %s), want a %s", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode, pk.TopicName, packets.PacketNames[kind])
	}
	return pk
}

// read returns the next packet.
func (c *rawClient) read() (pk packets.Packet, err error) {
	first, err := c.reader.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	pk.FixedHeader.Remaining, _, err = packets.DecodeLength(c.reader)
	if err != nil {
		return pk, err
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(c.reader, body); err != nil {
		return pk, err
	}
	pk.ProtocolVersion = c.version
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	}
	return pk, err
}

// closed checks that the server closes without one more packet.
func (c *rawClient) closed() {
	c.t.Helper()
	pk, err := c.read()
	if err == nil {
		c.t.Fatalf("got a %s (reason 0x%02x), want the connection closed", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode)
	}
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Fatal("the connection stays open")
	}
}

// alive checks that the connection is open and that no packet waits.
func (c *rawClient) alive() {
	c.t.Helper()
	c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	c.receive(packets.Pingresp)
}

// settled returns the messages that were on their way to this client. It sends itself one more and
// reads until that comes: messages of one client keep their order.
func (c *rawClient) settled() []packets.Packet {
	c.t.Helper()
	var before []packets.Packet
	c.subscribe(0, "settled")
	for {
		pk, err := c.read()
		if err != nil {
			c.t.Fatal(err)
		}
		switch {
		case pk.FixedHeader.Type == packets.Suback:
			c.publish("settled", 0, "")
		case pk.TopicName == "settled":
			return before
		default:
			before = append(before, pk)
		}
	}
}

func (c *rawClient) publish(topic string, qos byte, payload string, adjust ...func(*packets.Packet)) {
	c.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: []byte(payload)}
	if qos > 0 {
		pk.PacketID = 7
	}
	for _, f := range adjust {
		f(&pk)
	}
	c.send(pk)
}

func (c *rawClient) subscribe(qos byte, filters ...string) {
	c.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 9}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: qos})
	}
	c.send(pk)
}

// mustSubscribe subscribes and expects each filter to be granted.
func (c *rawClient) mustSubscribe(qos byte, filters ...string) {
	c.t.Helper()
	c.subscribe(qos, filters...)
	for i, code := range c.receive(packets.Suback).ReasonCodes {
		if code != qos {
			c.t.Fatalf("SUBACK code 0x%02x for %s", code, filters[i])
		}
	}
}
