package broker

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A packet that cannot be decoded is an error, and no panic.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"\xc0", "\x30\x00\x01t", "\x82\x00\x01\x00\x01t\x00", "\xe0", "\x10", "\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a",
		"\x32\x00\x03a/b\x00\x01\x00hi", "\xa2\x00\x01\x00\x01t", "\x40\x00\x01", "\xf0", "\x62\x00\x01", "\x30\x00\x01t\x05\x26\x00", "\x82\x00\x01\x00\x01t",
	} {
		f.Add([]byte(seed), byte(4))
		f.Add([]byte(seed), byte(5))
	}
	f.Fuzz(func(t *testing.T, data []byte, version byte) {
		if len(data) == 0 {
			t.Skip()
		}
		pk := new(packets.Packet)
		if err := decode(pk, data[0], data[1:], 4+version%2); err != nil {
			return
		}
		switch pk.FixedHeader.Type {
		case packets.Connect:
			checkConnect(pk)
		case packets.Publish:
			checkMessage(pk.TopicName, pk.Payload, pk.FixedHeader.Retain, &pk.Properties)
		case packets.Subscribe, packets.Unsubscribe:
			for _, sub := range pk.Filters {
				if _, reason := checkFilter(sub); reason == "" && !validFilter(sub.Filter) {
					t.Errorf("filter %q is accepted", sub.Filter)
				}
			}
		}
	})
}
