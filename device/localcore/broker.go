package localcore

import (
	"context"
	"crypto/tls"
	"fmt"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/localcore/provisioning"
	"example.com/fleety/device/localcore/records"
	"example.com/fleety/device/localcore/shadow"
)

// openBroker opens the broker and its ports.
func (s *Server) openBroker(ctx context.Context, cert *tls.Certificate) error {
	c := &s.config
	b, err := broker.New(broker.Config{
		Authorizer: authorizer{s},
		Reserved:   s.reserved,
		HTTP:       s.serveCredentials,
		Observe:    s.observe,
		Record:     s.history.Record,

		EnforceRates: c.Quotas == QuotasAWS, SessionExpiry: c.SessionExpiry, State: c.stateFile("broker.db"),
		MinTLS: tlsVersions[c.SecurityPolicy].least, MaxTLS: tlsVersions[c.SecurityPolicy].most,
		AllowMissingSNI: c.AmbiguousBehavior.AllowMissingSNI,
		ConnackOnDeny:   c.AmbiguousBehavior.ConnackOnDeny,
		KeepOpenOnDeny:  c.AmbiguousBehavior.KeepOpenOnDeny,
		DelaySuback:     s.Faults.subackDelay,

		Log: c.Log, Now: c.Now,
	})
	if err != nil {
		return err
	}
	s.broker = b
	s.onClose(b.Close)
	if s.port, err = b.Listen(ctx, c.Listen, cert, false); err != nil {
		return fmt.Errorf("listening for devices: %w", err)
	}
	if c.ListenALPN != "" {
		if s.portALPN, err = b.Listen(ctx, c.ListenALPN, cert, true); err != nil {
			return fmt.Errorf("listening for devices with ALPN: %w", err)
		}
	}
	return nil
}

// reserved finds the service behind a reserved topic. Another service is added here: it gets what
// clients publish, and answers the connection itself with [broker.Conn.Reply] or everyone who
// subscribed with [broker.Broker.Publish].
func (s *Server) reserved(topic string) (h broker.Handler, direct bool) {
	if t, ok := awsiot.ParseTopic(topic); ok {
		return func(ctx context.Context, c *broker.Conn, m *broker.Message) { s.provision(ctx, c, t, m) }, true
	}
	if t, ok := shadowTopic(topic); ok {
		return func(_ context.Context, _ *broker.Conn, m *broker.Message) { s.requestShadow(t, m) }, false
	}
	if t, ok := awsiot.ParseJobsTopic(topic); ok {
		// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html
		return func(_ context.Context, c *broker.Conn, m *broker.Message) {
			s.jobs.Handle(t, m.Payload, func(r awsiot.Message) { s.reply(c, r.Topic, r.Payload) })
		}, true
	}
	return nil, false
}

// provision answers a provisioning request, altered as the faults say. The reply goes to the
// connection that asked, whether it subscribed or not, and to no other.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/reserved-topics.html
func (s *Server) provision(ctx context.Context, c *broker.Conn, t awsiot.Topic, m *broker.Message) {
	r := provisioning.Request{Topic: t, Payload: m.Payload, ClientID: c.ClientID(), CertificateID: c.CertificateID(), Event: c.Event}
	fault := s.Faults.of(r)
	if fault.CloseBefore {
		c.Close()
		return
	}
	var reply awsiot.Message
	if fault.Reject != nil {
		reply = s.provisioning.Reject(r, *fault.Reject, "injected fault")
	} else {
		reply = s.provisioning.Answer(ctx, r)
	}
	if fault.CloseAfter {
		c.Close()
		return
	}
	if fault.DropReply || m.Early || !wait(ctx, fault.DelayReply) {
		return
	}
	times := 1
	if fault.DuplicateReply {
		times = 2
	}
	for range times {
		if s.reply(c, reply.Topic, reply.Payload) {
			e := c.Event(Replied)
			e.Operation, e.Topic = string(t.Operation), reply.Topic
			s.history.Record(e)
		}
	}
}

// reply answers a connection alone, subscribed or not, and reports whether it is still there.
func (s *Server) reply(c *broker.Conn, topic string, payload []byte) bool {
	err := c.Reply(topic, payload)
	if err != nil {
		s.config.Log.Info("lost a reply", "client", c.ClientID(), "topic", topic, "error", err)
	}
	return err == nil
}

// shadowTopic reads the topic of a shadow request whose names are valid.
func shadowTopic(topic string) (awsiot.ShadowTopic, bool) {
	t, ok := awsiot.ParseShadowTopic(topic)
	return t, ok && awsiot.ThingNames.Valid(t.Thing) && (t.Shadow == "" || awsiot.ShadowNames.Valid(t.Shadow))
}

// requestShadow carries out a request that was published. The responses go to everyone who
// subscribed.
func (s *Server) requestShadow(t awsiot.ShadowTopic, m *broker.Message) {
	messages, err := s.shadows.Request(t, m.Payload, m.Ahead)
	if err != nil {
		s.config.Log.Warn("rejected a shadow request", "topic", t, "error", err)
		messages = []awsiot.Message{shadow.Rejected(t, err)}
	}
	for _, out := range messages {
		_ = s.broker.Publish(&broker.Message{Topic: out.Topic, Payload: out.Payload, QoS: 1, Hops: m.Hops})
	}
}

// openJobs opens the jobs service.
func (s *Server) openJobs(store records.Store) (err error) {
	s.jobs, err = jobs.Open(jobs.Config{
		HasThing: func(thing string) bool { _, err := s.registry.DescribeThing(thing); return err == nil },
		Members:  func(group string) ([]string, error) { return s.registry.ListThingsInThingGroup(group, false) },
		ARN:      s.config.arn, Store: store, Now: s.config.Now, Log: s.config.Log,
		Publish: func(m awsiot.Message) { s.publish(m.Topic, m.Payload) },
		Event: func(e jobs.Event) {
			if s.registry.EventConfigurations().Enabled[e.Type] {
				s.publishEvent(e.Topic, e.Payload)
			}
		},
	})
	return err
}
