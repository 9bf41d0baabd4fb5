// Package event holds what happened in the emulator, for its log and for those who follow. Every
// part of the emulator records here.
package event

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// A Type names what happened.
type Type string

// The types of events.
const (
	Connected    Type = "connected"
	Disconnected Type = "disconnected"
	Subscribed   Type = "subscribed"
	Unsubscribed Type = "unsubscribed"
	Published    Type = "published"
	Issued       Type = "issued"      // a certificate, by a create operation
	Invoked      Type = "invoked"     // the pre-provisioning hook
	Returned     Type = "returned"    // the hook, with its decision in Reason
	Provisioned  Type = "provisioned" // a thing, by RegisterThing
	Replied      Type = "replied"     // to a request on a reserved topic or for credentials
	Rejected     Type = "rejected"    // Action says what
)

// An Action is what a rejected client tried to do.
type Action string

// The actions that can be rejected.
const (
	TLS       Action = "tls"
	Connect   Action = "connect"
	Publish   Action = "publish"
	Subscribe Action = "subscribe"
	Receive   Action = "receive"
	Provision Action = "provision"
	Packet    Action = "packet" // one that is malformed or not supported
	// Credentials is a request to the credentials provider.
	Credentials Action = "credentials"
)

// An Event is one thing that happened to one client. It holds no secrets.
type Event struct {
	Time   time.Time `json:"time"`
	Type   Type      `json:"type"`
	Action Action    `json:"action,omitempty"` // set on Rejected only

	ClientID      string `json:"clientId,omitempty"`
	CertificateID string `json:"certificateId,omitempty"`
	ThingName     string `json:"thingName,omitempty"`
	Address       string `json:"address,omitempty"`

	Topic     string `json:"topic,omitempty"`     // the topic or filter
	Operation string `json:"operation,omitempty"` // that of a request on a reserved topic, by AWS's name
	Code      string `json:"code,omitempty"`      // the errorCode of a rejected request
	// Reason says why: on Rejected which rule decided and what would allow it, on Disconnected
	// AWS's reason.
	Reason string `json:"reason,omitempty"`
}

// Attrs returns the fields that are set but the time and the type, for a log line.
func (e Event) Attrs() []slog.Attr {
	var attrs []slog.Attr
	for _, f := range [...]struct{ key, value string }{
		{"action", string(e.Action)}, {"client", e.ClientID}, {"certificate", e.CertificateID},
		{"thing", e.ThingName}, {"address", e.Address}, {"topic", e.Topic},
		{"operation", e.Operation}, {"code", e.Code}, {"reason", e.Reason},
	} {
		if f.value != "" {
			attrs = append(attrs, slog.String(f.key, f.value))
		}
	}
	return attrs
}

// maxHistory is how many events are kept.
const maxHistory = 2048

// A History keeps the latest 2048 events, and wakes who waits for the next. It is safe for
// concurrent use.
type History struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	grown  sync.Cond // of mu: an event was added, or the context of one who waits has ended
	events []Event   // a ring: number n is at n modulo maxHistory; under mu
	end    int       // number of the next event, under mu
}

// NewHistory returns an empty history that logs to log and reads the time from now.
func NewHistory(log *slog.Logger, now func() time.Time) *History {
	h := &History{log: log, now: now}
	h.grown.L = &h.mu
	return h
}

// Record logs the event, in one line, and hands it to those who wait.
func (h *History) Record(e Event) {
	e.Time = h.now().UTC()
	level := slog.LevelInfo
	switch e.Type {
	case Rejected:
		level = slog.LevelWarn
	case Published, Subscribed, Unsubscribed, Replied, Invoked, Returned:
		level = slog.LevelDebug
	}
	if ctx := context.Background(); h.log.Enabled(ctx, level) {
		h.log.LogAttrs(ctx, level, string(e.Type), e.Attrs()...)
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	if h.end < maxHistory {
		h.events = append(h.events, e)
	} else {
		h.events[h.end%maxHistory] = e
	}
	h.end++
	h.grown.Broadcast()
}

// Next returns the event with this number or the first later one that is still kept, and its
// number. It waits for it until ctx ends.
func (h *History) Next(ctx context.Context, number int) (Event, int, error) {
	defer context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.grown.Broadcast()
	})()
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.end <= number {
		if ctx.Err() != nil {
			return Event{}, number, ctx.Err()
		}
		h.grown.Wait()
	}
	number = max(number, h.end-maxHistory)
	return h.events[number%maxHistory], number, nil
}

// End returns the number that the next event will have.
func (h *History) End() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.end
}
