package broker

import (
	"io"
	"math"
	"net"

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
	if len(body) > 0 && (kind == packets.Pingreq || kind == packets.Disconnect && version < 5) {
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
	switch kind { // no table of functions: through one each packet would escape to the heap
	case packets.Connect:
		err = pk.ConnectDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Subscribe:
		err = pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		err = pk.UnsubscribeDecode(body)
	case packets.Pingreq, packets.Pubrec, packets.Pubrel, packets.Pubcomp, packets.Auth:
	default:
		return errServerPacket
	}
	switch p := &pk.Properties; p.MessageExpiryInterval {
	case math.MaxUint32: // absent
		p.MessageExpiryInterval = 0
	case 0:
		p.MessageExpiryInterval = 1 // the least that AWS keeps
	}
	return err
}
