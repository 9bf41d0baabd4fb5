package localcore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rs/xid"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/registry"
)

var errConnectRefused = errors.New("the connection was refused")

// connect judges a CONNECT and makes the connection the one of its client id.
func (b *broker) connect(c *connection, cl *mqtt.Client, pk packets.Packet) error {
	c.client = cl
	if c.emptyWill {
		cl.Properties.Will.Payload, pk.Connect.WillPayload = nil, nil
	}
	c.session = b.newSession(c, cl.ID)
	_, c.exclusive = b.registry.ExclusiveThing(c.certificateID)
	clampKeepAlive(cl)
	if code, reason := b.checkConnect(pk); reason != "" {
		return b.refuseConnect(c, code, reasonClientError, reason)
	}
	if reason := b.throttleConnect(cl.ID); reason != "" {
		return b.refuseConnect(c, packets.ErrQuotaExceeded, reasonThrottled, reason)
	}
	if d := b.judgeConnect(c, pk); !d.Allowed {
		return b.refuseConnect(c, packets.ErrNotAuthorized, reasonForbidden, d.Explain())
	}
	if topic, d := b.judgeWill(c, pk); !d.Allowed {
		return b.refuseConnect(c, packets.ErrNotAuthorized, reasonForbidden, "will on topic "+topic+": "+d.Explain())
	}
	if err := b.takeOver(c); err != nil {
		return err
	}
	b.openSession(c)
	c.sessionID = xid.New().String()
	return nil
}

// allowEmptyWill makes mochi accept a will without payload, which MQTT allows
// [MQTT-3.1.3.3]; connect puts it right again.
func allowEmptyWill(c *connection, pk packets.Packet) packets.Packet {
	if pk.Connect.WillFlag && len(pk.Connect.WillPayload) == 0 {
		c.emptyWill, pk.Connect.WillPayload = true, []byte{0}
	}
	return pk
}

// newSession gathers what policies can ask about a connection.
func (b *broker) newSession(c *connection, clientID string) policy.Session {
	s := policy.Session{
		ClientID:    clientID,
		SourceIP:    c.address.Addr(),
		DomainName:  c.serverName,
		Certificate: c.certificate,
	}
	if t, ok := b.registry.ThingFor(c.certificateID, clientID); ok {
		s.Thing = policyThing(t)
	}
	return s
}

// policyThing returns a thing that is attached to the session's certificate.
func policyThing(t registry.Thing) *policy.Thing {
	return &policy.Thing{Name: t.Name, Type: t.Type, Attributes: t.Attributes, Attached: true}
}

// clampKeepAlive sets the keep-alive that AWS would grant: 0 and more than
// 1200 seconds become 1200, less than 30 becomes 30. MQTT 5 clients are told.
func clampKeepAlive(cl *mqtt.Client) {
	asked := cl.State.Keepalive
	switch {
	case asked == 0 || asked > maxKeepAlive:
		cl.State.Keepalive = maxKeepAlive
	case asked < minKeepAlive:
		cl.State.Keepalive = minKeepAlive
	}
	cl.State.ServerKeepalive = true
}

// checkConnect finds what is wrong with the packet, whoever sends it.
func (b *broker) checkConnect(pk packets.Packet) (code packets.Code, reason string) {
	id := pk.Connect.ClientIdentifier
	switch {
	case len(id) > maxClientID:
		return packets.ErrClientIdentifierNotValid, fmt.Sprintf("the client id has %d bytes; %d are allowed", len(id), maxClientID)
	case id == "" && pk.ProtocolVersion < 5:
		return packets.ErrClientIdentifierNotValid, "the client id is empty, which AWS allows with MQTT 5 only"
	case pk.Properties.MaximumPacketSize > 0 && pk.Properties.MaximumPacketSize < minClientPacket:
		return packets.ErrUnspecifiedError, fmt.Sprintf("the Maximum Packet Size of the client is under %d bytes", minClientPacket)
	}
	if pk.Connect.WillFlag {
		return checkPublication(pk.Connect.WillTopic, pk.Connect.WillPayload, pk.Connect.WillRetain)
	}
	return packets.CodeSuccess, ""
}

func (b *broker) judgeConnect(c *connection, pk packets.Packet) policy.Decision {
	r := &policy.Request{Action: "iot:Connect", Resource: b.config.arn("client/" + c.session.ClientID)}
	if !pk.Connect.Clean || pk.Properties.SessionExpiryInterval > 0 {
		r.ConnectAttributes = append(r.ConnectAttributes, policy.PersistentConnect)
	}
	if pk.Connect.WillFlag {
		r.ConnectAttributes = append(r.ConnectAttributes, policy.LastWill)
		r.LastWillTopic = b.config.arn("topic/" + pk.Connect.WillTopic)
	}
	return b.judge(c, r)
}

// judgeWill asks for iot:Publish on the topic of the will, if there is one.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html
func (b *broker) judgeWill(c *connection, pk packets.Packet) (topic string, d policy.Decision) {
	if !pk.Connect.WillFlag {
		return "", policy.Decision{Allowed: true}
	}
	return pk.Connect.WillTopic, b.judgePublish(c, pk.Connect.WillTopic, pk.Connect.WillRetain)
}

// refuseConnect answers a refused CONNECT: MQTT 5 with its reason code, MQTT
// 3.1.1 by closing, with a return code where the client id is at fault or the
// choice of U12 says so.
func (b *broker) refuseConnect(c *connection, code packets.Code, reason, why string) error {
	b.refuse(c, ActionConnect, "", why)
	c.because(reason)
	b.lifecycleConnectFailed(c, reason)
	switch {
	case c.v5(), code == packets.ErrClientIdentifierNotValid:
		_ = b.mochi.SendConnack(c.client, code, false, nil) // it is closed either way
	case code == packets.ErrNotAuthorized && b.config.Choices.ConnackOnDeny != 0:
		_ = c.client.WritePacket(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Connack},
			ReasonCode:  b.config.Choices.ConnackOnDeny,
		})
	}
	return errConnectRefused
}

// throttleConnect tells which of AWS's rates a CONNECT is over, if any.
func (b *broker) throttleConnect(clientID string) (reason string) {
	now := b.config.Now()
	switch {
	case b.config.Quotas != QuotasAWS:
		return ""
	case !b.connectRate(clientID).allow(now, connectsPerSecond):
		return "more than one CONNECT in a second under this client id"
	case !b.allConnects.allow(now, accountConnects):
		return fmt.Sprintf("more than %d CONNECTs in a second in this account", accountConnects)
	}
	return ""
}

// connectRate returns the counter of a client id.
func (b *broker) connectRate(clientID string) *rate {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.connects) > maxConnectRates {
		clear(b.connects)
	}
	r := b.connects[clientID]
	if r == nil {
		r = new(rate)
		b.connects[clientID] = r
	}
	return r
}

// takeOver ends the connection that has the client id now and waits until the
// broker has let go of it: mochi's own takeover can lose the newer one.
func (b *broker) takeOver(c *connection) error {
	b.mu.Lock()
	older := b.current[c.session.ClientID]
	b.current[c.session.ClientID] = c
	b.mu.Unlock()
	if older == nil {
		return nil
	}
	older.end(reasonDuplicateID, packets.ErrSessionTakenOver)
	<-older.ended
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current[c.session.ClientID] != c {
		return errConnectRefused // a still newer one came meanwhile
	}
	return nil
}

// letGo forgets the connection, unless another has its client id already.
func (b *broker) letGo(c *connection) {
	if c.outbox != nil {
		c.outbox.leave(c, b.config.Now().Add(b.sessionExpiry(c.client)))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current[c.session.ClientID] == c {
		delete(b.current, c.session.ClientID)
	}
}

// abandon follows a connection that was admitted but gone before its CONNACK:
// mochi would keep its session as if it had been established.
func (b *broker) abandon(c *connection) {
	stored, ok := b.mochi.Clients.Get(c.session.ClientID)
	if ok && stored == c.client && b.sessionExpiry(c.client) == 0 {
		b.dropSession(c.session.ClientID)
	} else {
		b.closeSession(c)
	}
}

// connected follows a CONNACK of success.
func (b *broker) connected(c *connection) {
	c.announced = true
	c.noteFilters()
	ctx, cancel := context.WithCancel(context.Background())
	c.stopWriter = cancel
	c.writer.Go(func() { b.write(ctx, c) })
	b.journal.record(c.event(Connected))
	b.lifecycleConnected(c)
}

// disconnected follows the end of a connection that was established. An error
// code that is not our own is mochi's, which found a packet out of place.
func (b *broker) disconnected(c *connection, err error) {
	code, ok := errors.AsType[packets.Code](err)
	misplaced := ok && code != packets.ErrRejectPacket && code.Code >= packets.ErrUnspecifiedError.Code
	if c.complaint == "" && misplaced && c.because(reasonClientError) {
		c.complaint = err.Error()
	}
	if c.complaint != "" {
		b.refuse(c, ActionPacket, "", c.complaint)
	}
	b.closeSession(c)
	e := c.event(Disconnected)
	e.Reason = c.endReason()
	b.journal.record(e)
	b.lifecycleDisconnected(c)
}

// connackCodes are the reason codes that AWS answers a refused CONNECT of
// MQTT 5 with. 0x86 is for custom authorizers.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
var connackCodes = []byte{0x80, 0x85, 0x86, 0x87, 0x90, 0x97, 0x9B}

// completeConnack tells an MQTT 5 client what AWS tells it, and notes that the
// connection is established from now on.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html
func (b *broker) completeConnack(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	if pk.ReasonCode != packets.CodeSuccess.Code {
		if cl.Properties.ProtocolVersion == 5 && !slices.Contains(connackCodes, pk.ReasonCode) {
			pk.ReasonCode = packets.ErrUnspecifiedError.Code
		}
		return pk
	}
	connectionOf(cl).established.Store(true)
	if cl.Properties.ProtocolVersion < 5 {
		return pk
	}
	p := &pk.Properties
	p.MaximumQos, p.MaximumQosFlag = 1, true
	p.RetainAvailable, p.RetainAvailableFlag = 1, true
	p.WildcardSubAvailable, p.WildcardSubAvailableFlag = 1, true
	p.SubIDAvailable, p.SubIDAvailableFlag = 0, true
	p.SharedSubAvailable, p.SharedSubAvailableFlag = 1, true
	p.TopicAliasMaximum = maxTopicAliases
	p.MaximumPacketSize = maxPacket
	p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = cl.Properties.Props.SessionExpiryInterval, true
	return pk
}
