package awsiot

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// The subprotocols of the WebSocket data plane of secure tunneling. Version 2 has several services
// in a tunnel, version 3 several connections to a service.
const (
	TunnelV1 = "aws.iot.securetunneling-1.0"
	TunnelV2 = "aws.iot.securetunneling-2.0"
	TunnelV3 = "aws.iot.securetunneling-3.0"
)

// Limits of secure tunneling.
const (
	MaxTunnelPayload   = 63 << 10 // bytes of one message
	MaxTunnelWebSocket = 131076   // bytes of one WebSocket frame
	MaxTunnelMinutes   = 720      // of the life of a tunnel
)

// TunnelNotify returns the topic on which AWS IoT notifies a thing of a tunnel.
func TunnelNotify(thing string) string { return thingsPrefix + thing + "/tunnels/notify" }

// A TunnelNotification is the payload on [TunnelNotify].
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/agent-snippet.html
type TunnelNotification struct {
	ClientAccessToken Secret   `json:"clientAccessToken"`
	ClientMode        string   `json:"clientMode"` // "destination"
	Region            string   `json:"region"`
	Services          []string `json:"services"`
}

// A TunnelMessageType says what a [TunnelMessage] is for.
type TunnelMessageType int32

// The types of messages. SessionReset and ServiceIDs come from the service only, StreamStart and
// ConnectionStart from the source only.
const (
	TunnelData            TunnelMessageType = 1
	TunnelStreamStart     TunnelMessageType = 2
	TunnelStreamReset     TunnelMessageType = 3
	TunnelSessionReset    TunnelMessageType = 4
	TunnelServiceIDs      TunnelMessageType = 5 // since version 2
	TunnelConnectionStart TunnelMessageType = 6 // since version 3
	TunnelConnectionReset TunnelMessageType = 7 // since version 3
)

// A TunnelMessage is one message in a tunnel. On the wire it is an encoded Protocol Buffers
// message, with its length in two bytes before it; WebSocket messages hold any part of the sequence
// of messages.
//
// https://github.com/aws-samples/aws-iot-securetunneling-localproxy/blob/main/docs/V3WebSocketProtocolGuide.md
type TunnelMessage struct {
	Type         TunnelMessageType
	StreamID     int32
	Ignorable    bool // by a receiver that does not know Type
	Payload      []byte
	ServiceID    string   // empty in version 1
	ServiceIDs   []string // of TunnelServiceIDs
	ConnectionID uint32   // 0 before version 3
	Extended     bool     // it has fields that are none of the above; AWS IoT rejects it
}

// The numbers and wire types of the fields, as in the tag of each.
const (
	tagType         = 1<<3 | wireVarint
	tagStreamID     = 2<<3 | wireVarint
	tagIgnorable    = 3<<3 | wireVarint
	tagPayload      = 4<<3 | wireBytes
	tagServiceID    = 5<<3 | wireBytes
	tagServiceIDs   = 6<<3 | wireBytes
	tagConnectionID = 7<<3 | wireVarint

	wireVarint, wireFixed64, wireBytes, wireFixed32 = 0, 1, 2, 5
)

// AppendTunnelMessage appends the message, with its length, to data. The message must have at most
// [MaxTunnelPayload] bytes of payload, and 1 KB of service names.
func AppendTunnelMessage(data []byte, m TunnelMessage) []byte {
	start := len(data)
	data = append(data, 0, 0)
	number := func(tag, value uint64) {
		if value != 0 {
			data = binary.AppendUvarint(binary.AppendUvarint(data, tag), value)
		}
	}
	text := func(tag uint64, value []byte) {
		data = append(binary.AppendUvarint(binary.AppendUvarint(data, tag), uint64(len(value))), value...)
	}
	number(tagType, uint64(m.Type))
	number(tagStreamID, uint64(m.StreamID)) // a negative one takes ten bytes, as in Protocol Buffers
	if m.Ignorable {
		number(tagIgnorable, 1)
	}
	if len(m.Payload) > 0 {
		text(tagPayload, m.Payload)
	}
	if m.ServiceID != "" {
		text(tagServiceID, []byte(m.ServiceID))
	}
	for _, id := range m.ServiceIDs {
		text(tagServiceIDs, []byte(id))
	}
	number(tagConnectionID, uint64(m.ConnectionID))
	binary.BigEndian.PutUint16(data[start:], uint16(min(len(data)-start-2, math.MaxUint16)))
	return data
}

var errTunnelMessage = fmt.Errorf("a message in the tunnel is not a Protocol Buffers message with fields of at most %d bytes", MaxTunnelPayload)

// CutTunnelMessage reads the first message in data, and returns what follows it. complete is false
// where data ends within the message. The payload is a part of data.
func CutTunnelMessage(data []byte) (m TunnelMessage, rest []byte, complete bool, err error) {
	if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
		return m, data, false, nil
	}
	end := 2 + int(binary.BigEndian.Uint16(data))
	if err := m.parse(data[2:end]); err != nil {
		return m, data, false, err
	}
	return m, data[end:], true, nil
}

// parse reads the fields. Of one that comes twice the last value counts, as in Protocol Buffers.
func (m *TunnelMessage) parse(data []byte) error {
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 || tag>>3 == 0 || tag > math.MaxUint32 {
			return errTunnelMessage
		}
		data = data[n:]
		value, n := binary.Uvarint(data) // of a number, or the length of a text
		var text []byte
		switch kind := tag & 7; {
		case kind == wireFixed64:
			n = 8
		case kind == wireFixed32:
			n = 4
		case n <= 0 || kind != wireVarint && kind != wireBytes: // groups are not part of proto3
			return errTunnelMessage
		case kind == wireBytes:
			if value > uint64(len(data)-n) {
				return errTunnelMessage
			}
			text = data[n : n+int(value)]
			n += len(text)
		}
		if n > len(data) {
			return errTunnelMessage
		}
		data = data[n:]
		switch tag {
		case tagType:
			m.Type = TunnelMessageType(value)
		case tagStreamID:
			m.StreamID = int32(value)
		case tagIgnorable:
			m.Ignorable = value != 0
		case tagConnectionID:
			m.ConnectionID = uint32(value)
		case tagPayload:
			m.Payload = text
		case tagServiceID:
			m.ServiceID = string(text)
		case tagServiceIDs:
			m.ServiceIDs = append(m.ServiceIDs, string(text))
		default:
			m.Extended = true
		}
		if len(text) > MaxTunnelPayload || (tag == tagServiceID || tag == tagServiceIDs) && !utf8.Valid(text) {
			return errTunnelMessage
		}
	}
	return nil
}
