package session

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// FuzzRead lets a server send anything after a SUBSCRIBE for two filters.
// Whatever it is ends in an error, and answers the request only if it is its
// SUBACK.
func FuzzRead(f *testing.F) {
	f.Add([]byte{0x90, 4, 0, 1, 1, 1})
	f.Add([]byte{0x90, 5, 0, 1, 1, 1, 1})
	f.Add([]byte{0x20, 2, 0, 7})
	f.Add([]byte{0x32, 6, 0, 1, 't', 0, 1, 'x', 0xd0, 0})
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, sent []byte) {
		r := subscribe([]string{"a", "b"})
		*r.id, r.answered = 1, make(chan struct{})
		s := &Session{waiting: []*request{r}, ended: true} // a PUBACK would be sent after the test
		reader := bufio.NewReader(bytes.NewReader(sent))
		for {
			var p packets.ControlPacket
			p, err := readPacket(reader)
			if err == nil {
				err = s.receive(p)
			}
			if err != nil {
				break
			}
		}
		select {
		case <-r.answered:
			if !bytes.Contains(sent, []byte{4, 0, 1}) {
				t.Error("answered without a SUBACK")
			}
		default:
		}
	})
}
