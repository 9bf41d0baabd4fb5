package session

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// readBuffer takes the packets that come often; of a fleet of connections that
// wait, each has one.
const readBuffer = 512

// maxPacket bounds an incoming packet, in bytes. AWS IoT sends 146 KB at most.
const maxPacket = 256 << 10

const (
	writeTimeout    = 15 * time.Second
	diagnoseTimeout = time.Second
)

// A wire stands between the TLS connection and the MQTT client. It hands over
// whole packets, and it remembers what the client forgets: which packets wait
// for an answer, and the first thing that went wrong. It also keeps away
// what the client cannot bear: packets of any size, a SUBACK with more codes
// than filters (a panic) and CONNACK codes above 5 (taken for success).
//
// It relies on the client writing each packet with one call.
type wire struct {
	net.Conn
	explain func(error) error

	readMu sync.Mutex
	reader *bufio.Reader
	packet []byte // what is left of the packet being handed over

	mu        sync.Mutex
	waiting   []request // sent and not answered, oldest first
	asked     bool      // something was sent that must be answered, and nothing has come since
	turns     int
	connected bool  // CONNACK has come; written under both locks
	fault     error // why the connection ended
	closing   bool  // its end is our wish: no fault
}

// A request is a packet that the server must answer.
type request struct {
	packet string // "CONNECT", "SUBSCRIBE" or "PUBLISH"
	id     uint16
	topics []string
}

func newWire(conn net.Conn, explain func(error) error) *wire {
	return &wire{Conn: conn, explain: explain, reader: bufio.NewReaderSize(conn, readBuffer)}
}

// Read hands over bytes of one packet.
func (w *wire) Read(p []byte) (int, error) {
	w.readMu.Lock()
	defer w.readMu.Unlock()
	if len(w.packet) == 0 {
		if err := w.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.packet)
	w.packet = w.packet[n:]
	return n, nil
}

// receive reads and checks the next packet.
func (w *wire) receive() error {
	packet, err := w.next()
	if err == nil {
		err = w.answered(packet)
	}
	if err != nil {
		w.blame(err)
		return err
	}
	w.packet = append(w.packet, packet...)
	return nil
}

// next reads a packet. What comes first must be a CONNACK: a peer that speaks
// something else may keep the client waiting for the rest of it.
func (w *wire) next() ([]byte, error) {
	if !w.connected {
		first, err := w.reader.Peek(1)
		if err != nil {
			return nil, err
		}
		if first[0] != packets.Connack<<4 {
			return nil, &protocolError{fmt.Sprintf("byte %#x instead of CONNACK", first[0])}
		}
	}
	return readPacket(w.reader)
}

// Write sends one packet.
func (w *wire) Write(p []byte) (int, error) {
	w.expect(p)
	w.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := w.Conn.Write(p)
	if err != nil {
		if !isTimeout(err) {
			w.diagnose()
		}
		w.blame(err)
	}
	return n, err
}

// diagnose reads what the server said before it hung up, above all the alert
// that explains why the write failed. Packets that come first are kept.
func (w *wire) diagnose() {
	w.Conn.SetReadDeadline(time.Now().Add(diagnoseTimeout))
	w.readMu.Lock()
	defer w.readMu.Unlock()
	for w.cause() == nil {
		if w.receive() != nil {
			return
		}
	}
}

// close announces that the connection is about to be closed by us.
func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closing = true
}

// blame keeps the first fault, unless we closed the connection ourselves.
func (w *wire) blame(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fault == nil && !w.closing && !errors.Is(err, net.ErrClosed) {
		w.fault = w.explain(err)
	}
}

// cause returns the first fault.
func (w *wire) cause() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault
}

// unanswered returns the oldest packet that still waits.
func (w *wire) unanswered() (request, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) == 0 {
		return request{}, false
	}
	return w.waiting[0], true
}

func (w *wire) roundTrips() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.turns
}

// expect notes that a packet being sent must be answered.
func (w *wire) expect(p []byte) {
	packet, err := packets.ReadPacket(bytes.NewReader(p))
	if err != nil {
		return
	}
	var r request
	switch packet := packet.(type) {
	case *packets.ConnectPacket:
		r = request{packet: "CONNECT"}
	case *packets.SubscribePacket:
		r = request{packet: "SUBSCRIBE", id: packet.MessageID, topics: packet.Topics}
	case *packets.PublishPacket:
		if packet.Qos == 0 {
			return
		}
		r = request{packet: "PUBLISH", id: packet.MessageID, topics: []string{packet.TopicName}}
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, r)
	w.asked = true
}

// answered checks a packet that came, and strikes off what it answers.
func (w *wire) answered(p []byte) error {
	packet, err := packets.ReadPacket(bytes.NewReader(p))
	if err != nil {
		return &protocolError{err.Error()}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asked {
		w.asked = false
		w.turns++
	}
	if connack, ok := packet.(*packets.ConnackPacket); ok && !w.connected {
		w.connected = true
		w.strike("CONNECT", 0)
		if connack.ReturnCode != packets.Accepted {
			return &ConnackError{Code: connack.ReturnCode}
		}
		return nil
	}
	switch packet := packet.(type) {
	case *packets.PubackPacket:
		w.strike("PUBLISH", packet.MessageID)
		return nil
	case *packets.SubackPacket:
		r := w.strike("SUBSCRIBE", packet.MessageID)
		if len(r.topics) == 0 || len(packet.ReturnCodes) != len(r.topics) {
			return &protocolError{fmt.Sprintf("SUBACK with %d codes for %d filters", len(packet.ReturnCodes), len(r.topics))}
		}
		return nil
	case *packets.PublishPacket:
		if packet.Qos <= 1 {
			return nil
		}
	case *packets.PingrespPacket:
		return nil
	}
	return &protocolError{"unexpected " + packets.PacketNames[p[0]>>4]}
}

// strike removes a request that was answered and returns it.
func (w *wire) strike(packet string, id uint16) request {
	for i, r := range w.waiting {
		if r.packet == packet && r.id == id {
			w.waiting = append(w.waiting[:i:i], w.waiting[i+1:]...)
			return r
		}
	}
	return request{}
}

// readPacket reads one packet, fixed header included (MQTT 3.1.1, section 2.2).
func readPacket(r *bufio.Reader) ([]byte, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	packet := []byte{first}
	length := 0
	for shift := 0; ; shift += 7 {
		if shift == 28 {
			return nil, &protocolError{"packet length of more than four bytes"}
		}
		b, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		packet = append(packet, b)
		length |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			break
		}
	}
	if length > maxPacket {
		return nil, &protocolError{fmt.Sprintf("packet of %d bytes", length)}
	}
	head := len(packet)
	packet = append(packet, make([]byte, length)...)
	_, err = io.ReadFull(r, packet[head:])
	return packet, err
}
