package broker

import (
	"cmp"
	"strings"

	"example.com/fleety/device/awsiot"
)

// A lifecycleEvent is the payload of a lifecycle event.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html
type lifecycleEvent struct {
	ClientID                  string   `json:"clientId"`
	TimestampMS               int64    `json:"timestamp"`
	EventType                 string   `json:"eventType"`
	ThingName                 string   `json:"thingName,omitempty"` // of exclusively attached things only
	ClientInitiatedDisconnect *bool    `json:"clientInitiatedDisconnect,omitempty"`
	SessionIdentifier         string   `json:"sessionIdentifier,omitempty"`
	PrincipalIdentifier       string   `json:"principalIdentifier"`
	DisconnectReason          string   `json:"disconnectReason,omitempty"`
	ConnectFailureReason      string   `json:"connectFailureReason,omitempty"`
	IPAddress                 string   `json:"ipAddress,omitempty"`
	Topics                    []string `json:"topics,omitempty"`
	VersionNumber             int      `json:"versionNumber"`
}

// lifecycle publishes an event under $aws/events/GROUP/TYPE/CLIENTID. Client ids with wildcards
// have no events.
func (b *Broker) lifecycle(c *Conn, group string, e lifecycleEvent) {
	if strings.ContainsAny(c.principal.ClientID, "+#") {
		return
	}
	e.ClientID = c.principal.ClientID
	e.TimestampMS = b.config.Now().UnixMilli()
	e.SessionIdentifier, e.VersionNumber = c.sessionID, c.number
	e.PrincipalIdentifier = cmp.Or(c.principal.CertificateID, c.principal.AccessKeyID)
	if thing, exclusive := c.auth.Thing(); exclusive {
		e.ThingName = thing
	}
	topic := "$aws/events/" + group + "/" + e.EventType + "/" + e.ClientID
	_ = b.Publish(&Message{Topic: topic, Payload: awsiot.EncodeJSON(e), QoS: 1})
}
