package broker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"example.com/fleety/device/localcore/event"
)

// A Connection is an open MQTT connection and what its session subscribed to.
type Connection struct {
	ClientID      string `json:"clientId"`
	CertificateID string `json:"certificateId"`
	ThingName     string `json:"thingName,omitempty"`
	Address       string `json:"address"`

	Version       byte     `json:"version"`       // of MQTT: 4 is 3.1.1
	Subscriptions []string `json:"subscriptions"` // filters, sorted
}

// Connections returns the open connections by client id.
func (b *Broker) Connections() []Connection {
	all := []Connection{}
	for _, c := range b.connections() {
		if c.established.Load() {
			e := c.Event(event.Connected)
			filters := slices.AppendSeq([]string{}, maps.Keys(c.session.subscribed()))
			slices.Sort(filters)
			all = append(all, Connection{e.ClientID, e.CertificateID, e.ThingName, e.Address, c.version, filters})
		}
	}
	slices.SortFunc(all, func(a, b Connection) int { return cmp.Compare(a.ClientID, b.ClientID) })
	return all
}

// A ConnectionState is what is known of the latest connection of a client. Of a client that is away
// for longer than half an hour only CleanSession is left.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_iotdata_GetConnection.html
type ConnectionState struct {
	Connected        bool
	CleanSession     bool
	ThingName        string
	Source, Target   netip.AddrPort
	KeepAlive        time.Duration
	SessionExpiry    time.Duration
	Since            time.Time // of being connected, or of not being it
	DisconnectReason string    // empty while connected
	number           int       // of the connection, see Conn
}

func (c *Conn) state() ConnectionState {
	s := ConnectionState{
		Connected: true, CleanSession: c.expiry == 0, Source: c.principal.Address, Target: addrPort(c.net.LocalAddr()),
		KeepAlive: c.keepAlive, SessionExpiry: c.expiry, Since: c.since, number: c.number,
	}
	s.ThingName, _ = c.auth.Thing()
	return s
}

// ConnectionState returns the state of a client, ok false if the client is unknown: neither
// connected lately nor the owner of a session.
func (b *Broker) ConnectionState(clientID string) (state ConnectionState, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.current[clientID]; c != nil && c.established.Load() {
		return c.state(), true
	}
	state, ok = b.past[clientID]
	if ok && b.config.Now().Sub(state.Since) < pastLife {
		return state, true
	}
	return ConnectionState{}, b.sessions[clientID] != nil
}

// Subscriptions returns the QoS of each filter that a client subscribed to, ok false for a client
// without a session. One that is away may have one.
func (b *Broker) Subscriptions(clientID string) (qos map[string]byte, ok bool) {
	s := b.session(clientID)
	if s == nil {
		return nil, false
	}
	qos = map[string]byte{}
	for filter, sub := range s.subscribed() {
		qos[filter] = sub.Qos
	}
	return qos, true
}
