package localcore

import (
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/shadow"
)

// shadowTopic reads the topic of a shadow request whose names are valid.
func shadowTopic(topic string) (awsiot.ShadowTopic, bool) {
	t, ok := awsiot.ParseShadowTopic(topic)
	return t, ok && awsiot.ValidThingName(t.Thing) && (t.Shadow == "" || awsiot.ValidShadowName(t.Shadow))
}

// requestShadow carries out a request that was published. The responses go to
// everyone who subscribed.
func (s *Server) requestShadow(t awsiot.ShadowTopic, m *broker.Message) {
	messages, err := s.shadows.Request(t, m.Payload)
	if err != nil {
		s.config.Log.Warn("rejected a shadow request", "topic", t, "error", err)
		messages = []shadow.Message{shadow.Rejected(t, err)}
	}
	for _, out := range messages {
		s.broker.Publish(&broker.Message{Topic: out.Topic, Payload: out.Payload, QoS: 1, Hops: m.Hops})
	}
}
