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
	Early   bool // to a reserved topic, received while a SUBACK to its client was delayed
	Ahead   int  // of a message to a reserved topic: how many of its client are still dealt with
	Hops    int  // actions of rules that led to the message

	// Of MQTT 5:
	UTF8            bool // the Payload Format Indicator
	ContentType     string
	ResponseTopic   string
	CorrelationData []byte
	UserProperties  []UserProperty
	Expiry          time.Duration // how long it may wait for its receivers, in whole seconds and 7 days at most; zero means for ever

	// ClientID and CertificateID, or else the access key id, are those of the client that published
	// the message, empty when a service did.
	ClientID, CertificateID string
	Time                    time.Time // when it was published; Publish sets it
}

// A UserProperty is one of MQTT 5.
type UserProperty = packets.UserProperty

// expiredAt reports whether the message must not be delivered any more.
func (m *Message) expiredAt(now time.Time) bool {
	return m.Expiry > 0 && now.Sub(m.Time) > m.Expiry
}

// size is what the message takes in a queue, in bytes.
func (m *Message) size() int {
	n := messageOverhead + len(m.Topic) + len(m.Payload) + len(m.ContentType) + len(m.ResponseTopic) + len(m.CorrelationData)
	for _, u := range m.UserProperties {
		n += len(u.Key) + len(u.Val)
	}
	return n
}

// newMessage returns what a client published.
func newMessage(topic string, payload []byte, h packets.FixedHeader, p *packets.Properties, from *Principal) *Message {
	return &Message{
		Topic: topic, Payload: payload, QoS: h.Qos, Retain: h.Retain,
		UTF8: p.PayloadFormat == 1, ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, CorrelationData: p.CorrelationData,
		UserProperties: p.User, Expiry: time.Duration(p.MessageExpiryInterval) * time.Second,
		ClientID: from.ClientID, CertificateID: cmp.Or(from.CertificateID, from.AccessKeyID),
	}
}

func (m *Message) properties() packets.Properties {
	p := packets.Properties{
		ContentType: m.ContentType, ResponseTopic: m.ResponseTopic, CorrelationData: m.CorrelationData,
		User: m.UserProperties, MessageExpiryInterval: uint32(m.Expiry / time.Second),
	}
	if m.UTF8 {
		p.PayloadFormat, p.PayloadFormatFlag = 1, true
	}
	return p
}
