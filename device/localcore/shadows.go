package localcore

import (
	"context"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/shadow"
)

// RequestShadow implements [controlapi.Shadows]: an update or deletion over
// HTTPS is published over MQTT too, an error is not.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-data-flow.html
func (s control) RequestShadow(_ context.Context, t awsiot.ShadowTopic, payload []byte) ([]byte, error) {
	messages, err := s.shadows.Request(t, payload)
	if err != nil {
		return nil, err
	}
	if t.Operation != awsiot.GetShadow {
		s.publishShadow(messages, 0)
	}
	return messages[0].Payload, nil
}

// NamedShadows implements [controlapi.Shadows].
func (s control) NamedShadows(thing string) []string { return s.shadows.NamedShadows(thing) }

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
	s.publishShadow(messages, m.Hops)
}

func (s *Server) publishShadow(messages []shadow.Message, hops int) {
	for _, m := range messages {
		s.broker.Publish(&broker.Message{Topic: m.Topic, Payload: m.Payload, QoS: 1, Hops: hops})
	}
}
