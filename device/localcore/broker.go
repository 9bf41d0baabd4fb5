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
	maxMessageExpiry       = 604800    // seconds
	publishesPerSecond     = 100       // per connection, both ways
	connectsPerSecond      = 1         // per client id
	accountConnects        = 100       // a second, in the smaller Regions
	accountSubscribes      = 200       // a second, in the smaller Regions
	bytesPerSecond         = 512 << 10 // per connection, both ways
	outboundQueue          = 1024      // messages that wait for one connection; ours
	maxStoredMessages      = 65_535    // that wait for one persistent session; ours
	maxConnectRates        = 10_000    // client ids whose CONNECTs are counted; ours
	neverPublishSysTopics  = math.MaxInt32
	localListener          = "local"
	propertyByteLimit      = 8 << 10 // correlation data; user properties in sum
	maxContentType         = 256
	mochiReadBuffer        = 16 // bytes, the least: an incoming has its own buffer
)

// A broker is the MQTT side: mochi keeps sessions, the topic tree and the
// queues, and every decision is taken here.
type broker struct {
	config   *Config
	registry *registry.Registry
	journal  *journal
	mochi    *mqtt.Server
	// provision answers the provisioning API.
	provision     *provisioner
	policies      policyCache
	listeners     []*listener
	store         *store // nil without a state
	serving       bool
	gag           gag
	allConnects   rate
	allSubscribes rate
	lapsing       sync.Mutex // one session opens or lapses at a time

	mu       sync.Mutex
	current  map[string]*connection  // by client id, under mu
	outboxes map[string]*outbox      // by client id, of sessions that are open or persistent; under mu
	wills    map[string]*delayedWill // by client id, under mu
	delayed  sync.WaitGroup          // delayed wills
	connects map[string]*rate        // by client id, under mu
}

func newBroker(c *Config, r *registry.Registry, j *journal, p *provisioner) (*broker, error) {
	b := &broker{
		config: c, registry: r, journal: j, provision: p,
		current: map[string]*connection{}, outboxes: map[string]*outbox{},
		wills: map[string]*delayedWill{}, connects: map[string]*rate{},
	}
	capabilities := mqtt.NewDefaultServerCapabilities()
	capabilities.MaximumQos = 1
	capabilities.MinimumProtocolVersion = 4
	capabilities.MaximumPacketSize = maxPacket
	capabilities.ReceiveMaximum = maxUnacknowledged
	capabilities.TopicAliasMaximum = maxTopicAliases
	capabilities.SubIDAvailable = 0
	capabilities.MaximumClientWritesPending = 1   // never used: an outbox has its own queue
	capabilities.MaximumMessageExpiryInterval = 0 // no expiry but the publisher's
	capabilities.Compatibilities.NoInheritedPropertiesOnAck = true
	b.mochi = mqtt.New(&mqtt.Options{
		Capabilities:            capabilities,
		Logger:                  slog.New(brokerLog{c.Log.Handler(), &b.gag}),
		SysTopicResendInterval:  neverPublishSysTopics,
		ClientNetReadBufferSize: mochiReadBuffer,
	})
	if err := b.mochi.AddHook(&gate{broker: b}, nil); err != nil {
		return nil, fmt.Errorf("starting the broker: %w", err)
	}
	return b, b.openStore()
}

// openStore brings retained messages and sessions of an earlier run back.
func (b *broker) openStore() (err error) {
	if b.config.State == "" {
		return nil
	}
	if b.store, err = openStore(filepath.Join(b.config.State, storeFile)); err != nil {
		return err
	}
	retained, err := b.store.retained()
	if err != nil {
		return err
	}
	for _, pk := range retained {
		b.mochi.Topics.RetainMessage(pk)
	}
	return b.restoreSessions()
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

// publish sends a message of the service itself: no policy is asked.
func (b *broker) publish(pk packets.Packet) { b.route("", 5, pk) }

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
	b.cancelWills()
	if b.store != nil {
		errs = append(errs, b.store.close())
	}
	return errors.Join(errs...)
}
