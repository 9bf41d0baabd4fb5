package agent

import (
	"context"
	"testing"

	"example.com/fleety/device/session"
)

// A program that does not read costs the agent no more than its bound, in messages
// or in bytes.
func TestSubscriberIsBehindByABoundedNumberOfBytes(t *testing.T) {
	for size, most := range map[int]int{1: subscriberBuffer, 128 << 10: subscriberBytes / (128 << 10), subscriberBytes + 1: 0} {
		s := newSubscriptions("")
		ctx, drop := context.WithCancelCause(t.Context())
		sub, err := s.add("#", drop)
		if err != nil {
			t.Fatal(err)
		}
		m := session.Message{Topic: "a", Payload: make([]byte, size)}
		for range most {
			s.deliver(m)
		}
		if most > 0 { // what is read makes room
			s.taken(sub, <-sub.messages)
			s.deliver(m)
		}
		if ctx.Err() != nil {
			t.Errorf("%d messages of %d bytes: dropped: %v", most, size, context.Cause(ctx))
		}
		if s.deliver(m); ctx.Err() == nil {
			t.Errorf("%d messages of %d bytes wait", len(sub.messages), size)
		}
	}
}
