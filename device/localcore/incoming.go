package localcore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"

	"github.com/mochi-mqtt/server/v2/packets"
)

const (
	incomingBuffer  = 2 << 10 // bytes
	maxLengthBytes  = 4       // of a Remaining Length
	firstLengthMore = 0x80    // one more byte of the length follows
)

// An incoming reads whole packets. mochi drops a client whose packet it cannot
// read without a word; here the packet is read first, so that the client can be
// told why.
type incoming struct {
	reader *bufio.Reader
	packet []byte // what was read and not yet taken
}

func newIncoming(c net.Conn) incoming {
	return incoming{reader: bufio.NewReaderSize(c, incomingBuffer)}
}

// next reads a packet, at most as large as a packet may be. Errors of the
// packet are of type [packets.Code].
func (in *incoming) next() error {
	first, err := in.reader.ReadByte()
	if err != nil {
		return err
	}
	header := []byte{first}
	for more := true; more; {
		b, err := in.reader.ReadByte()
		if err != nil {
			return err
		}
		header = append(header, b)
		more = b&firstLengthMore != 0
		if more && len(header) > maxLengthBytes {
			return packets.ErrMalformedVariableByteInteger
		}
	}
	remaining, _ := binary.Uvarint(header[1:]) // MQTT encodes as protocol buffers do
	if len(header)+int(remaining) > maxPacket {
		return packets.ErrPacketTooLarge
	}
	in.packet = append(header, make([]byte, remaining)...)
	_, err = io.ReadFull(in.reader, in.packet[len(header):])
	return err
}

// check decodes the packet that was read. mochi does it again.
func (in *incoming) check(version byte) error {
	pk := packets.Packet{ProtocolVersion: version}
	if err := pk.FixedHeader.Decode(in.packet[0]); err != nil {
		return err
	}
	remaining, n := binary.Uvarint(in.packet[1:])
	pk.FixedHeader.Remaining = int(remaining)
	body := in.packet[1+n:]
	switch pk.FixedHeader.Type {
	case packets.Connect:
		return pk.ConnectDecode(body)
	case packets.Publish:
		return pk.PublishDecode(body)
	case packets.Puback:
		return pk.PubackDecode(body)
	case packets.Subscribe:
		return pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		return pk.UnsubscribeDecode(body)
	case packets.Disconnect:
		return pk.DisconnectDecode(body)
	case packets.Pingreq, packets.Pubrec, packets.Pubrel, packets.Pubcomp, packets.Auth:
		return nil // the gate answers what AWS does not support
	}
	return errServerPacket
}

// errServerPacket answers what only a server may send.
var errServerPacket = packets.Code{Code: packets.ErrProtocolViolation.Code, Reason: "protocol violation: a packet that clients do not send"}

// Read hands the next packet to mochi. It notices that the keep-alive lapsed,
// which mochi sets as a deadline, and packets that cannot be read.
func (c *connection) Read(p []byte) (int, error) {
	if len(c.incoming.packet) == 0 {
		err := c.incoming.next()
		if err == nil && c.established.Load() {
			err = c.incoming.check(c.client.Properties.ProtocolVersion)
		}
		if err != nil {
			return 0, c.unreadable(err)
		}
		c.hold(len(c.incoming.packet))
	}
	n := copy(p, c.incoming.packet)
	c.incoming.packet = c.incoming.packet[n:]
	return n, nil
}

// unreadable ends the connection because of what came, or did not come.
func (c *connection) unreadable(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.end(reasonKeepAliveTimeout, packets.ErrKeepAliveTimeout)
	}
	if code, ok := errors.AsType[packets.Code](err); ok {
		c.complaint = err.Error()
		c.end(reasonClientError, code)
	}
	return err
}
