package session

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// readBuffer holds the packets that come often. Each connection that waits has
// one.
const readBuffer = 512

// maxPacket bounds an incoming packet, in bytes. AWS IoT sends 146 KB at most.
const maxPacket = 256 << 10

// read receives packets until the connection ends.
func (s *Session) read() {
	r := bufio.NewReaderSize(s.conn, readBuffer)
	// A peer that speaks something else may never send as much as its first
	// bytes would announce in MQTT.
	first, err := r.Peek(1)
	if err == nil && first[0] != packets.Connack<<4 {
		err = fmt.Errorf("%w: byte %#x instead of CONNACK", ErrProtocol, first[0])
	}
	for err == nil {
		var packet packets.ControlPacket
		if packet, err = readPacket(r); err == nil {
			err = s.receive(packet)
		}
	}
	s.finish(s.o.explain(err))
}

// readPacket reads one packet. paho allocates what a packet's head announces,
// so the length is checked first (MQTT 3.1.1, section 2.2).
func readPacket(r *bufio.Reader) (packets.ControlPacket, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	head := []byte{first}
	for length, shift := 0, 0; ; shift += 7 {
		if shift == 28 {
			return nil, fmt.Errorf("%w: packet length of more than four bytes", ErrProtocol)
		}
		b, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		head = append(head, b)
		length |= int(b&0x7f) << shift
		if length > maxPacket {
			return nil, fmt.Errorf("%w: packet of at least %d bytes", ErrProtocol, length)
		}
		if b&0x80 != 0 {
			continue
		}
		packet := append(head, make([]byte, length)...)
		if _, err := io.ReadFull(r, packet[len(head):]); err != nil {
			return nil, err
		}
		p, err := packets.ReadPacket(bytes.NewReader(packet))
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrProtocol, err) // an EOF of its own, too
		}
		return p, nil
	}
}

// receive handles a packet that came. An error ends the session.
func (s *Session) receive(packet packets.ControlPacket) error {
	if p, ok := packet.(*packets.PublishPacket); ok && p.Qos <= 1 {
		return s.receivePublish(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countAnswer()
	var r *request // that the packet answers
	switch p := packet.(type) {
	case *packets.ConnackPacket:
		if r = s.take(StageConnect, 0); r == nil {
			break
		}
		if p.ReturnCode != packets.Accepted {
			return &ConnackError{Code: p.ReturnCode}
		}
		s.present = p.SessionPresent
	case *packets.SubackPacket:
		if r = s.take(StageSubscribe, p.MessageID); r == nil {
			break
		}
		if len(p.ReturnCodes) != len(r.topics) {
			return fmt.Errorf("%w: SUBACK with %d codes for %d filters", ErrProtocol, len(p.ReturnCodes), len(r.topics))
		}
		var rejected []string
		for i, code := range p.ReturnCodes {
			if code > 2 {
				rejected = append(rejected, r.topics[i])
			}
		}
		if rejected != nil {
			r.err = &SubackError{Filters: rejected}
		}
	case *packets.UnsubackPacket:
		if r = s.take(StageUnsubscribe, p.MessageID); r == nil {
			return nil
		}
	case *packets.PubackPacket:
		if r = s.take(StagePublish, p.MessageID); r == nil {
			return nil
		}
	case *packets.PingrespPacket:
		if s.pinged && !s.ended {
			s.pinged = false
			s.keepAlive.Reset(s.o.pingInterval())
		}
		return nil
	}
	if r == nil {
		return fmt.Errorf("%w: unexpected %T", ErrProtocol, packet)
	}
	close(r.answered)
	return nil
}

// countAnswer counts a round trip when something comes after a request. The
// caller holds mu.
func (s *Session) countAnswer() {
	if s.asked {
		s.asked = false
		s.roundTrips++
	}
}

// receivePublish hands a message over and acknowledges it. Only a write that
// timed out ends the session here: after any other error reading will show the
// server's reason.
func (s *Session) receivePublish(p *packets.PublishPacket) error {
	s.mu.Lock()
	s.countAnswer()
	s.mu.Unlock()
	if s.o.OnMessage != nil {
		s.o.OnMessage(Message{Topic: p.TopicName, Payload: p.Payload})
	}
	if p.Qos == 0 {
		return nil
	}
	var puback bytes.Buffer
	ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	ack.MessageID = p.MessageID
	ack.Write(&puback)
	if err := s.write(puback.Bytes()); isTimeout(err) {
		return err
	}
	return nil
}
