package broker

import (
	"encoding/binary"
	"io"
	"math"
	"net"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
)

const readBuffer = 512 // bytes; what is larger is read past the buffer

// A wire is the stream of a connection below its TLS. Before it reads, the packets that came with
// the earlier reads have been dealt with: all that share a TLS record or a segment.
type wire struct {
	net.Conn
	conn *Conn // nil before CONNECT is answered
	read bool  // since then; for the reader only
}

func (w *wire) Read(p []byte) (int, error) {
	if w.conn != nil {
		w.read = true
		if err := w.conn.finishBatch(); err != nil {
			return 0, err
		}
	}
	return w.Conn.Read(p)
}

// read reads and decodes one packet. Errors of the packet itself are of type [packets.Code].
func (c *Conn) read(pk *packets.Packet) error {
	first, body, err := c.readFrame()
	if err != nil {
		return err
	}
	if c.throughput != nil {
		if err := c.finishBatch(); err != nil {
			return err
		}
		c.throttle(len(body) + 2)
	}
	return decode(pk, first, body, c.version)
}

// readFrame reads the first byte of a packet and what follows its length.
func (c *Conn) readFrame() (first byte, body []byte, err error) {
	if first, err = c.reader.ReadByte(); err != nil {
		return 0, nil, err
	}
	remaining, n, err := packets.DecodeLength(c.reader)
	switch {
	case err != nil:
		return 0, nil, err
	case n > 1 && remaining < 1<<(7*(n-1)): // not the shortest form [MQTT-1.5.5-1]
		return 0, nil, packets.ErrMalformedVariableByteInteger
	case 1+n+remaining > maxPacket:
		return 0, nil, packets.ErrPacketTooLarge
	}
	body = make([]byte, remaining)
	_, err = io.ReadFull(c.reader, body)
	return first, body, err
}

// decode decodes a packet that a client may send. Of those that AWS does not support only the type
// is decoded. The packet keeps parts of body.
func decode(pk *packets.Packet, first byte, body []byte, version byte) (err error) {
	defer func() {
		if recover() != nil { // mochi reads past the end of some packets, such as a SUBSCRIBE without options
			err = packets.ErrMalformedPacket
		}
	}()
	*pk = packets.Packet{ProtocolVersion: version}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return err
	}
	kind := pk.FixedHeader.Type
	if len(body) > 0 && (kind == packets.Pingreq || version < 5 && (kind == packets.Disconnect || kind == packets.Puback && len(body) > 2)) {
		return packets.ErrMalformedPacket
	}
	if kind == packets.Disconnect && len(body) == 1 {
		body = append(body, 0) // mochi reads no reason code without properties, which may be left out [MQTT-3.14.2.2.1]
	}
	pk.FixedHeader.Remaining = len(body)
	// What their absence means: of the first two 0 is an error, of the third one it is the least
	// time.
	pk.Properties.ReceiveMaximum, pk.Properties.MaximumPacketSize = math.MaxUint16, math.MaxUint32
	pk.Properties.MessageExpiryInterval = math.MaxUint32
	start, reasons := len(body), "\x00" // where the properties start; the reason codes that a client may give
	switch kind {                       // no table of functions: through one each packet would escape to the heap
	case packets.Connect:
		err, start = pk.ConnectDecode(body), len(pk.Connect.ProtocolName)+6
	case packets.Disconnect:
		err, start, reasons = pk.DisconnectDecode(body), 1, "\x00\x04\x80\x81\x82\x83\x90\x93\x94\x95\x96\x97\x98\x99" // [MQTT-3.14.2-1]
	case packets.Publish:
		err, start = pk.PublishDecode(body), len(pk.TopicName)+2+2*int(min(pk.FixedHeader.Qos, 1))
	case packets.Puback:
		err, start, reasons = pk.PubackDecode(body), 3, "\x00\x10\x80\x83\x87\x90\x91\x97\x99" // [MQTT-3.4.2-1]
	case packets.Subscribe:
		err, start = pk.SubscribeDecode(body), 2
	case packets.Unsubscribe:
		err, start = pk.UnsubscribeDecode(body), 2
	}
	switch p := &pk.Properties; p.MessageExpiryInterval {
	case math.MaxUint32: // absent
		p.MessageExpiryInterval = 0
	case 0:
		p.MessageExpiryInterval = 1 // the least that AWS keeps
	}
	if short := (packets.Packet{FixedHeader: pk.FixedHeader}); err == nil && kind == packets.Connect && short.ConnectDecode(body[:len(body)-1]) == nil {
		return packets.ErrMalformedPacket // more than its fields
	}
	if err == nil && strings.IndexByte(reasons, pk.ReasonCode) < 0 {
		return packets.ErrProtocolViolation
	}
	if err == nil && pk.ProtocolVersion == 5 && start < len(body) {
		err = checkProperties(pk, body, start)
	}
	return err
}

// checkProperties finds what mochi does not in a packet of MQTT 5 that it decoded: a length of the
// properties at start that is not the shortest form [MQTT-1.5.5-1] or ends within a value, one of
// them that comes twice, what follows where they are the last, and reserved bits of a subscription
// [MQTT-3.8.3-5].
func checkProperties(pk *packets.Packet, body []byte, start int) error {
	length, n := binary.Uvarint(body[start:])
	at := start + n
	end := at + int(length)
	if n > 1 && body[at-1] == 0 {
		return packets.ErrMalformedVariableByteInteger
	}
	for seen := uint64(0); at < end; {
		id := body[at]
		if id != packets.PropUser && seen>>id&1 == 1 {
			return packets.ErrProtocolViolation
		}
		seen |= 1 << id
		at++
		switch id {
		case packets.PropSubscriptionIdentifier:
			return nil // of a client in whatever packet it is rejected
		case packets.PropPayloadFormat, packets.PropRequestProblemInfo, packets.PropRequestResponseInfo:
			at++
		case packets.PropReceiveMaximum, packets.PropTopicAliasMaximum, packets.PropTopicAlias:
			at += 2
		case packets.PropMessageExpiryInterval, packets.PropSessionExpiryInterval, packets.PropWillDelayInterval, packets.PropMaximumPacketSize:
			at += 4
		case packets.PropUser:
			at += 2 + int(binary.BigEndian.Uint16(body[at:]))
			fallthrough
		default: // a string or binary data
			at += 2 + int(binary.BigEndian.Uint16(body[at:]))
		}
	}
	switch kind := pk.FixedHeader.Type; {
	case at != end || at < len(body) && (kind == packets.Puback || kind == packets.Disconnect):
		return packets.ErrMalformedProperties
	case kind == packets.Connect && pk.Connect.WillFlag && start == len(pk.Connect.ProtocolName)+6:
		return checkProperties(pk, body, end+2+len(pk.Connect.ClientIdentifier))
	case kind == packets.Subscribe:
		for _, sub := range pk.Filters {
			if end += 2 + len(sub.Filter) + 1; body[end-1] > 0x3f {
				return packets.ErrMalformedFlags
			}
		}
	}
	return nil
}
