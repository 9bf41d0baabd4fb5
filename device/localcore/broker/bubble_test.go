package broker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/event"
)

// allowAll knows every certificate and allows everything.
type allowAll struct{}

func (allowAll) VerifyCertificate(Principal, []*x509.Certificate, bool) error { return nil }
func (allowAll) NewSession(Principal) AuthSession                             { return allowAll{} }
func (allowAll) Authorize(AuthRequest) (bool, string)                         { return true, "" }
func (allowAll) Thing() (string, bool)                                        { return "", false }

// A bubble is a broker whose clock is that of testing/synctest: what takes an
// hour takes no time. Its connections are pipes.
type bubble struct {
	*testing.T
	*Broker

	mu     sync.Mutex
	events []event.Event
}

// inBubble runs a test with a broker of its own, for both versions of MQTT.
func inBubble(t *testing.T, c Config, test func(b *bubble, version byte)) {
	t.Parallel()
	for name, version := range map[string]byte{"3.1.1": 4, "5": 5} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, c)
				test(b, version)
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// newBubble returns a broker that is still to be closed.
func newBubble(t *testing.T, c Config) *bubble {
	t.Helper()
	b := &bubble{T: t}
	c.Now, c.SessionExpiry = time.Now, time.Hour
	if c.Authorizer == nil {
		c.Authorizer = allowAll{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Record = func(e event.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
	}
	var err error
	if b.Broker, err = New(c); err != nil {
		t.Fatal(err)
	}
	return b
}

// recorded reports whether an event was recorded, once all is quiet.
func (b *bubble) recorded(match func(event.Event) bool) bool {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		if match(e) {
			return true
		}
	}
	return false
}

// disconnected reports whether a client was disconnected for a reason.
func (b *bubble) disconnected(client, reason string) bool {
	return b.recorded(func(e event.Event) bool {
		return e.Type == event.Disconnected && e.ClientID == client && e.Reason == reason
	})
}

// A peer is the client's end of a connection.
type peer struct {
	*testing.T
	conn    net.Conn
	reader  *bufio.Reader
	version byte
}

// dial opens a connection, without CONNECT.
func (b *bubble) dial(version byte) *peer {
	b.Helper()
	ours, theirs := net.Pipe()
	b.Broker.mu.Lock()
	b.open[ours] = struct{}{}
	b.Broker.mu.Unlock()
	b.work.Go(func() {
		defer b.release(ours)
		stream := &wire{Conn: ours}
		c := b.newConn(stream, stream, Principal{Certificate: new(x509.Certificate)})
		b.establish(c)
		b.serve(context.Background(), c)
	})
	b.Cleanup(func() { theirs.Close() })
	return &peer{b.T, theirs, bufio.NewReader(theirs), version}
}

// connect dials and connects; adjust may change the CONNECT.
func (b *bubble) connect(version byte, id string, adjust ...func(*packets.Packet)) *peer {
	b.Helper()
	p := b.dial(version)
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}}
	pk.Connect.ProtocolName, pk.Connect.ClientIdentifier = []byte("MQTT"), id
	pk.Connect.Clean, pk.Connect.Keepalive = true, 60
	for _, f := range adjust {
		f(&pk)
	}
	p.send(pk)
	if ack := p.receive(packets.Connack); ack.ReasonCode != 0 {
		b.Fatalf("CONNACK 0x%02x", ack.ReasonCode)
	}
	return p
}

func (p *peer) send(pk packets.Packet) {
	p.Helper()
	pk.ProtocolVersion = p.version
	var buffer bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&buffer)
	case packets.Publish:
		err = pk.PublishEncode(&buffer)
	case packets.Puback:
		err = pk.PubackEncode(&buffer)
	case packets.Subscribe:
		err = pk.SubscribeEncode(&buffer)
	case packets.Pingreq:
		err = pk.PingreqEncode(&buffer)
	}
	if err == nil {
		_, err = p.conn.Write(buffer.Bytes())
	}
	if err != nil {
		p.Fatal(err)
	}
}

// read returns the next packet of the broker.
func (p *peer) read() (packets.Packet, error) {
	pk := packets.Packet{ProtocolVersion: p.version}
	first, err := p.reader.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	n, _, err := packets.DecodeLength(p.reader)
	if err != nil {
		return pk, err
	}
	pk.FixedHeader.Remaining = n
	body := make([]byte, n)
	if _, err := io.ReadFull(p.reader, body); err != nil {
		return pk, err
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	}
	return pk, err
}

// receive returns the next packet, which must be of this type.
func (p *peer) receive(kind byte) packets.Packet {
	p.Helper()
	pk, err := p.read()
	if err != nil {
		p.Fatalf("waiting for %s: %v", packets.PacketNames[kind], err)
	}
	if pk.FixedHeader.Type != kind {
		p.Fatalf("received %s, want %s", packets.PacketNames[pk.FixedHeader.Type], packets.PacketNames[kind])
	}
	return pk
}

// silentFor fails if a packet comes within this time.
func (p *peer) silentFor(d time.Duration) {
	p.Helper()
	if err := p.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		p.Fatal(err)
	}
	if pk, err := p.read(); err == nil {
		p.Errorf("received %s: %q", packets.PacketNames[pk.FixedHeader.Type], pk.Payload)
	}
	if err := p.conn.SetReadDeadline(time.Time{}); err != nil {
		p.Fatal(err)
	}
}

// closed waits for the end of the connection.
func (p *peer) closed() {
	p.Helper()
	for {
		if _, err := p.read(); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, io.ErrUnexpectedEOF) {
				p.Errorf("the connection ended with %v", err)
			}
			return
		}
	}
}

func (p *peer) ping() {
	p.Helper()
	p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
	p.receive(packets.Pingresp)
}

func (p *peer) subscribe(qos byte, filter string) {
	p.Helper()
	p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe, Qos: 1}, PacketID: 9,
		Filters: packets.Subscriptions{{Filter: filter, Qos: qos}}})
	if code := p.receive(packets.Suback).ReasonCodes[0]; code != qos {
		p.Fatalf("SUBACK 0x%02x for %s", code, filter)
	}
}

// publish publishes at QoS 1 and waits for the PUBACK.
func (p *peer) publish(topic, payload string) {
	p.Helper()
	p.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 7, TopicName: topic, Payload: []byte(payload)})
	p.receive(packets.Puback)
}

// persistent asks for a session of so many seconds.
func persistent(seconds uint32) func(*packets.Packet) {
	return func(pk *packets.Packet) {
		pk.Connect.Clean = false
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = seconds, true
	}
}
