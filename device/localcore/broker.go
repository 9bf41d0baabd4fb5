package localcore

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/registry"
)

// Limits of AWS IoT Core.
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const (
	maxClientID            = 128 // bytes
	maxTopic               = 256 // bytes
	maxTopicSlashes        = 7
	maxPayload             = 128 << 10
	maxPacket              = 146 << 10
	minClientPacket        = 512
	maxFiltersPerSubscribe = 8
	maxSubscriptions       = 50
	minKeepAlive           = 30   // seconds
	maxKeepAlive           = 1200 // seconds, the default too
	maxUnacknowledged      = 100
	maxTopicAliases        = 8
	maxMessageExpiry       = 604800 // seconds
	publishesPerSecond     = 100    // per connection, both ways
	connectsPerSecond      = 1      // per client id
	outboundQueue          = 1024   // packets; ours
	maxConnectRates        = 10_000 // client ids whose CONNECTs are counted; ours
	neverPublishSysTopics  = math.MaxInt32
	localListener          = "local"
	propertyByteLimit      = 8 << 10 // correlation data; user properties in sum
	maxContentType         = 256
)

// A broker is the MQTT side: mochi keeps sessions, the topic tree and the
// queues, and every decision is taken here.
type broker struct {
	config   *Config
	registry *registry.Registry
	journal  *journal
	mochi    *mqtt.Server
	// provision answers the provisioning API.
	provision *provisioner
	policies  policyCache
	service   *mqtt.Client // publishes in the name of AWS IoT
	listeners []*listener
	retained  *retainedStore // nil without a state
	serving   bool
	gag       gag

	mu       sync.Mutex
	current  map[string]*connection // by client id, under mu
	connects map[string]*rate       // by client id, under mu
}

func newBroker(c *Config, r *registry.Registry, j *journal, p *provisioner) (*broker, error) {
	b := &broker{
		config: c, registry: r, journal: j, provision: p,
		current: map[string]*connection{}, connects: map[string]*rate{},
	}
	capabilities := mqtt.NewDefaultServerCapabilities()
	capabilities.MaximumQos = 1
	capabilities.MinimumProtocolVersion = 4
	capabilities.MaximumPacketSize = maxPacket
	capabilities.ReceiveMaximum = maxUnacknowledged
	capabilities.MaximumInflight = math.MaxUint16
	capabilities.TopicAliasMaximum = maxTopicAliases
	capabilities.SubIDAvailable = 0
	capabilities.MaximumClientWritesPending = outboundQueue
	capabilities.MaximumMessageExpiryInterval = 0 // no expiry but the publisher's
	capabilities.MaximumSessionExpiryInterval = uint32(c.SessionExpiry.Seconds())
	capabilities.Compatibilities.NoInheritedPropertiesOnAck = true
	b.mochi = mqtt.New(&mqtt.Options{
		Capabilities:           capabilities,
		Logger:                 slog.New(brokerLog{c.Log.Handler(), &b.gag}),
		SysTopicResendInterval: neverPublishSysTopics,
	})
	b.service = b.mochi.NewClient(nil, localListener, "", true)
	if err := b.mochi.AddHook(&gate{broker: b}, nil); err != nil {
		return nil, fmt.Errorf("starting the broker: %w", err)
	}
	return b, b.openRetained()
}

// openRetained brings the retained messages of an earlier run back.
func (b *broker) openRetained() (err error) {
	if b.config.State == "" {
		return nil
	}
	if b.retained, err = openRetainedStore(filepath.Join(b.config.State, retainedFile)); err != nil {
		return err
	}
	return b.retained.load(b.mochi.Topics)
}

// judge evaluates the policies that hold for the connection now.
func (b *broker) judge(c *connection, r *policy.Request) policy.Decision {
	r.Session = &c.session
	return policy.Evaluate(b.policies.of(b.registry, policyKey{c.certificateID, c.session.ClientID}), r)
}

// refuse records a refusal and why.
func (b *broker) refuse(c *connection, a Action, topic, reason string) {
	e := c.event(Refused)
	e.Action, e.Topic, e.Reason = a, topic, reason
	b.journal.record(e)
}

// inject publishes a message into the topic tree. mochi would take it from the
// client itself, but then it keeps inbound and outbound packet ids in one
// space, where a device's publish can erase an unacknowledged delivery.
func (b *broker) inject(c *connection, pk packets.Packet) error {
	if c.publisher == nil {
		c.publisher = b.mochi.NewClient(nil, localListener, c.session.ClientID, true)
		c.publisher.Properties.ProtocolVersion = c.client.Properties.ProtocolVersion
	}
	return b.mochi.InjectPacket(c.publisher, pk)
}

// publish sends a message of the service itself: no policy is asked.
func (b *broker) publish(pk packets.Packet) error {
	pk.FixedHeader.Type = packets.Publish
	pk.PacketID = uint16(pk.FixedHeader.Qos) // mochi wants one with QoS 1, and does not use it
	return b.mochi.InjectPacket(b.service, pk)
}

// disconnectClient ends the connection of a client id. found tells whether
// there was one.
func (b *broker) disconnectClient(clientID string, cleanSession, preventWill bool) (found bool) {
	b.mu.Lock()
	c := b.current[clientID]
	b.mu.Unlock()
	if c == nil {
		return false
	}
	c.preventWill.Store(preventWill)
	c.end(reasonAPIInitiated, packets.ErrAdministrativeAction)
	<-c.ended
	if cleanSession {
		b.dropSession(clientID)
	}
	return true
}

// dropSession forgets a stored session.
func (b *broker) dropSession(clientID string) {
	stored, ok := b.mochi.Clients.Get(clientID)
	if !ok || !stored.Closed() {
		return
	}
	stored.ClearInflights()
	b.mochi.UnsubscribeClient(stored)
	b.mochi.Clients.Delete(clientID)
}

// deliver sends a message to one client only, past the topic tree.
func (b *broker) deliver(c *connection, m packets.Packet) error {
	m.FixedHeader.Type = packets.Publish
	m.FixedHeader.Dup = false
	if m.FixedHeader.Qos > 0 {
		id, err := c.client.NextPacketID()
		if err != nil {
			return fmt.Errorf("delivering to %s: %w", c.session.ClientID, err)
		}
		m.PacketID = uint16(id)
		m.Created = b.config.Now().Unix()
		c.client.State.Inflight.Set(m) // resent when a persistent session resumes
	}
	return c.client.WritePacket(m)
}

// disconnectCertificate ends every connection that uses a certificate.
func (b *broker) disconnectCertificate(id string) {
	b.mu.Lock()
	var users []*connection
	for _, c := range b.current {
		if c.certificateID == id {
			users = append(users, c)
		}
	}
	b.mu.Unlock()
	for _, c := range users {
		b.refuse(c, ActionConnect, "", "the certificate is no longer ACTIVE")
		c.end(reasonAuthError, packets.ErrNotAuthorized)
	}
}

// serve begins to accept connections.
func (b *broker) serve() error {
	for _, l := range b.listeners {
		if err := b.mochi.AddListener(l); err != nil {
			return fmt.Errorf("starting the broker: %w", err)
		}
	}
	b.serving = true
	return b.mochi.Serve()
}

// close ends every connection and returns when the last has ended.
func (b *broker) close() error {
	defer b.gag.apply()
	var errs []error
	if b.serving {
		errs = append(errs, b.mochi.Close())
	} else {
		for _, l := range b.listeners {
			l.tcp.Close()
		}
	}
	if b.retained != nil {
		errs = append(errs, b.retained.close())
	}
	return errors.Join(errs...)
}
