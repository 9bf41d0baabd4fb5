package localcore

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/provisioning"
)

// openBroker opens the broker and its ports.
func (s *Server) openBroker(cert *tls.Certificate) error {
	c := &s.config
	state := ""
	if c.State != "" {
		state = filepath.Join(c.State, brokerFile)
	}
	b, err := broker.New(broker.Config{
		Authorizer: authorizer{s},
		Reserved:   s.reserved,
		HTTP:       s.serveCredentials,
		Observe:    s.observe,
		Record:     s.history.Record,

		EnforceRates: c.Quotas == QuotasAWS, SessionExpiry: c.SessionExpiry, State: state,
		MinTLS: tlsVersions[c.SecurityPolicy].least, MaxTLS: tlsVersions[c.SecurityPolicy].most,
		AllowMissingSNI:       c.AmbiguousBehavior.AllowMissingSNI,
		ConnackOnDeny:         c.AmbiguousBehavior.ConnackOnDeny,
		KeepOpenOnDeny:        c.AmbiguousBehavior.KeepOpenOnDeny,
		CheckReceiveOnReplies: c.AmbiguousBehavior.CheckReceiveOnReplies,
		DelaySuback:           s.Faults.subackDelay,

		Log: c.Log, Now: c.Now,
	})
	if err != nil {
		return err
	}
	s.broker = b
	s.onClose(b.Close)
	if s.port, err = b.Listen(c.Listen, cert, false); err != nil {
		return fmt.Errorf("listening for devices: %w", err)
	}
	if c.ListenALPN != "" {
		if s.portALPN, err = b.Listen(c.ListenALPN, cert, true); err != nil {
			return fmt.Errorf("listening for devices with ALPN: %w", err)
		}
	}
	return nil
}

// reserved finds the service behind a reserved topic. Another service is added
// here: it gets what clients publish, and answers the connection itself with
// [broker.Conn.Reply] or everyone who subscribed with [broker.Broker.Publish].
func (s *Server) reserved(topic string) (h broker.Handler, direct bool) {
	if t, ok := awsiot.ParseTopic(topic); ok {
		return func(ctx context.Context, c *broker.Conn, m *broker.Message) { s.provision(ctx, c, t, m) }, true
	}
	if t, ok := shadowTopic(topic); ok {
		return func(_ context.Context, _ *broker.Conn, m *broker.Message) { s.requestShadow(t, m) }, false
	}
	if t, ok := awsiot.ParseJobsTopic(topic); ok {
		return func(_ context.Context, c *broker.Conn, m *broker.Message) { s.requestJobs(t, c, m) }, true
	}
	return nil, false
}

// provision answers a provisioning request, altered as the faults say. The reply
// goes to the connection that asked, whether it subscribed or not, and to no
// other.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/reserved-topics.html
func (s *Server) provision(ctx context.Context, c *broker.Conn, t awsiot.Topic, m *broker.Message) {
	r := provisioning.Request{Topic: t, Payload: m.Payload, ClientID: c.ClientID(), CertificateID: c.CertificateID(), Event: c.Event}
	fault := s.Faults.of(r)
	if fault.CloseBefore {
		c.Close()
		return
	}
	answer := func() (provisioning.Reply, bool) { return s.provisioning.Answer(ctx, r) }
	if fault.Reject != nil {
		answer = func() (provisioning.Reply, bool) { return s.provisioning.Reject(r, *fault.Reject, "injected fault") }
	}
	reply, ok := answer()
	if !ok {
		return
	}
	if fault.CloseAfter {
		c.Close()
		return
	}
	if fault.DropReply || m.Early {
		return
	}
	if !wait(ctx, fault.DelayReply) {
		return
	}
	times := 1
	if fault.DuplicateReply {
		times = 2
	}
	for range times {
		if err := c.Reply(reply.Topic, reply.Payload); err != nil {
			s.config.Log.Info("lost a reply", "client", r.ClientID, "topic", reply.Topic, "error", err)
			continue
		}
		e := c.Event(Replied)
		e.Operation, e.Topic = string(t.Operation), reply.Topic
		s.history.Record(e)
	}
}
