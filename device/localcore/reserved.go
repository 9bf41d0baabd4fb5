package localcore

import (
	"context"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/provisioning"
)

// reserved finds the service behind a reserved topic. Another service is added
// here: it gets what clients publish, and answers the connection itself with
// [broker.Conn.Reply] or everyone who subscribed with [broker.Broker.Publish].
func (s *Server) reserved(topic string) (h broker.Handler, direct bool) {
	if t, ok := awsiot.ParseTopic(topic); ok {
		return func(ctx context.Context, c *broker.Conn, m *broker.Message) { s.provision(ctx, c, t, m.Payload) }, true
	}
	if t, ok := shadowTopic(topic); ok {
		return func(_ context.Context, _ *broker.Conn, m *broker.Message) { s.requestShadow(t, m.Payload, 0) }, false
	}
	if t, ok := awsiot.ParseJobsTopic(topic); ok {
		return s.requestJobs(t), true
	}
	return nil, false
}

// provision answers a provisioning request, altered as the faults say. The reply
// goes to the connection that asked, whether it subscribed or not, and to no
// other.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/reserved-topics.html
func (s *Server) provision(ctx context.Context, c *broker.Conn, t awsiot.Topic, payload []byte) {
	r := provisioning.Request{Topic: t, Payload: payload, ClientID: c.ClientID(), CertificateID: c.CertificateID(), Event: c.Event}
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
	if fault.DropReply || !pause(ctx, fault.DelayReply) {
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

// pause waits, and reports false when ctx ends meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
