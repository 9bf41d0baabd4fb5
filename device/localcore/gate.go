package localcore

import (
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// A gate is the broker's only mochi hook: mochi combines the answers of
// several by OR, so that a second one could only open what this one closes.
//
// PUBLISH, PUBACK, SUBSCRIBE and UNSUBSCRIBE are dealt with as they are read and
// never reach mochi's own processing, from which AWS differs at every step. What
// goes out waits in our outboxes: mochi has nothing in flight.
type gate struct {
	mqtt.HookBase
	*broker
}

// done is a packet that mochi ignores: the acknowledgement of an id that is
// never used.
var done = packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}}

// ID names the hook.
func (g *gate) ID() string { return "gate" }

// Provides tells mochi which methods to call.
func (g *gate) Provides(method byte) bool {
	switch method {
	case mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnSessionEstablished,
		mqtt.OnPacketRead, mqtt.OnPacketEncode, mqtt.OnDisconnect, mqtt.OnClientExpired, mqtt.OnWill,
		mqtt.OnRetainedExpired:
		return true
	}
	return false
}

// OnConnect judges a CONNECT. An error closes the connection.
func (g *gate) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	return g.connect(connectionOf(cl), cl, pk)
}

// OnConnectAuthenticate has nothing left to judge.
func (g *gate) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

// OnSessionEstablished follows the CONNACK.
func (g *gate) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	g.connected(connectionOf(cl))
}

// OnPacketRead sees every packet before mochi. Any error closes the connection.
func (g *gate) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c := connectionOf(cl)
	if !c.established.Load() {
		return allowEmptyWill(c, pk), nil // the CONNECT
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return done, g.published(c, pk)
	case packets.Subscribe:
		return done, g.subscribe(c, pk)
	case packets.Unsubscribe:
		return done, g.unsubscribe(c, pk)
	case packets.Puback:
		return done, g.acknowledged(c, pk)
	case packets.Connect:
		return pk, g.breach(c, ActionConnect, packets.ErrProtocolViolationSecondConnect)
	case packets.Pubrec, packets.Pubrel, packets.Pubcomp, packets.Auth:
		return pk, g.breach(c, ActionPacket, errUnsupportedPacket)
	case packets.Disconnect:
		c.because(reasonClientInitiated)
	}
	return pk, nil
}

// errUnsupportedPacket answers PUBREC, PUBREL, PUBCOMP and AUTH.
var errUnsupportedPacket = packets.Code{Code: packets.ErrProtocolViolation.Code, Reason: "a packet that AWS IoT does not support"}

// breach ends a connection whose client broke the protocol.
func (b *broker) breach(c *connection, a Action, code packets.Code) error {
	b.refuse(c, a, "", code.Reason)
	c.end(reasonClientError, code)
	return packets.ErrRejectPacket
}

// OnPacketEncode puts right what mochi sends other than AWS.
func (g *gate) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	switch pk.FixedHeader.Type {
	case packets.Connack:
		return g.completeConnack(cl, pk)
	case packets.Disconnect:
		if cl.Properties.ProtocolVersion < 5 {
			pk.FixedHeader.Type = packets.Reserved // 3.1.1 has no DISCONNECT for servers: mochi drops it
		}
	}
	return pk
}

// OnDisconnect follows the end of an established connection.
func (g *gate) OnDisconnect(cl *mqtt.Client, err error, _ bool) {
	g.disconnected(connectionOf(cl), err)
}

// OnClientExpired drops what mochi leaves behind of a lapsed session.
func (g *gate) OnClientExpired(cl *mqtt.Client) {
	g.mochi.UnsubscribeClient(cl)
	g.forgetSession(cl.ID)
}

// OnWill takes a will that is due. mochi sends the empty one to nobody.
func (g *gate) OnWill(cl *mqtt.Client, will mqtt.Will) (mqtt.Will, error) {
	cl.Properties.Will.WillDelayInterval = 0
	if c := connectionOf(cl); !c.preventWill.Load() {
		g.publishWill(c, will)
	}
	return mqtt.Will{}, nil
}

// OnRetainedExpired follows the end of a retained message.
func (g *gate) OnRetainedExpired(topic string) {
	g.keepRetained(packets.Packet{TopicName: topic})
}
