package broker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/event"
)

// errClosed ends a connection that was closed, or answered, already.
var errClosed = errors.New("the connection was closed")

const maxRequest = 64 << 10 // bytes of an HTTP request

// establish answers the CONNECT of a connection, or its HTTP request. serve must follow.
func (b *Broker) establish(c *Conn) {
	defer b.recoverPanic(c)
	if err := c.net.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return
	}
	// A client may send an HTTP request. Its first byte would be a PUBACK of MQTT, which no client
	// may begin with.
	if start, _ := c.reader.Peek(1); b.config.HTTP != nil && string(start) == "G" {
		if start, _ = c.reader.Peek(4); string(start) == "GET " {
			b.serveHTTP(c)
			return
		}
	}
	if err := b.connect(c); err == nil {
		c.wire.conn, c.wire.read = c, true
	} else if !errors.Is(err, errClosed) {
		b.reject(c, event.Connect, "", "no acceptable CONNECT came: "+err.Error())
	}
}

// serve leads a connection from CONNACK, if it came so far, to its end.
func (b *Broker) serve(ctx context.Context, c *Conn) {
	defer close(c.ended)
	defer b.disconnected(c)
	defer b.recoverPanic(c)
	if c.wire.conn == nil {
		return
	}
	var pk packets.Packet // each in its turn
	for {
		if c.wire.read { // since the deadline was set
			c.wire.read = false
			if err := c.net.SetDeadline(time.Now().Add(c.keepAlive * 3 / 2)); err != nil { // [MQTT-3.1.2-22]
				return
			}
		}
		err := c.read(&pk)
		if err == nil {
			err = b.handle(ctx, c, &pk)
		}
		if err == nil {
			continue
		}
		_ = c.finishBatch() // the client may be gone
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.end(reasonKeepAliveTimeout, packets.ErrKeepAliveTimeout)
		} else if code, ok := errors.AsType[packets.Code](err); ok {
			b.reject(c, event.Packet, "", err.Error())
			c.end(reasonClientError, code)
		}
		return
	}
}

// serveHTTP answers one request. The connection ends with the response.
func (b *Broker) serveHTTP(c *Conn) {
	r, err := http.ReadRequest(bufio.NewReader(io.LimitReader(c.reader, maxRequest)))
	if err != nil {
		return
	}
	if err := b.config.Authorizer.VerifyCertificate(c.principal, nil, true); err != nil { // since the handshake
		b.reject(c, event.Credentials, "", err.Error())
		return
	}
	response := b.config.HTTP(r, c.principal)
	response.ProtoMajor, response.ProtoMinor, response.Close = 1, 1, true
	_ = response.Write(c.net) // the client may be gone
}

// handle deals with one packet after CONNECT. An error ends the connection.
func (b *Broker) handle(ctx context.Context, c *Conn, pk *packets.Packet) error {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return b.published(ctx, c, pk)
	case packets.Puback:
		if d := c.session.takeID(pk.PacketID); d != nil && d.acked != nil { // an id that is not in use is no error
			close(d.acked)
		}
		return nil
	case packets.Subscribe:
		return b.subscribe(c, pk)
	case packets.Unsubscribe:
		return b.unsubscribe(c, pk)
	case packets.Pingreq:
		c.queued = true
		return c.queueBytes([]byte{packets.Pingresp << 4, 0})
	case packets.Connect:
		return b.violation(c, event.Connect, packets.ErrProtocolViolationSecondConnect)
	case packets.Disconnect:
		return b.disconnect(c, pk)
	}
	return b.violation(c, event.Packet, errUnsupportedPacket)
}

// violation ends a connection whose client broke the protocol.
func (b *Broker) violation(c *Conn, a event.Action, code packets.Code) error {
	b.reject(c, a, "", code.Reason)
	c.end(reasonClientError, code)
	return errClosed
}

// disconnect follows a DISCONNECT of the client.
func (b *Broker) disconnect(c *Conn, pk *packets.Packet) error {
	if p := pk.Properties; p.SessionExpiryIntervalFlag {
		if p.SessionExpiryInterval > 0 && c.session.expiry == 0 {
			return b.violation(c, event.Packet, packets.ErrProtocolViolationZeroNonZeroExpiry) // [MQTT-3.14.2-2]
		}
		c.session.expiry = b.grantExpiry(p.SessionExpiryInterval)
	}
	if pk.ReasonCode == packets.CodeDisconnect.Code { // the one that deletes it [MQTT-3.14.4-3]
		c.will = nil
	}
	c.setDisconnectReason(reasonClientInitiated)
	_ = c.finishBatch() // the client may be gone
	_ = c.net.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.reader.ReadByte(); errors.Is(err, io.EOF) { // it has ended TLS too, and does not wait for our alert
		c.wire.Close()
	}
	return errClosed
}

// disconnected follows the end of a connection, however far it came.
func (b *Broker) disconnected(c *Conn) {
	c.net.Close()
	if c.session != nil {
		_ = c.finishBatch() // of what a panic interrupted
		b.closeSession(c)
	}
	reason := c.setDisconnectReason(reasonConnectionLost)
	if c.established.Load() {
		e := c.Event(event.Disconnected)
		e.Reason = reason
		b.config.Record(e)
		byClient := reason == reasonClientInitiated
		b.lifecycle(c, "presence", lifecycleEvent{EventType: "disconnected", DisconnectReason: reason, ClientInitiatedDisconnect: &byClient})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, known := b.past[c.principal.ClientID]
	if c.established.Load() && (known || len(b.past) < maxPast) {
		state := c.state()
		state.Connected, state.Since, state.DisconnectReason = false, b.config.Now(), reason
		b.past[c.principal.ClientID] = state
	}
	if b.current[c.principal.ClientID] == c {
		delete(b.current, c.principal.ClientID)
	}
}

// recoverPanic keeps a packet that makes the broker or a handler panic from ending the connections
// of all others.
func (b *Broker) recoverPanic(c *Conn) {
	if r := recover(); r != nil {
		b.config.Log.Error("the broker panicked", "panic", r, "client", c.principal.ClientID,
			"certificate", c.principal.CertificateID, "stack", string(debug.Stack()))
	}
}
