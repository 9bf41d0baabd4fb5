package localcore

import (
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/jobs"
	"example.com/fleety/device/localcore/registry"
)

// openJobs opens the jobs service.
func (s *Server) openJobs(store jobs.Store) (err error) {
	s.jobs, err = jobs.Open(jobs.Config{
		Things: jobTargets{s.registry}, ARN: s.config.arn, Store: store, Now: s.config.Now, Log: s.config.Log,
		Publish: func(m jobs.Message) { s.publish(m.Topic, m.Payload) },
		Event: func(e jobs.Event) {
			kind := registry.JobExecutionEvent
			if e.OfJob {
				kind = registry.JobEvent
			}
			if s.registry.EventConfigurations().Enabled[kind] {
				s.publishEvent(e.Topic, e.Payload)
			}
		},
	})
	return err
}

// requestJobs answers a request of a device: the response goes to its
// connection alone, subscribed or not.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html
func (s *Server) requestJobs(t awsiot.JobsTopic, c *broker.Conn, m *broker.Message) {
	s.jobs.Handle(t, m.Payload, func(r jobs.Message) {
		if err := c.Reply(r.Topic, r.Payload); err != nil {
			s.config.Log.Info("lost a reply", "client", c.ClientID(), "topic", r.Topic, "error", err)
		}
	})
}

// jobTargets are the things of a registry.
type jobTargets struct{ registry *registry.Registry }

// HasThing implements [jobs.Things].
func (t jobTargets) HasThing(name string) bool {
	_, err := t.registry.DescribeThing(name)
	return err == nil
}

// Members implements [jobs.Things].
func (t jobTargets) Members(group string) ([]string, bool) {
	things, err := t.registry.ListThingsInThingGroup(group, false)
	return things, err == nil
}
