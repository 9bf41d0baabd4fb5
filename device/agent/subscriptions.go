package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/session"
)

const (
	maxFilters       = 50      // AWS IoT's quota of subscriptions in one connection
	subscriberBuffer = 256     // messages that a program may be behind
	subscriberBytes  = 1 << 20 // and bytes of payload
)

// A subscriber is one program that receives the messages of a filter.
type subscriber struct {
	filter   string
	messages chan session.Message
	waiting  atomic.Int64  // bytes of payload in messages
	ready    chan struct{} // receives a value when AWS IoT has acknowledged the subscription
	drop     context.CancelCauseFunc
}

// subscriptions are the programs that subscribe, and what of that the present connection has.
type subscriptions struct {
	changed chan struct{} // receives a value when the filters may have changed
	path    string        // of the filters of held, for the next process

	saving sync.Mutex
	saved  []byte // what is in the file; guarded by saving

	mu          sync.Mutex
	subscribers []*subscriber
	services    []string // the filters of services
	// held are the filters that the session has: true once AWS IoT has acknowledged the
	// subscription, false for those that an earlier process has left, perhaps.
	held        map[string]bool
	received    uint64
	droppedSlow uint64
}

func newSubscriptions(path string) *subscriptions {
	s := &subscriptions{changed: make(chan struct{}, 1), path: path, held: map[string]bool{}}
	var filters []string
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &filters) == nil {
		s.saved = data
		for _, filter := range filters {
			s.held[filter] = false
		}
	}
	return s
}

// setServices sets the filters of services.
func (s *subscriptions) setServices(filters []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.services = filters
	signal(s.changed)
}

// expect returns the filters that the session does not have for sure, and notes, before they are
// requested, that it may have them. Without the file, a subscription that a killed process has left
// stays as long as the session does.
func (s *subscriptions) expect(filters ...string) (missing []string) {
	s.mu.Lock()
	for _, filter := range filters {
		if !s.held[filter] {
			s.held[filter] = false
			missing = append(missing, filter)
		}
	}
	s.mu.Unlock()
	s.save()
	return missing
}

// save writes the filters, where they are not in the file.
func (s *subscriptions) save() {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	filters := slices.Sorted(maps.Keys(s.held))
	s.mu.Unlock()
	data := awsiot.EncodeJSON(filters)
	if !bytes.Equal(data, s.saved) && osfile.Replace(s.path, data, 0o600) == nil { // a full disk is no reason not to subscribe
		s.saved = data
	}
}

// add subscribes a program to a filter. drop is called with the reason when that ends.
func (s *subscriptions) add(filter string, drop context.CancelCauseFunc) (*subscriber, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	filters := s.wanted()
	if len(s.subscribers) >= maxSubscribers || len(filters)+len(s.services) >= maxFilters && !slices.Contains(filters, filter) {
		return nil, &Error{503, fmt.Sprintf("there are %d subscribers with %d filters; at most %d with %d are possible", len(s.subscribers), len(filters), maxSubscribers, maxFilters-len(s.services))}
	}
	sub := &subscriber{filter: filter, messages: make(chan session.Message, subscriberBuffer), ready: make(chan struct{}, 1), drop: drop}
	s.subscribers = append(s.subscribers, sub)
	if wildcards := strings.ContainsAny(filter, "+#"); s.held[filter] && wildcards {
		signal(sub.ready)
	} else if s.held[filter] { // a retained message comes with each SUBACK, for such filters alone
		s.held[filter] = false
	}
	signal(s.changed)
	return sub, nil
}

func (s *subscriptions) remove(sub *subscriber) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribers = slices.DeleteFunc(s.subscribers, func(other *subscriber) bool { return other == sub })
	signal(s.changed)
}

// wanted returns the filters that programs subscribe to. The caller holds mu.
func (s *subscriptions) wanted() (filters []string) {
	for _, sub := range s.subscribers {
		if !slices.Contains(filters, sub.filter) {
			filters = append(filters, sub.filter)
		}
	}
	return filters
}

// drop ends the subscribers that match, with a reason. The caller holds mu.
func (s *subscriptions) drop(reason error, match func(*subscriber) bool) {
	s.subscribers = slices.DeleteFunc(s.subscribers, func(sub *subscriber) bool {
		if !match(sub) {
			return false
		}
		sub.drop(reason)
		signal(s.changed)
		return true
	})
}

// deliver hands a message to the programs that subscribe to it. It does not wait for one that is
// slow, but drops it. It reports whether there was any.
func (s *subscriptions) deliver(m session.Message) (wanted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received++
	s.drop(fmt.Errorf("more than %d messages or %d bytes were waiting for this subscriber", subscriberBuffer, subscriberBytes), func(sub *subscriber) bool {
		if !awsiot.MatchFilter(sub.filter, m.Topic) {
			return false
		}
		wanted = true
		if sub.waiting.Add(int64(len(m.Payload))) <= subscriberBytes {
			select {
			case sub.messages <- m:
				return false
			default:
			}
		}
		s.droppedSlow++
		return true
	})
	return wanted
}

// hold notes that the connection has subscriptions.
func (s *subscriptions) hold(filters ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, filter := range filters {
		s.held[filter] = true
		for _, sub := range s.subscribers {
			if sub.filter == filter {
				signal(sub.ready)
			}
		}
	}
}

// reset notes that AWS IoT has not kept the session, or that another client may have changed it.
func (s *subscriptions) reset(kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.held, func(string, bool) bool { return !kept })
	for filter := range s.held {
		s.held[filter] = false
	}
	signal(s.changed)
}

// next returns a filter to subscribe to, or one to unsubscribe from, which from now on the session
// does not have for sure: a program that subscribes to it waits for its own SUBACK.
func (s *subscriptions) next() (add, remove string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := s.wanted()
	for filter := range s.held {
		if !slices.Contains(wanted, filter) && !slices.Contains(s.services, filter) {
			s.held[filter] = false
			return "", filter
		}
	}
	for _, filter := range wanted {
		if !s.held[filter] {
			return filter, ""
		}
	}
	return "", ""
}

// keepSubscribed gives the connection the subscriptions of the programs, until it ends. AWS IoT
// denies a subscription by closing the connection, so that each is requested alone: its subscribers
// are dropped then, and nobody else's, and a filter that is denied again and again is not requested
// for a while.
func (s *subscriptions) keepSubscribed(ctx context.Context, c serviceConn) error {
	for {
		release, err := c.agent.publisher.turn.take(ctx, c.conn)
		if err != nil {
			return err
		}
		add, remove := s.next()
		switch {
		case remove != "":
			err = c.conn.Unsubscribe(ctx, remove)
		case add != "":
			s.expect(add)
			err = c.attempt(ctx, "SUBSCRIBE", add, func(ctx context.Context) error { return c.conn.Subscribe(ctx, add) })
		}
		_, rejected := errors.AsType[*session.SubackError](err)
		rejected = rejected || errors.Is(err, errDenied)
		if err == nil && add != "" {
			s.hold(add)
		}
		s.mu.Lock()
		switch {
		case rejected || add != "" && session.Unanswered(err) == "SUBSCRIBE":
			s.drop(fmt.Errorf("AWS IoT probably denies the subscription: %w", err), func(sub *subscriber) bool { return sub.filter == add })
			if rejected {
				err = nil
			}
		case err == nil && remove != "":
			delete(s.held, remove)
		}
		s.mu.Unlock()
		release()
		s.save()
		if err != nil {
			return err
		}
		if add != "" || remove != "" {
			continue
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
