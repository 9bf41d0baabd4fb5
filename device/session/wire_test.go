package session

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// tape is a connection that plays what a server sent and records nothing.
type tape struct {
	net.Conn
	bytes.Reader
}

func (t *tape) Read(p []byte) (int, error)     { return t.Reader.Read(p) }
func (*tape) Write(p []byte) (int, error)      { return len(p), nil }
func (*tape) SetWriteDeadline(time.Time) error { return nil }

// FuzzWire lets a server send anything after a SUBSCRIBE for two filters. What
// reaches the client must be packets that it can bear.
func FuzzWire(f *testing.F) {
	f.Add([]byte{0x20, 2, 0, 0, 0x90, 4, 0, 1, 1, 1})
	f.Add([]byte{0x20, 2, 0, 0, 0x90, 5, 0, 1, 1, 1, 1})
	f.Add([]byte{0x20, 2, 0, 7})
	f.Add([]byte{0x20, 2, 0, 0, 0x32, 6, 0, 1, 't', 0, 1, 'x', 0xd0, 0})
	f.Add([]byte{0x20, 2, 0, 0, 0x30, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := &tape{}
		conn.Reset(sent)
		w := newWire(conn, (&Options{Now: time.Now}).explain)
		subscribe := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
		subscribe.MessageID, subscribe.Topics, subscribe.Qoss = 1, []string{"a", "b"}, []byte{1, 1}
		if err := subscribe.Write(w); err != nil {
			t.Fatal(err)
		}
		for {
			p, err := packets.ReadPacket(w)
			if err != nil {
				break
			}
			switch p := p.(type) {
			case *packets.SubackPacket:
				if len(p.ReturnCodes) != 2 || p.MessageID != 1 {
					t.Errorf("the client got %v with %d codes", p, len(p.ReturnCodes))
				}
			case *packets.ConnackPacket:
				if p.ReturnCode != 0 {
					t.Errorf("the client got return code %d", p.ReturnCode)
				}
			}
		}
		if w.cause() == nil {
			t.Error("the wire ended without a cause")
		}
	})
}
