package broker

import (
	"cmp"
	"maps"
	"slices"

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
	b.mu.Lock()
	current := slices.Collect(maps.Values(b.current))
	b.mu.Unlock()
	all := make([]Connection, 0, len(current))
	for _, c := range current {
		if !c.established.Load() {
			continue
		}
		e := c.Event(event.Connected)
		filters := slices.AppendSeq([]string{}, maps.Keys(c.session.subscribed()))
		slices.Sort(filters)
		all = append(all, Connection{e.ClientID, e.CertificateID, e.ThingName, e.Address, c.version, filters})
	}
	slices.SortFunc(all, func(a, b Connection) int { return cmp.Compare(a.ClientID, b.ClientID) })
	return all
}
