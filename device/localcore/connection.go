package localcore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	bandwidth "golang.org/x/time/rate"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/policy"
)

// Reasons why a connection ended, by AWS's names.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html
const (
	reasonAuthError        = "AUTH_ERROR"
	reasonClientInitiated  = "CLIENT_INITIATED_DISCONNECT"
	reasonClientError      = "CLIENT_ERROR"
	reasonConnectionLost   = "CONNECTION_LOST"
	reasonDuplicateID      = "DUPLICATE_CLIENTID"
	reasonForbidden        = "FORBIDDEN_ACCESS"
	reasonKeepAliveTimeout = "MQTT_KEEP_ALIVE_TIMEOUT"
	reasonServerInitiated  = "SERVER_INITIATED_DISCONNECT"
	reasonAPIInitiated     = "API_INITIATED_DISCONNECT"
	reasonThrottled        = "THROTTLED"
)

// farewellTimeout bounds the writing of a last packet.
const farewellTimeout = time.Second

// A connection is one TLS connection of a device with what the broker knows
// about it. It is the net.Conn of its mochi client, so that it can be found
// from there.
type connection struct {
	*tls.Conn
	certificate   *x509.Certificate
	certificateID string
	serverName    string
	address       netip.AddrPort
	ended         chan struct{}      // closed when the broker has let go
	incoming      incoming           // for the reader only
	throughput    *bandwidth.Limiter // nil without quotas
	complaint     string             // why a packet could not be read; for the reader only

	// The following is set by the CONNECT, before anyone else sees it.
	client      *mqtt.Client
	session     policy.Session
	sessionID   string
	exclusive   bool        // the certificate belongs to one thing alone
	emptyWill   bool        // its will has no payload
	established atomic.Bool // the CONNACK of success is under way
	announced   bool        // its Connected event was recorded; for the reader only
	preventWill atomic.Bool // its will must not be published

	outbox     *outbox
	stopWriter context.CancelFunc // nil until it runs
	writer     sync.WaitGroup

	// hasMultiLevel tells that some subscription ends with /#.
	hasMultiLevel atomic.Bool
	publishes     rate // inbound and outbound

	mu       sync.Mutex
	reason   string     // why it ended, the first one counts; under mu
	requests []exchange // waiting for their turn; under mu
	working  bool       // a goroutine works on requests; under mu
}

func newConnection(c *tls.Conn, throughput *bandwidth.Limiter) *connection {
	state := c.ConnectionState()
	cert := state.PeerCertificates[0]
	address, _ := netip.ParseAddrPort(c.RemoteAddr().String()) // TCP addresses parse
	return &connection{
		Conn:          c,
		certificate:   cert,
		certificateID: ca.Fingerprint(cert.Raw),
		serverName:    state.ServerName,
		address:       netip.AddrPortFrom(address.Addr().Unmap(), address.Port()),
		ended:         make(chan struct{}),
		incoming:      newIncoming(c),
		throughput:    throughput,
	}
}

// connectionOf returns the connection of a mochi client; nil for a publisher.
func connectionOf(cl *mqtt.Client) *connection {
	c, _ := cl.Net.Conn.(*connection)
	return c
}

// Write delays what is over the throughput that AWS allows.
func (c *connection) Write(p []byte) (int, error) {
	c.hold(len(p))
	return c.Conn.Write(p)
}

// hold waits until so many bytes, a packet at most, may pass.
func (c *connection) hold(n int) {
	if c.throughput == nil {
		return
	}
	time.Sleep(c.throughput.ReserveN(time.Now(), n).Delay())
}

// endWriter returns when the goroutine that sends has ended.
func (c *connection) endWriter() {
	c.Close()
	if c.stopWriter != nil {
		c.stopWriter()
	}
	c.writer.Wait()
}

// v5 tells whether the client speaks MQTT 5.
func (c *connection) v5() bool {
	return c.client != nil && c.client.Properties.ProtocolVersion == 5
}

// end closes the connection for a reason. Only MQTT 5 has a packet to tell the
// client why; MQTT 3.1.1 is closed in silence.
func (c *connection) end(reason string, code packets.Code) {
	c.because(reason)
	if c.v5() && c.established.Load() {
		_ = c.SetDeadline(time.Now().Add(farewellTimeout))
		_ = c.client.WritePacket(packets.Packet{ // the client may be gone already
			FixedHeader: packets.FixedHeader{Type: packets.Disconnect},
			ReasonCode:  code.Code,
			Properties:  packets.Properties{ReasonString: code.Reason},
		})
	}
	c.Close()
}

// because keeps the first reason for the end, and tells whether it is this one.
func (c *connection) because(reason string) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != "" {
		return false
	}
	c.reason = reason
	return true
}

// endReason returns why the connection ended; lost if nobody knows.
func (c *connection) endReason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason == "" {
		return reasonConnectionLost
	}
	return c.reason
}

// event returns an event about this connection.
func (c *connection) event(t EventType) Event {
	return Event{
		Type:          t,
		ClientID:      c.session.ClientID,
		CertificateID: c.certificateID,
		ThingName:     c.thingName(),
		Address:       c.address.String(),
	}
}

// thingName returns the thing whose variables hold here, or nothing.
func (c *connection) thingName() string {
	if c.session.Thing == nil {
		return ""
	}
	return c.session.Thing.Name
}
