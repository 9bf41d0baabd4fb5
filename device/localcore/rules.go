package localcore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/rules"
)

// openRules opens the rules engine and starts the functions that it can invoke.
func (s *Server) openRules(ctx context.Context, store rules.Store) (err error) {
	c := &s.config
	s.functions = map[string]*lambdahost.Host{}
	if s.hook != nil {
		s.functions[c.hookARN()] = s.hook
	}
	functions := map[string]lambdahost.Config{}
	maps.Copy(functions, c.Functions)
	if c.assembled != nil {
		for _, f := range c.assembled.Functions {
			functions[f.LogicalID] = lambdahost.Config{FunctionARN: f.ARN, Path: f.Path, Timeout: f.Timeout, Env: f.Environment}
		}
	}
	for name, f := range functions {
		f.FunctionARN = cmp.Or(f.FunctionARN, c.functionARN(name))
		if s.functions[f.FunctionARN] != nil {
			continue // the hook
		}
		f.Region, f.Endpoint, f.Log = c.Region, s.APIURL(), c.Log.With("from", name)
		host, err := lambdahost.Start(ctx, f)
		if err != nil {
			return fmt.Errorf("starting function %s: %w", name, err)
		}
		s.functions[f.FunctionARN] = host
	}
	s.rules, err = rules.Open(rules.Config{
		Account: c.Account, Store: store, Now: c.Now, Log: c.Log,
		Publish: s.republish,
		Thing: func(principal, clientID string) string {
			t, _ := s.registry.ThingFor(principal, clientID)
			return t.Name
		},
		HasFunction: func(arn string) bool { return s.function(arn) != nil },
		Invoke: func(ctx context.Context, arn string, event []byte) error {
			_, err := s.function(arn).Invoke(ctx, event)
			return err
		},
		Shadow: func(thing, name string) ([]byte, bool) {
			out, err := s.shadows.Request(awsiot.ShadowTopic{Thing: thing, Shadow: name, Operation: awsiot.GetShadow}, nil)
			if err != nil {
				return nil, false
			}
			return out[0].Payload, true
		},
	})
	if err == nil {
		s.installRules()
	}
	return err
}

// function returns the host of a function, nil without one. A version or alias
// at the end of the ARN stands for the function itself.
func (s *Server) function(arn string) *lambdahost.Host {
	if parts := strings.SplitN(arn, ":", 8); len(parts) == 8 {
		arn = strings.Join(parts[:7], ":")
	}
	return s.functions[arn]
}

// publish sends a message of a service to all who receive messages. hops counts
// the republish actions that led to it.
func (s *Server) publish(m *broker.Message, hops int) {
	if hops > 0 {
		s.hops.Store(m, hops)
		defer s.hops.Delete(m)
	}
	s.broker.Publish(m)
}

// observe gives what is published to the rules. A message to a service that
// answers its sender alone is not for them.
func (s *Server) observe(m *broker.Message) {
	hops, _ := s.hops.Load(m)
	out := rules.Message{Topic: m.Topic, Payload: m.Payload, ClientID: m.ClientID, Principal: m.CertificateID}
	out.Hops, _ = hops.(int)
	if strings.HasPrefix(m.Topic, rules.IngestPrefix) {
		s.rules.Ingest(out)
		return
	}
	if strings.HasPrefix(m.Topic, "$aws/") {
		if _, direct := s.reserved(m.Topic); direct {
			return
		}
	}
	s.observers.send(m)
	s.rules.Publish(out)
}

// republish publishes for a rule, to a service behind a reserved topic too.
func (s *Server) republish(m rules.Message, qos byte) error {
	out := &broker.Message{Topic: m.Topic, Payload: m.Payload, QoS: qos}
	if err := broker.CheckMessage(out); err != nil {
		return err
	}
	if _, ok := awsiot.ParseJobsTopic(m.Topic); ok {
		return errors.New("republishing to reserved topics of jobs is not supported")
	}
	s.publishOn(out, m.Hops)
	return nil
}

// publishOn publishes a message that came from no device, gives it to its rule
// alone if it is for Basic Ingest, and carries it out if it is a shadow request.
func (s *Server) publishOn(m *broker.Message, hops int) {
	if strings.HasPrefix(m.Topic, rules.IngestPrefix) {
		s.rules.Ingest(rules.Message{Topic: m.Topic, Payload: m.Payload, Hops: hops})
		return
	}
	s.publish(m, hops)
	if t, ok := shadowTopic(m.Topic); ok {
		s.requestShadow(t, m.Payload, hops)
	}
}

// shadowTopic reads the topic of a shadow request whose names are valid.
func shadowTopic(topic string) (awsiot.ShadowTopic, bool) {
	t, ok := awsiot.ParseShadowTopic(topic)
	return t, ok && awsiot.ValidThingName(t.Thing) && (t.Shadow == "" || awsiot.ValidShadowName(t.Shadow))
}
