package localcore

import (
	"context"
	"fmt"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/registry"
)

// An Event is one thing that happened to one client. It holds no secrets.
type (
	Event     = event.Event
	EventType = event.Type
	Action    = event.Action
)

// The types of events, and the actions that can be rejected, which package event describes.
const (
	Connected, Disconnected, Subscribed, Unsubscribed = event.Connected, event.Disconnected, event.Subscribed, event.Unsubscribed
	Published, Replied, Rejected                      = event.Published, event.Replied, event.Rejected
	Issued, Invoked, Returned, Provisioned            = event.Issued, event.Invoked, event.Returned, event.Provisioned

	ActionTLS, ActionConnect, ActionPublish, ActionSubscribe        = event.TLS, event.Connect, event.Publish, event.Subscribe
	ActionReceive, ActionProvision, ActionPacket, ActionCredentials = event.Receive, event.Provision, event.Packet, event.Credentials
)

// publishEvent publishes an event message, once there is a broker.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-events.html
func (s *Server) publishEvent(topic string, payload map[string]any) {
	payload["eventId"] = awsiot.NewUUID()
	if s.broker != nil {
		s.publish("$aws/events/"+topic, awsiot.EncodeJSON(payload))
	}
}

// AwaitThing waits until a thing of this name is registered and returns it.
func (s *Server) AwaitThing(ctx context.Context, name string) (thing registry.Thing, err error) {
	for { // not at events: the API and Registry create things without one
		if thing, err = s.registry.DescribeThing(name); !rejectedWith(err, registry.CodeNotFound) {
			return thing, err
		}
		if !wait(ctx, 10*time.Millisecond) {
			return thing, fmt.Errorf("waiting for thing %s: %w", name, ctx.Err())
		}
	}
}

// AwaitEvent waits for an event that match accepts. Past events count too, as far as they are kept:
// the latest 2048.
func (s *Server) AwaitEvent(ctx context.Context, match func(Event) bool) (found Event, err error) {
	err = s.follow(ctx, 0, func(e Event) bool {
		found = e
		return !match(e)
	})
	if err != nil {
		return Event{}, fmt.Errorf("waiting for an event: %w", err)
	}
	return found, nil
}

// Follow calls yield for every event from now on, until yield returns false or ctx ends, whose
// error it then returns. A slow yield loses events, the oldest first, when more than 2048 are
// waiting.
func (s *Server) Follow(ctx context.Context, yield func(Event) bool) error {
	return s.follow(ctx, s.history.End(), yield)
}

func (s *Server) follow(ctx context.Context, number int, yield func(Event) bool) error {
	for {
		e, n, err := s.history.Next(ctx, number)
		if err != nil || !yield(e) {
			return err
		}
		number = n + 1
	}
}
