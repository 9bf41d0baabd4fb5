package agent

import (
	"context"
	"testing"

	"example.com/fleety/device/session"
)

// A program that does not read costs the agent no more than its bound, in messages or in bytes.
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
			sub.waiting.Add(-int64(len((<-sub.messages).Payload)))
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

// A program that subscribes while its filter is being unsubscribed from waits until it is
// subscribed to again.
func TestSubscriberDoesNotUseASubscriptionThatEnds(t *testing.T) {
	s := newSubscriptions("")
	isReady := func(sub *subscriber) bool {
		select {
		case <-sub.ready:
			return true
		default:
			return false
		}
	}
	s.hold("a")
	if _, remove := s.next(); remove != "a" {
		t.Fatalf("unsubscribes from %q", remove)
	}
	sub, err := s.add("a", func(error) {})
	if err != nil || isReady(sub) {
		t.Fatalf("ready before it is subscribed to, %v", err)
	}
	if add, remove := s.next(); add != "a" || remove != "" {
		t.Errorf("subscribes to %q and unsubscribes from %q", add, remove)
	}
	if s.hold("a"); !isReady(sub) {
		t.Error("not ready after SUBACK")
	}
}
