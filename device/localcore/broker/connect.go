package broker

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"example.com/fleety/device/localcore/event"
)

// connect reads and authorizes CONNECT, makes the connection the one of its client id, and answers
// CONNACK.
func (b *Broker) connect(c *Conn) error {
	pk, err := b.readConnect(c)
	if err != nil {
		return err
	}
	c.version = pk.ProtocolVersion
	c.maxPacketSize = pk.Properties.MaximumPacketSize
	c.noProblemInfo = pk.Properties.RequestProblemInfoFlag && pk.Properties.RequestProblemInfo == 0
	c.keepAlive = maxKeepAlive // for 0 too
	if seconds := pk.Connect.Keepalive; seconds > 0 {
		c.keepAlive = min(max(time.Duration(seconds)*time.Second, minKeepAlive), maxKeepAlive)
	}
	c.principal.ClientID = pk.Connect.ClientIdentifier
	assigned := ""
	if c.v5() && c.principal.ClientID == "" {
		assigned = rand.Text() // [MQTT-3.1.3-6] [MQTT-3.1.3-7]
		c.principal.ClientID = assigned
	}
	c.auth = b.config.Authorizer.NewSession(c.principal)
	if code, reason := checkConnect(pk); reason != "" {
		return b.rejectConnect(c, code, reasonClientError, reason)
	}
	if c.sentAlready() {
		return b.rejectConnect(c, packets.ErrProtocolViolation, reasonClientError, "a packet came before CONNACK, which the client must wait for")
	}
	if reason := b.throttleConnect(c.principal.ClientID); reason != "" {
		return b.rejectConnect(c, packets.ErrQuotaExceeded, reasonThrottled, reason)
	}
	if allowed, reason := c.auth.Authorize(AuthRequest{
		Action: "iot:Connect", Resource: "client/" + c.principal.ClientID,
		Persistent: !pk.Connect.Clean || pk.Properties.SessionExpiryInterval > 0,
		HasWill:    pk.Connect.WillFlag, WillTopic: pk.Connect.WillTopic,
	}); !allowed {
		return b.rejectConnect(c, packets.ErrNotAuthorized, reasonForbidden, reason)
	}
	// The will is published on behalf of the client.
	// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html
	if pk.Connect.WillFlag {
		if allowed, reason := c.authorizePublish(pk.Connect.WillTopic, pk.Connect.WillRetain); !allowed {
			return b.rejectConnect(c, packets.ErrNotAuthorized, reasonForbidden, "will on topic "+pk.Connect.WillTopic+": "+reason)
		}
	}
	if err := b.takeOver(c); err != nil {
		return err
	}
	// The certificate may have left ACTIVE since the handshake; from here on DisconnectCertificate
	// finds the connection.
	if c.principal.Certificate != nil {
		if err := b.config.Authorizer.VerifyCertificate(c.principal, nil, true); err != nil {
			return b.rejectConnect(c, packets.ErrNotAuthorized, reasonAuthError, err.Error())
		}
	}
	present, err := b.openSession(c, pk)
	if err != nil {
		return b.rejectConnect(c, packets.ErrServerUnavailable, reasonServerError, err.Error())
	}
	c.sessionID, c.since = rand.Text(), b.config.Now()
	if err := c.queue(connack(c, present, assigned)); err != nil { // first, before others may send
		return errClosed
	}
	c.established.Store(true)
	b.config.Record(c.Event(event.Connected))
	b.lifecycle(c, "presence", lifecycleEvent{EventType: "connected", IPAddress: c.principal.Address.Addr().String()})
	if err := c.flush(); err != nil {
		return errClosed
	}
	b.startDelivery(c.session)
	return nil
}

// bridgeBit is set in the protocol level by the bridges of mosquitto. AWS IoT takes it.
const bridgeBit = 0x80

// readConnect reads a CONNECT of MQTT 3.1.1 or 5. Every other level is answered in the way of
// 3.1.1, which each client understands.
func (b *Broker) readConnect(c *Conn) (*packets.Packet, error) {
	start, err := c.reader.Peek(1)
	if err != nil {
		return nil, err
	}
	if start[0]>>4 != packets.Connect {
		start, _ = c.reader.Peek(min(8, c.reader.Buffered())) // an HTTP request shows what it is
		return nil, fmt.Errorf("the client began with %q", start)
	}
	first, body, err := c.readFrame()
	if err != nil {
		return nil, err
	}
	if len(body) < 2 || len(body) <= 2+int(binary.BigEndian.Uint16(body)) {
		return nil, packets.ErrMalformedProtocolName
	}
	end := 2 + int(binary.BigEndian.Uint16(body))
	name, level := string(body[2:end]), &body[end]
	if name == "MQTT" && *level == 4|bridgeBit {
		*level = 4
	}
	if name != "MQTT" || *level != 4 && *level != 5 {
		b.reject(c, event.Connect, "", fmt.Sprintf("protocol %q of level 0x%02x; AWS IoT speaks MQTT 3.1.1 (level 4) and 5", name, *level))
		c.version = 4
		connack := newPacket(packets.Connack, 0)
		connack.ReasonCode = packets.Err3UnsupportedProtocolVersion.Code // [MQTT-3.1.2-2]
		_ = c.send(connack)                                              // it is closed either way
		return nil, errClosed
	}
	pk := new(packets.Packet)
	return pk, decode(pk, first, body, 0)
}

// sentAlready reports whether the client sent more than its CONNECT, as far as it has arrived.
func (c *Conn) sentAlready() bool {
	if _, ok := c.wire.Conn.(*webSocket); ok { // which a read that times out ends
		return c.reader.Buffered() > 0
	}
	_ = c.net.SetReadDeadline(time.Unix(1, 0)) // do not wait
	_, err := c.reader.Peek(1)
	_ = c.net.SetReadDeadline(time.Now().Add(connectTimeout))
	return err == nil
}

// checkConnect finds what is wrong with the packet, whichever client sends it.
func checkConnect(pk *packets.Packet) (code packets.Code, reason string) {
	id := pk.Connect.ClientIdentifier
	switch {
	case pk.ReservedBit != 0 || pk.Connect.WillQos > 2:
		return packets.ErrProtocolViolation, "reserved flags are set" // [MQTT-3.1.2-3] [MQTT-3.1.2-14]
	case !pk.Connect.WillFlag && (pk.Connect.WillRetain || pk.Connect.WillQos > 0):
		return packets.ErrProtocolViolation, "flags of a will without a will" // [MQTT-3.1.2-13] [MQTT-3.1.2-15]
	case len(id) > maxClientID:
		return packets.ErrClientIdentifierNotValid, fmt.Sprintf("the client id has %d bytes; %d are allowed", len(id), maxClientID)
	case id == "" && pk.ProtocolVersion < 5:
		return packets.ErrClientIdentifierNotValid, "the client id is empty, which AWS allows with MQTT 5 only"
	case pk.ProtocolVersion < 5 && pk.Connect.PasswordFlag && !pk.Connect.UsernameFlag:
		return packets.ErrProtocolViolation, "a password without a user name" // [MQTT-3.1.2-22]
	case !utf8.Valid(pk.Connect.Username) || slices.Contains(pk.Connect.Username, 0):
		return packets.ErrMalformedUsername, "the user name is not UTF-8, or holds the character U+0000" // [MQTT-3.1.3-11]
	case pk.Properties.AuthenticationMethod != "" || len(pk.Properties.AuthenticationData) > 0:
		return packets.ErrUnspecifiedError, "AWS IoT supports no authentication method of MQTT 5" // [MQTT-4.12.0-1]
	case max(pk.Properties.RequestProblemInfo, pk.Properties.RequestResponseInfo) > 1: // [MQTT-3.1.2.11.6]
		return packets.ErrProtocolViolation, "Request Problem Information or Request Response Information is neither 0 nor 1"
	case pk.Properties.ReceiveMaximum == 0:
		return packets.ErrProtocolViolation, "the Receive Maximum of the client is 0" // [MQTT-3.1.2.11.3]
	case pk.Properties.MaximumPacketSize < minClientPacket:
		return packets.ErrUnspecifiedError, fmt.Sprintf("the Maximum Packet Size of the client is under %d bytes", minClientPacket)
	case pk.Connect.WillFlag && pk.Connect.WillQos > 1:
		return packets.ErrQosNotSupported, "a will of QoS 2 is not supported; use 0 or 1" // [MQTT-3.2.2-12]
	case pk.Connect.WillFlag:
		if code, reason = checkMessage(pk.Connect.WillTopic, pk.Connect.WillPayload, pk.Connect.WillRetain, &pk.Connect.WillProperties); reason != "" {
			reason = "will on topic " + pk.Connect.WillTopic + ": " + reason
		}
		return code, reason
	}
	return packets.CodeSuccess, ""
}

// connackCodes are the reason codes that AWS answers a rejected CONNECT of MQTT 5 with. 0x86 is for
// custom authorizers.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
var connackCodes = []byte{0x80, 0x85, 0x86, 0x87, 0x90, 0x97, 0x9B}

// rejectConnect answers a rejected CONNECT: MQTT 5 with its reason code, MQTT 3.1.1 by closing,
// with a return code where the client id is at fault or Config.ConnackOnDeny says so (U12).
func (b *Broker) rejectConnect(c *Conn, code packets.Code, reason, why string) error {
	b.reject(c, event.Connect, "", why)
	c.setDisconnectReason(reason)
	failure := reason
	if failure == reasonForbidden {
		failure = "AUTHORIZATION_FAILED"
	}
	address := c.principal.Address.Addr().String()
	b.lifecycle(c, "presence", lifecycleEvent{EventType: "connect_failed", ConnectFailureReason: failure, IPAddress: address})
	answer := byte(0)
	switch {
	case c.v5() && slices.Contains(connackCodes, code.Code):
		answer = code.Code
	case c.v5():
		answer = packets.ErrUnspecifiedError.Code
	case code == packets.ErrClientIdentifierNotValid:
		answer = packets.Err3ClientIdentifierNotValid.Code
	case code == packets.ErrNotAuthorized:
		answer = b.config.ConnackOnDeny
	}
	if answer != 0 {
		connack := newPacket(packets.Connack, 0)
		connack.ReasonCode, connack.Properties.ReasonString = answer, code.Reason
		_ = c.send(connack) // it is closed either way
	}
	return errClosed
}

// connack returns the CONNACK of success, which in MQTT 5 advertises what AWS offers.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
func connack(c *Conn, present bool, assigned string) *packets.Packet {
	pk := newPacket(packets.Connack, 0)
	pk.SessionPresent = present
	pk.Properties = packets.Properties{
		AssignedClientID: assigned,
		ServerKeepAlive:  uint16(c.keepAlive / time.Second), ServerKeepAliveFlag: true, // [MQTT-3.1.2-21]
		ReceiveMaximum: maxUnacknowledged,
		MaximumQos:     1, MaximumQosFlag: true,
		RetainAvailable: 1, RetainAvailableFlag: true,
		WildcardSubAvailable: 1, WildcardSubAvailableFlag: true,
		SubIDAvailable: 0, SubIDAvailableFlag: true,
		SharedSubAvailable: 1, SharedSubAvailableFlag: true,
		TopicAliasMaximum:     maxTopicAliases,
		MaximumPacketSize:     maxPacket,
		SessionExpiryInterval: uint32(c.session.expiry / time.Second), SessionExpiryIntervalFlag: true,
	}
	return pk
}

// throttleConnect returns which of AWS's rates a CONNECT is over, if any.
func (b *Broker) throttleConnect(clientID string) (reason string) {
	if !b.config.EnforceRates {
		return ""
	}
	b.mu.Lock()
	if len(b.connects) > maxConnectRates {
		clear(b.connects)
	}
	limiter := b.connects[clientID]
	if limiter == nil {
		limiter = rate.NewLimiter(connectsPerSecond, connectsPerSecond)
		b.connects[clientID] = limiter
	}
	b.mu.Unlock()
	switch now := b.config.Now(); {
	case !limiter.AllowN(now, 1):
		return "more than one CONNECT per second under this client id"
	case !b.allConnects.AllowN(now, 1):
		return fmt.Sprintf("more than %d CONNECTs per second in this account", accountConnects)
	}
	return ""
}

// takeOver ends the connection that has the client id now and waits until nothing of it is left.
func (b *Broker) takeOver(c *Conn) error {
	b.mu.Lock()
	older, closed := b.current[c.principal.ClientID], b.closed
	b.current[c.principal.ClientID] = c
	b.mu.Unlock()
	if older != nil {
		older.end(reasonDuplicateID, packets.ErrSessionTakenOver)
		<-older.ended
	}
	if closed || b.connection(c.principal.ClientID) != c { // a still newer one came meanwhile
		return errClosed
	}
	return nil
}
