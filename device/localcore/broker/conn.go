package broker

import (
	"bufio"
	"bytes"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"example.com/fleety/device/localcore/event"
)

// A Conn is one connection of a device. Its exported methods are safe for concurrent use.
type Conn struct {
	broker    *Broker
	net       net.Conn
	wire      *wire         // below net and its TLS, or net itself
	reader    *bufio.Reader // of net; for the reader only
	principal Principal
	address   string        // of principal, for events
	ended     chan struct{} // closed when nothing of the connection is left

	throughput *rate.Limiter // bytes both ways; nil without rates
	publishes  *rate.Limiter // messages both ways; nil without rates

	// The following is set by CONNECT, before anyone else sees it.
	version       byte // of MQTT, 4 or 5
	keepAlive     time.Duration
	maxPacketSize uint32 // that the client takes
	noProblemInfo bool   // the client wants no reason strings
	auth          AuthSession
	session       *session
	sessionID     string // of lifecycle events
	number        int    // of this connection among those of its client, in lifecycle events
	since         time.Time
	expiry        time.Duration // of the session, as granted by CONNECT
	will          *will         // nil without one; for the reader only
	withoutWill   atomic.Bool
	established   atomic.Bool       // CONNACK of success was sent
	delayed       atomic.Int32      // SUBACKs that are still to be sent
	aliases       map[uint16]string // topics by alias; for the reader only

	// Of what is read together, see finishBatch; for the reader only.
	routed    []*session // that messages were left with
	published int        // messages
	queued    bool       // something for the client

	outMu    sync.Mutex
	out      *bytes.Buffer // encoded packets that are not written yet; nil without any; under outMu
	writing  bool          // a goroutine writes; under outMu
	writeErr error         // that of the latest write; under outMu
	written  sync.Cond     // of outMu: something was written

	reason   atomic.Pointer[string] // why it ended, the first one counts
	mu       sync.Mutex
	requests []func() // that answer messages to reserved topics, the first one runs; under mu
}

// newConn returns the connection of a client whose client id CONNECT will name.
func (b *Broker) newConn(c net.Conn, w *wire, p Principal) *Conn {
	p.Address = addrPort(c.RemoteAddr())
	conn := &Conn{broker: b, net: c, wire: w, reader: bufio.NewReaderSize(c, readBuffer), principal: p, address: p.Address.String(), ended: make(chan struct{})}
	conn.written.L = &conn.outMu
	if b.config.EnforceRates {
		conn.throughput = rate.NewLimiter(bytesPerSecond, bytesPerSecond) // a packet fits whole
		conn.publishes = rate.NewLimiter(publishesPerSecond, publishesPerSecond)
	}
	return conn
}

// addrPort reads the address of a TCP connection.
func addrPort(a net.Addr) netip.AddrPort {
	address, _ := netip.ParseAddrPort(a.String()) // TCP addresses parse
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port())
}

// ClientID returns the MQTT client id.
func (c *Conn) ClientID() string { return c.principal.ClientID }

// CertificateID returns the id of the client's certificate.
func (c *Conn) CertificateID() string { return c.principal.CertificateID }

// Event returns an event of this type about the connection.
func (c *Conn) Event(t event.Type) event.Event {
	p := &c.principal
	e := event.Event{Type: t, ClientID: p.ClientID, CertificateID: p.CertificateID, Address: c.address}
	if c.auth != nil {
		e.ThingName, _ = c.auth.Thing()
	}
	return e
}

// record records an event about a topic or filter.
func (c *Conn) record(t event.Type, topic string) {
	e := c.Event(t)
	e.Topic = topic
	c.broker.config.Record(e)
}

// reject records that something was rejected, and why.
func (b *Broker) reject(c *Conn, a event.Action, topic, reason string) {
	e := c.Event(event.Rejected)
	e.Action, e.Topic, e.Reason = a, topic, reason
	b.config.Record(e)
}

// Close ends the connection as AWS does when it needs the server, after what was queued for the
// client, such as a PUBACK.
func (c *Conn) Close() {
	c.end(reasonServerInitiated, packets.ErrServerShuttingDown)
}

// v5 reports whether the client speaks MQTT 5.
func (c *Conn) v5() bool { return c.version == 5 }

// end closes the connection for a reason, after what was queued for the client. Only MQTT 5 has a
// packet that says why; MQTT 3.1.1 is closed without one.
func (c *Conn) end(reason string, code packets.Code) {
	c.setDisconnectReason(reason)
	if c.established.Load() {
		_ = c.net.SetWriteDeadline(time.Now().Add(closeTimeout)) // that of keep-alive may be over
		// Each packet of the client moves the deadline.
		late := time.AfterFunc(closeTimeout, func() { c.net.Close() })
		defer late.Stop()
		var pk *packets.Packet
		if c.v5() {
			pk = newPacket(packets.Disconnect, 0)
			pk.ReasonCode, pk.Properties.ReasonString = code.Code, code.Reason
		}
		_ = c.send(pk) // the client may be gone already
	}
	c.net.Close()
}

// setDisconnectReason keeps and returns the first reason for the end.
func (c *Conn) setDisconnectReason(reason string) (first string) {
	c.reason.CompareAndSwap(nil, &reason)
	return *c.reason.Load()
}

const (
	flushAt = 16 << 10 // bytes that are written together: a TLS record has room for no more (RFC 8446, section 5.1)
	maxOut  = 64 << 10 // bytes that wait while others are being written
)

var outBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// newPacket returns a packet of this type.
func newPacket(kind byte, id uint16) *packets.Packet {
	return &packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id}
}

// encoders write the packets that are rare; those of each message are queued as bytes.
var encoders = map[byte]func(*packets.Packet, *bytes.Buffer) error{
	packets.Connack:    (*packets.Packet).ConnackEncode,
	packets.Puback:     (*packets.Packet).PubackEncode,
	packets.Suback:     (*packets.Packet).SubackEncode,
	packets.Unsuback:   (*packets.Packet).UnsubackEncode,
	packets.Disconnect: (*packets.Packet).DisconnectEncode,
}

// send writes a packet unless it is nil, and those that were queued before it, and returns when
// they have been written.
func (c *Conn) send(pk *packets.Packet) error {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	if pk != nil {
		if err := c.encode(pk); err != nil {
			return err
		}
	}
	for c.writing {
		c.written.Wait()
	}
	return c.writeOut()
}

// queue leaves a packet to be written by finishBatch, so that several share one TLS record and one
// system call. It is for the reader only.
func (c *Conn) queue(pk *packets.Packet) error {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	c.queued = true
	if err := c.encode(pk); err != nil {
		return err
	}
	return c.writeErr
}

// queueBytes leaves the parts of an encoded packet to be written by the next flush.
func (c *Conn) queueBytes(parts ...[]byte) error {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	for _, part := range parts {
		c.buffer().Write(part)
	}
	return c.writeErr
}

// flush writes what was queued, unless another goroutine is writing: that one takes it along. It
// then waits only for a client that reads nothing.
func (c *Conn) flush() error {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	for c.writing && c.out != nil && c.out.Len() >= maxOut {
		c.written.Wait()
	}
	if c.writing {
		return c.writeErr
	}
	return c.writeOut()
}

// writeOut writes until nothing is queued. The caller holds outMu, which is free while it writes.
func (c *Conn) writeOut() error {
	c.writing = true
	for c.out != nil && c.writeErr == nil {
		out := c.out
		c.out = nil
		c.outMu.Unlock()
		c.throttle(out.Len())
		_, err := c.net.Write(out.Bytes())
		if out.Cap() <= 2*flushAt {
			out.Reset()
			outBuffers.Put(out)
		}
		c.outMu.Lock()
		c.writeErr = err
		c.written.Broadcast()
	}
	c.writing = false
	c.written.Broadcast()
	return c.writeErr
}

// buffer returns what is written next. The caller holds outMu.
func (c *Conn) buffer() *bytes.Buffer {
	if c.out == nil {
		c.out = outBuffers.Get().(*bytes.Buffer)
	}
	return c.out
}

// encode appends a packet to out. A packet that is too large for the client leaves out as it was.
// The caller holds outMu.
func (c *Conn) encode(pk *packets.Packet) error {
	kind, out := pk.FixedHeader.Type, c.buffer()
	before := out.Len()
	pk.ProtocolVersion = c.version
	pk.Mods.MaxSize = c.maxPacketSize
	pk.Mods.DisallowProblemInfo = c.noProblemInfo       // [MQTT-3.1.2-29]
	pk.Mods.AllowResponseInfo = kind != packets.Connack // [MQTT-3.1.2-28]
	err := encoders[kind](pk, out)
	if err == nil && c.maxPacketSize > 0 && uint32(out.Len()-before) > c.maxPacketSize { // 0 before CONNECT
		err = packets.ErrPacketTooLarge // [MQTT-3.1.2-24] [MQTT-3.1.2-25]
	}
	if err != nil {
		if out.Truncate(before); before == 0 {
			c.out = nil
		}
	}
	return err
}

// throttle waits until so many bytes, a packet at most, may pass.
func (c *Conn) throttle(n int) {
	if c.throughput != nil {
		time.Sleep(c.throughput.ReserveN(time.Now(), min(n, bytesPerSecond)).Delay())
	}
}

// overRate counts a message and reports whether it is beyond AWS's rate.
func (c *Conn) overRate() bool {
	return c.publishes != nil && !c.publishes.AllowN(c.broker.config.Now(), 1)
}
