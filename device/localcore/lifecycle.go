package localcore

import (
	"encoding/json"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A lifecycleEvent is the payload of a lifecycle event.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html
type lifecycleEvent struct {
	ClientID    string `json:"clientId"`
	TimestampMS int64  `json:"timestamp"`
	EventType   string `json:"eventType"`
	// ThingName is there for exclusively attached things only.
	ThingName                 string   `json:"thingName,omitempty"`
	ClientInitiatedDisconnect *bool    `json:"clientInitiatedDisconnect,omitempty"`
	SessionIdentifier         string   `json:"sessionIdentifier,omitempty"`
	PrincipalIdentifier       string   `json:"principalIdentifier"`
	DisconnectReason          string   `json:"disconnectReason,omitempty"`
	ConnectFailureReason      string   `json:"connectFailureReason,omitempty"`
	IPAddress                 string   `json:"ipAddress,omitempty"`
	Topics                    []string `json:"topics,omitempty"`
	VersionNumber             int      `json:"versionNumber"`
}

func (b *broker) lifecycleConnected(c *connection) {
	b.lifecycle(c, "presence", lifecycleEvent{EventType: "connected", IPAddress: c.address.Addr().String()})
}

func (b *broker) lifecycleConnectFailed(c *connection, reason string) {
	if reason == reasonForbidden {
		reason = "AUTHORIZATION_FAILED"
	}
	b.lifecycle(c, "presence", lifecycleEvent{
		EventType: "connect_failed", ConnectFailureReason: reason, IPAddress: c.address.Addr().String(),
	})
}

func (b *broker) lifecycleDisconnected(c *connection) {
	reason := c.endReason()
	byClient := reason == reasonClientInitiated
	b.lifecycle(c, "presence", lifecycleEvent{
		EventType: "disconnected", DisconnectReason: reason, ClientInitiatedDisconnect: &byClient,
	})
}

func (b *broker) lifecycleSubscription(c *connection, eventType string, topics []string) {
	b.lifecycle(c, "subscriptions", lifecycleEvent{EventType: eventType, Topics: topics})
}

// lifecycle publishes an event under $aws/events/GROUP/TYPE/CLIENTID, if
// somebody may listen there. Client ids with wildcards have no events.
func (b *broker) lifecycle(c *connection, group string, e lifecycleEvent) {
	if strings.ContainsAny(c.session.ClientID, "+#") {
		return
	}
	e.ClientID = c.session.ClientID
	e.TimestampMS = b.config.Now().UnixMilli()
	e.SessionIdentifier = c.sessionID
	e.PrincipalIdentifier = c.certificateID
	if c.exclusive {
		e.ThingName = c.thingName()
	}
	payload, err := json.Marshal(e)
	if err != nil {
		b.config.Log.Error("encoding a lifecycle event", "error", err)
		return
	}
	pk := packets.Packet{TopicName: "$aws/events/" + group + "/" + e.EventType + "/" + e.ClientID, Payload: payload}
	pk.FixedHeader.Qos = 1
	b.publish(pk)
}
