package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A client is one MQTT connection, packet by packet, so that it can also send what no client
// library does.
type client struct {
	conn    net.Conn
	version byte
	mute    bool // sends no PUBACK
	log     func(format string, args ...any)
	id      uint16 // of the last packet, for the script only

	mu       sync.Mutex
	received []map[string]any // that no step took yet
	end      error            // of the connection
	changed  chan struct{}    // closed when one of the two changes
	holding  bool             // keeps what is sent in unsent
	unsent   []byte
	messages []uint16 // packet ids of the messages that came, 0 of QoS 0
}

// read collects packets until the connection ends.
func (c *client) read() {
	reader := bufio.NewReader(c.conn)
	for {
		pk, err := readPacket(reader, c.version)
		if err == nil && pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos == 1 && !c.mute {
			err = c.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID})
		}
		c.mu.Lock()
		if err == nil {
			packet := asMap(pk)
			c.log("< %s", show(readable(packet)))
			c.received = append(c.received, packet)
			if pk.FixedHeader.Type == packets.Publish {
				c.messages = append(c.messages, pk.PacketID)
			}
		} else {
			c.log("< end of the connection: %v", err)
			c.end = err
		}
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func readPacket(r *bufio.Reader, version byte) (pk packets.Packet, err error) {
	first, err := r.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(r); err != nil {
		return pk, err
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(r, body); err != nil {
		return pk, err
	}
	pk.ProtocolVersion = version
	decode := map[byte]func([]byte) error{
		packets.Connack: pk.ConnackDecode, packets.Publish: pk.PublishDecode, packets.Puback: pk.PubackDecode,
		packets.Suback: pk.SubackDecode, packets.Unsuback: pk.UnsubackDecode, packets.Disconnect: pk.DisconnectDecode,
	}[pk.FixedHeader.Type]
	if decode != nil {
		err = decode(body)
	}
	return pk, err
}

// asMap is a packet as scripts and transcripts see it. What is not there in the packet is not there
// in the map.
func asMap(pk packets.Packet) map[string]any {
	m := map[string]any{"packet": strings.ToLower(packets.PacketNames[pk.FixedHeader.Type])}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		m["code"], m["sessionPresent"] = number(pk.ReasonCode), pk.SessionPresent
	case packets.Puback, packets.Disconnect:
		m["code"] = number(pk.ReasonCode)
	case packets.Suback, packets.Unsuback:
		codes := []any{}
		for _, code := range pk.ReasonCodes {
			codes = append(codes, number(code))
		}
		m["codes"] = codes
	case packets.Publish:
		m["topic"], m["qos"], m["retain"] = pk.TopicName, number(pk.FixedHeader.Qos), pk.FixedHeader.Retain
		m["payload"] = string(pk.Payload)
		if !utf8.Valid(pk.Payload) {
			m["payload"] = "hex:" + hex.EncodeToString(pk.Payload)
		}
	}
	p := pk.Properties
	for name, value := range map[string]any{
		"assignedClientIdentifier": p.AssignedClientID, "contentType": p.ContentType, "responseTopic": p.ResponseTopic,
		"correlationData": string(p.CorrelationData), "messageExpiryInterval": number(p.MessageExpiryInterval),
		"sessionExpiryInterval": number(p.SessionExpiryInterval), "maximumPacketSize": number(p.MaximumPacketSize),
		"serverKeepAlive": number(p.ServerKeepAlive), "receiveMaximum": number(p.ReceiveMaximum),
		"topicAliasMaximum": number(p.TopicAliasMaximum), "topicAlias": number(p.TopicAlias),
	} {
		if value != "" && value != json.Number("0") {
			m[name] = value
		}
	}
	for name, flag := range map[string]struct {
		there bool
		value byte
	}{
		"maximumQoS": {p.MaximumQosFlag, p.MaximumQos}, "retainAvailable": {p.RetainAvailableFlag, p.RetainAvailable},
		"subscriptionIdentifiersAvailable": {p.SubIDAvailableFlag, p.SubIDAvailable}, "payloadFormatIndicator": {p.PayloadFormatFlag, p.PayloadFormat},
	} {
		if flag.there {
			m[name] = number(flag.value)
		}
	}
	for _, user := range p.User {
		list, _ := m["userProperties"].([]any)
		m["userProperties"] = append(list, map[string]any{user.Key: user.Val})
	}
	return m
}

// readable is a packet whose payload is shown as the JSON that it is.
func readable(packet map[string]any) map[string]any {
	payload, _ := packet["payload"].(string)
	v, err := decode(payload)
	if err != nil {
		return packet
	}
	packet = maps.Clone(packet)
	packet["payload"] = v
	return packet
}

func number[T uint8 | uint16 | uint32](n T) json.Number {
	return json.Number(strconv.FormatUint(uint64(n), 10))
}

// send writes a packet, or keeps it while holding.
func (c *client) send(pk packets.Packet) error {
	if pk.ProtocolVersion == 0 {
		pk.ProtocolVersion = c.version
	}
	var b bytes.Buffer
	encode := map[byte]func(*bytes.Buffer) error{
		packets.Connect: pk.ConnectEncode, packets.Publish: pk.PublishEncode, packets.Puback: pk.PubackEncode,
		packets.Subscribe: pk.SubscribeEncode, packets.Unsubscribe: pk.UnsubscribeEncode,
		packets.Disconnect: pk.DisconnectEncode, packets.Pingreq: pk.PingreqEncode,
	}[pk.FixedHeader.Type]
	if err := encode(&b); err != nil {
		return err
	}
	return c.write(b.Bytes())
}

func (c *client) write(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unsent = append(c.unsent, b...); c.holding {
		return nil
	}
	// A server that reads no more must not hold the lock, nor the run. That it has closed shows when
	// reading.
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.conn.Write(c.unsent); err != nil && !errors.Is(err, net.ErrClosed) {
		c.log("> not sent: %v", err)
	}
	c.unsent = nil
	return nil
}

// hold keeps back what is sent, until it is called with false.
func (c *client) hold(on bool) error {
	c.mu.Lock()
	c.holding = on
	c.mu.Unlock()
	return c.write(nil)
}

func (c *client) messageIDs() []uint16 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.messages)
}

var errQuiet = errors.New("nothing came")

// take waits for a packet that wanted accepts and removes it.
func (c *client) take(ctx context.Context, within time.Duration, wanted func(map[string]any) bool) (map[string]any, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errQuiet)
	defer cancel()
	for {
		c.mu.Lock()
		i := slices.IndexFunc(c.received, wanted)
		var found map[string]any
		if i >= 0 {
			found = c.received[i]
			c.received = slices.Delete(c.received, i, i+1)
		}
		end, changed := c.end, c.changed
		c.mu.Unlock()
		switch {
		case found != nil:
			return found, nil
		case end != nil:
			return nil, fmt.Errorf("the connection ended: %w", end)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// pending lists what no step took, for errors.
func (c *client) pending() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.received) == 0 {
		return ""
	}
	return " (but there came " + show(c.received) + ")"
}

func ofType(name string) func(map[string]any) bool {
	return func(m map[string]any) bool { return m["packet"] == name }
}

// onTopic accepts messages on a topic, or all.
func onTopic(topic string) func(map[string]any) bool {
	return func(m map[string]any) bool { return m["packet"] == "publish" && (topic == "" || m["topic"] == topic) }
}

// connectPacket makes a CONNECT of options such as keepalive=30.
func connectPacket(id string, options map[string]string) (packets.Packet, error) {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: 4}
	pk.Connect = packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: id, Clean: true, Keepalive: 60}
	for name, value := range options {
		n, err := strconv.ParseUint(value, 10, 32)
		p := &pk.Properties
		switch name {
		case "v", "level":
			pk.ProtocolVersion = byte(n)
		case "id":
			pk.Connect.ClientIdentifier, err = value, nil
		case "clean":
			pk.Connect.Clean = n == 1
		case "keepalive":
			pk.Connect.Keepalive = uint16(n)
		case "expiry":
			p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = uint32(n), true
		case "receivemax":
			p.ReceiveMaximum = uint16(n)
		case "maxpacket":
			p.MaximumPacketSize = uint32(n)
		case "will": // TOPIC,PAYLOAD[,retain]
			parts := append(strings.Split(value, ","), "", "")
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload, err = true, parts[0], []byte(parts[1]), nil
			pk.Connect.WillQos, pk.Connect.WillRetain = 1, parts[2] == "retain"
		case "cert", "sni", "alpn", "tls", "port", "mute", "early", "tickets":
			err = nil // of the connection
		default:
			err = fmt.Errorf("no option %s", name)
		}
		if err != nil {
			return pk, fmt.Errorf("%s=%s: %w", name, value, err)
		}
	}
	if pk.ProtocolVersion == 3 {
		pk.Connect.ProtocolName = []byte("MQIsdp")
	}
	return pk, nil
}
