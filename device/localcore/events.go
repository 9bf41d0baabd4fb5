package localcore

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// An EventType names what happened.
type EventType string

// The types of events.
const (
	Connected    EventType = "connected"
	Disconnected EventType = "disconnected"
	Subscribed   EventType = "subscribed"
	Unsubscribed EventType = "unsubscribed"
	Published    EventType = "published"
	Issued       EventType = "issued"     // a certificate, by a create operation
	Registered   EventType = "registered" // a thing, by RegisterThing
	Replied      EventType = "replied"    // to a provisioning request
	Refused      EventType = "refused"    // Action tells what
)

// An Action is what a refused client wanted to do.
type Action string

// The actions that can be refused.
const (
	ActionTLS       Action = "tls"
	ActionConnect   Action = "connect"
	ActionPublish   Action = "publish"
	ActionSubscribe Action = "subscribe"
	ActionReceive   Action = "receive"
	ActionProvision Action = "provision"
	ActionPacket    Action = "packet" // one that is malformed or not supported
)

// An Event is one thing that happened to one client. It holds no secrets.
type Event struct {
	Time time.Time `json:"time"`
	Type EventType `json:"type"`
	// Action is set on Refused only.
	Action Action `json:"action,omitempty"`

	ClientID      string `json:"clientId,omitempty"`
	CertificateID string `json:"certificateId,omitempty"`
	ThingName     string `json:"thingName,omitempty"`
	Address       string `json:"address,omitempty"`

	// Topic is the topic or filter.
	Topic string `json:"topic,omitempty"`
	// Operation is that of a provisioning request, by AWS's name.
	Operation string `json:"operation,omitempty"`
	// Code is the errorCode of a rejected provisioning request.
	Code string `json:"code,omitempty"`
	// Reason says why: on Refused which rule decided and what would allow it,
	// on Disconnected AWS's reason.
	Reason string `json:"reason,omitempty"`
}

// attrs returns the fields that are set, for a log line.
func (e Event) attrs() []slog.Attr {
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

// maxHistory is how many events are kept for those who ask late.
const maxHistory = 4096

// journal keeps the latest events and wakes who waits for the next.
type journal struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	events []Event       // under mu
	first  int           // number of events[0], under mu
	grown  chan struct{} // closed when an event comes, under mu
}

func newJournal(log *slog.Logger, now func() time.Time) *journal {
	return &journal{log: log, now: now, grown: make(chan struct{})}
}

// record logs the event, in one line, and hands it to who follows.
func (j *journal) record(e Event) {
	e.Time = j.now().UTC()
	level := slog.LevelInfo
	switch e.Type {
	case Refused:
		level = slog.LevelWarn
	case Published, Subscribed, Unsubscribed, Replied:
		level = slog.LevelDebug
	}
	if ctx := context.Background(); j.log.Enabled(ctx, level) {
		j.log.LogAttrs(ctx, level, string(e.Type), e.attrs()...)
	}

	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.events) == maxHistory {
		j.events = append(j.events[:0:0], j.events[maxHistory/2:]...)
		j.first += maxHistory / 2
	}
	j.events = append(j.events, e)
	close(j.grown)
	j.grown = make(chan struct{})
}

// next returns the event with this number or the first later one that is still
// kept, and its number. It waits for it if need be.
func (j *journal) next(ctx context.Context, number int) (Event, int, error) {
	for {
		j.mu.Lock()
		number = max(number, j.first)
		if i := number - j.first; i < len(j.events) {
			e := j.events[i]
			j.mu.Unlock()
			return e, number, nil
		}
		grown := j.grown
		j.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return Event{}, number, ctx.Err()
		}
	}
}

// latest returns the number that the next event will have.
func (j *journal) latest() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first + len(j.events)
}
