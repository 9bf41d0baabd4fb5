package broker

import (
	"cmp"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// A Message is an application message. It must not be changed once it is published: all who receive
// it share it. It is stored as JSON by these names.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte // 0 or 1
	Retain  bool
	// Early is set of a message to a reserved topic that was received while a SUBACK to its client
	// was delayed.
	Early bool
	// Hops counts the actions of rules that led to the message.
	Hops int

	// Of MQTT 5:
	UTF8            bool // the Payload Format Indicator
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	UserProperties  []UserProperty
	// Expiry is how long the message may wait for its receivers, in whole seconds and 7 days at
	// most. Zero means for ever.
	Expiry time.Duration

	// ClientID and CertificateID, or else the access key id, are those of the client that published
	// the message, empty when a service did.
	ClientID, CertificateID string
	// Time is when it was published; Publish sets it.
	Time time.Time
}

// A UserProperty is one of MQTT 5.
type UserProperty struct{ Key, Value string }

// expiredAt reports whether the message must not be delivered any more.
func (m *Message) expiredAt(now time.Time) bool {
	return m.Expiry > 0 && now.Sub(m.Time) > m.Expiry
}

// size is what the message takes in a queue, in bytes.
func (m *Message) size() int {
	n := messageOverhead + len(m.Topic) + len(m.Payload) + len(m.ContentType) + len(m.ResponseTopic) + len(m.CorrelationData)
	for _, u := range m.UserProperties {
		n += len(u.Key) + len(u.Value)
	}
	return n
}

// newMessage returns what a client published.
func newMessage(topic string, payload []byte, h packets.FixedHeader, p *packets.Properties, from *Principal) *Message {
	m := &Message{
		Topic: topic, Payload: payload, QoS: h.Qos, Retain: h.Retain,
		UTF8: p.PayloadFormat == 1, ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData,
		Expiry:   time.Duration(p.MessageExpiryInterval) * time.Second,
		ClientID: from.ClientID, CertificateID: cmp.Or(from.CertificateID, from.AccessKeyID),
	}
	for _, u := range p.User {
		m.UserProperties = append(m.UserProperties, UserProperty{u.Key, u.Val})
	}
	return m
}

func (m *Message) properties() packets.Properties {
	p := packets.Properties{
		ContentType: m.ContentType, ResponseTopic: m.ResponseTopic, CorrelationData: m.CorrelationData,
		MessageExpiryInterval: uint32(m.Expiry / time.Second),
	}
	if m.UTF8 {
		p.PayloadFormat, p.PayloadFormatFlag = 1, true
	}
	for _, u := range m.UserProperties {
		p.User = append(p.User, packets.UserProperty{Key: u.Key, Val: u.Value})
	}
	return p
}
