package event

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func newHistory() *History { return NewHistory(slog.New(slog.DiscardHandler), time.Now) }

func TestHistoryKeepsTheLatestEvents(t *testing.T) {
	h := newHistory()
	for i := range 3 * maxHistory {
		h.Record(Event{Topic: fmt.Sprint(i)})
	}
	_, oldest, err := h.Next(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if kept := h.End() - oldest; kept != maxHistory {
		t.Errorf("%d events are kept", kept)
	}
	for number := oldest; number < h.End(); number++ {
		e, n, err := h.Next(t.Context(), number)
		if err != nil || n != number || e.Topic != fmt.Sprint(number) {
			t.Fatalf("event %d is %q of number %d, %v", number, e.Topic, n, err)
		}
	}
}

func TestNextWaitsForTheNextEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHistory()
		got := make(chan Event)
		for range 2 {
			go func() {
				e, _, err := h.Next(t.Context(), h.End())
				if err != nil {
					t.Error(err)
				}
				got <- e
			}()
		}
		synctest.Wait()
		h.Record(Event{Topic: "a"})
		for range 2 {
			if e := <-got; e.Topic != "a" {
				t.Errorf("event %+v", e)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := h.Next(ctx, h.End()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}
