package localcore

import (
	"context"
	"errors"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/records"
	"example.com/fleety/device/localcore/rules"
)

// openRules opens the rules engine with the rules of a stack.
func (s *Server) openRules(store records.Store) (err error) {
	s.rules, err = rules.Open(rules.Config{
		Account: s.config.Account, Store: store, Now: s.config.Now, Log: s.config.Log,
		Publish: s.republish,
		Thing: func(principal, clientID string) string {
			t, _ := s.registry.ThingFor(principal, clientID)
			return t.Name
		},
		HasFunction: func(arn string) bool { return s.function(arn) != nil },
		Invoke: func(ctx context.Context, arn string, event []byte) error {
			_, err := s.invoke(ctx, arn, event)
			return err
		},
		Shadow: func(thing, name string) ([]byte, bool) {
			out, err := s.shadows.Request(awsiot.ShadowTopic{Thing: thing, Shadow: name, Operation: awsiot.GetShadow}, nil, 0)
			if err != nil {
				return nil, false
			}
			return out[0].Payload, true
		},
	})
	if err != nil {
		return err
	}
	return s.installRules()
}

// observe gives what is published to the rules. A message to a service that answers its sender
// alone is not for them.
func (s *Server) observe(m *broker.Message) {
	out := rules.Message{Topic: m.Topic, Payload: m.Payload, ClientID: m.ClientID, Principal: m.CertificateID, Hops: m.Hops}
	if strings.HasPrefix(m.Topic, awsiot.IngestPrefix) {
		s.rules.Ingest(out)
		return
	}
	if strings.HasPrefix(m.Topic, "$aws/") {
		if _, direct := s.reserved(m.Topic); direct {
			return
		}
	}
	s.showObservers(m)
	s.rules.Publish(out)
}

// republish publishes for a rule, to a service behind a reserved topic too.
func (s *Server) republish(m rules.Message, qos byte) error {
	out := &broker.Message{Topic: m.Topic, Payload: m.Payload, QoS: qos, Hops: m.Hops}
	if err := broker.CheckMessage(out); err != nil {
		return err
	}
	if _, ok := awsiot.ParseJobsTopic(m.Topic); ok {
		return errors.New("republishing to reserved topics of jobs is not supported")
	}
	return s.publishMessage(out)
}

// publishMessage publishes a message that came from no device, and carries it out if it is a shadow
// request. The error says that it could not be retained.
func (s *Server) publishMessage(m *broker.Message) error {
	err := s.broker.Publish(m)
	if t, ok := shadowTopic(m.Topic); ok {
		s.requestShadow(t, m)
	}
	return err
}

// publish publishes for a service, to all who subscribed.
func (s *Server) publish(topic string, payload []byte) {
	_ = s.broker.Publish(&broker.Message{Topic: topic, Payload: payload, QoS: 1})
}
