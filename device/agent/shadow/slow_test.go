package shadow

import (
	"testing"

	"example.com/fleety/device/session"
)

// While a shadow is being stored, the agent still answers for it and receives messages.
func TestSlowDiskHoldsNobodyUp(t *testing.T) {
	s, err := New(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update([]byte(`{"state":{"reported":{"a":1}}}`)); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock() // as save does
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range inboxSize + 1 {
			if !s.Deliver(session.Message{Topic: "$aws/things/thing/shadow/update/accepted"}) {
				t.Error("not the shadow's")
			}
		}
		if got := s.Status().(*status); got.Pending != 1 {
			t.Errorf("%+v", got)
		}
		s.Metrics(func(_, _, _ string, samples ...any) {
			if n := samples[1].(map[string]uint64)[countOverflow]; n != 1 {
				t.Errorf("%d messages were dropped", n)
			}
		})
	}()
	select {
	case <-done:
	case <-t.Context().Done():
		t.Fatal("still waiting")
	}
	s.mu.Unlock()
	x := exchange{Shadow: s}
	if r := x.next(); r == nil || r.operation != "get" {
		t.Errorf("what was missed is not got: %+v", r)
	}
}
