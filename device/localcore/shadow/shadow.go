// Package shadow is the Device Shadow service of AWS IoT Core: it keeps the
// classic and the named shadows of things, merges updates into them, and
// returns what the service publishes about each request. It handles no
// packets and no HTTP: the caller delivers the messages.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-device-shadows.html
package shadow

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"example.com/fleety/device/awsiot"
)

// versionKept is how long a deleted shadow's version number is continued.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-data-flow.html
const versionKept = 48 * time.Hour

// A Store keeps records by key over restarts. It is called by one goroutine at
// a time.
type Store interface {
	// Each calls f with every record until f fails, and returns f's error.
	Each(f func(key string, value []byte) error) error
	// Save stores records, all or none; a nil value removes one.
	Save(records map[string][]byte) error
}

// A Message is published by the service.
type Message struct {
	Topic   string
	Payload []byte
}

// A Config says what the service stands on. The zero value works.
type Config struct {
	// Store is nil for memory only.
	Store Store
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// EnforceRates rejects more requests per second than AWS allows for a shadow.
	EnforceRates bool
}

// A Service holds the shadows of one account. It is safe for concurrent use.
type Service struct {
	config Config

	mu     sync.Mutex
	things map[string]map[string]record // by thing and shadow name; under mu
	rates  map[string]*rate.Limiter     // by key of a shadow; under mu
}

// A record is a shadow as it is stored, never changed in place.
type record struct {
	State    object `json:"state"` // the sections desired and reported
	Metadata object `json:"metadata"`
	Version  int64  `json:"version"`
	// Deleted is zero for a shadow that exists.
	Deleted time.Time `json:"deleted,omitzero"`
}

// Open returns the service with the shadows in the store.
func Open(c Config) (*Service, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Service{config: c, things: map[string]map[string]record{}, rates: map[string]*rate.Limiter{}}
	if c.Store == nil {
		return s, nil
	}
	err := c.Store.Each(func(key string, value []byte) error {
		thing, name, _ := strings.Cut(key, "/")
		var r record
		if err := awsiot.DecodeJSON(value, &r); err != nil {
			return fmt.Errorf("shadow %s: %w", key, err)
		}
		s.put(thing, name, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the shadows: %w", err)
	}
	return s, nil
}

// Request carries out one request and returns what the service publishes: the
// accepted response first. A rejected request returns an [*Error]; see
// [Rejected] for the message about it. Any other error is of the store.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html
func (s *Service) Request(t awsiot.ShadowTopic, payload []byte) ([]Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	var out []Message
	q, err := readRequest(t.Operation, payload)
	if !s.allow(t, now) {
		err = reject(429, "Too many requests")
	}
	switch {
	case err != nil:
	case t.Operation == awsiot.GetShadow:
		out, err = s.get(t, q, now)
	case t.Operation == awsiot.UpdateShadow:
		out, err = s.update(t, q, now)
	case t.Operation == awsiot.DeleteShadow:
		out, err = s.delete(t, q, now)
	}
	if e, ok := errors.AsType[*Error](err); ok {
		e.Timestamp, e.ClientToken = now.Unix(), q.clientToken
	}
	return out, err
}

// allow counts a request for a shadow, if rates are enforced.
func (s *Service) allow(t awsiot.ShadowTopic, now time.Time) bool {
	if !s.config.EnforceRates {
		return true
	}
	limit := s.rates[key(t)]
	if limit == nil {
		if len(s.rates) == maxRates {
			clear(s.rates) // requests for ever new names must not fill the memory
		}
		limit = rate.NewLimiter(requestsPerSecond, requestsPerSecond)
		s.rates[key(t)] = limit
	}
	return limit.AllowN(now, 1)
}

// key is the key of a shadow in the store; neither name has a slash.
func key(t awsiot.ShadowTopic) string { return t.Thing + "/" + t.Shadow }

// NamedShadows returns the names of the thing's named shadows, sorted.
func (s *Service) NamedShadows(thing string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, r := range s.things[thing] {
		if name != "" && r.Deleted.IsZero() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// A document is the body of the responses accepted and delta.
type document struct {
	State       object `json:"state,omitzero"`
	Metadata    object `json:"metadata,omitzero"`
	Version     int64  `json:"version"`
	Timestamp   int64  `json:"timestamp,omitempty"` // seconds since 1970
	ClientToken string `json:"clientToken,omitempty"`
}

// documents is a shadow before and after an update. Previous is nil when there
// was none.
type documents struct {
	Previous    *document `json:"previous"`
	Current     *document `json:"current"`
	Timestamp   int64     `json:"timestamp"`
	ClientToken string    `json:"clientToken,omitempty"`
}

func message(topic string, d any) Message { return Message{topic, awsiot.EncodeJSON(d)} }

func (s *Service) get(t awsiot.ShadowTopic, q request, now time.Time) ([]Message, error) {
	r, ok := s.find(t)
	if !ok {
		return nil, notFound(t)
	}
	state, metadata := maps.Clone(r.State), maps.Clone(r.Metadata)
	if delta, meta := r.delta(); len(delta) > 0 {
		state["delta"], metadata["delta"] = delta, meta
	}
	return []Message{message(t.Accepted(), document{state, metadata, r.Version, now.Unix(), q.clientToken})}, nil
}

func (s *Service) update(t awsiot.ShadowTopic, q request, now time.Time) ([]Message, error) {
	old, exists := s.find(t)
	if !exists {
		old = record{Version: s.lastVersion(t, now)}
	}
	if q.version != nil && *q.version != old.Version {
		return nil, reject(409, "Version conflict")
	}
	r := record{Version: old.Version + 1}
	r.State, r.Metadata = merge(old.State, old.Metadata, q.state, now.Unix())
	for section, state := range r.State {
		if len(state.(object)) == 0 {
			delete(r.State, section)
			delete(r.Metadata, section)
		}
	}
	if len(awsiot.EncodeJSON(r.State)) > maxDocument {
		return nil, reject(413, "The payload exceeds the maximum size allowed")
	}
	if err := s.save(t, r); err != nil {
		return nil, err
	}
	stamps := stamp(q.state, now.Unix()).(object)
	out := []Message{message(t.Accepted(), document{q.state, stamps, r.Version, now.Unix(), q.clientToken})}
	if delta, meta := r.delta(); len(delta) > 0 {
		out = append(out, message(t.Delta(), document{delta, meta, r.Version, now.Unix(), q.clientToken}))
	}
	both := documents{
		Current:   &document{State: r.State, Metadata: r.Metadata, Version: r.Version},
		Timestamp: now.Unix(), ClientToken: q.clientToken,
	}
	if exists {
		both.Previous = &document{State: old.State, Metadata: old.Metadata, Version: old.Version}
	}
	return append(out, message(t.Documents(), both)), nil
}

func (s *Service) delete(t awsiot.ShadowTopic, q request, now time.Time) ([]Message, error) {
	r, ok := s.find(t)
	if !ok {
		return nil, notFound(t)
	}
	if err := s.save(t, record{Version: r.Version, Deleted: now}); err != nil {
		return nil, err
	}
	return []Message{message(t.Accepted(), document{Version: r.Version, Timestamp: now.Unix(), ClientToken: q.clientToken})}, nil
}

// find returns a shadow that exists. The caller holds the lock.
func (s *Service) find(t awsiot.ShadowTopic) (record, bool) {
	r, ok := s.things[t.Thing][t.Shadow]
	return r, ok && r.Deleted.IsZero()
}

// lastVersion returns the version that a new shadow continues.
func (s *Service) lastVersion(t awsiot.ShadowTopic, now time.Time) int64 {
	if r, ok := s.things[t.Thing][t.Shadow]; ok && now.Sub(r.Deleted) <= versionKept {
		return r.Version
	}
	return 0
}

func (s *Service) save(t awsiot.ShadowTopic, r record) error {
	if s.config.Store != nil {
		if err := s.config.Store.Save(map[string][]byte{key(t): awsiot.EncodeJSON(r)}); err != nil {
			return fmt.Errorf("storing a shadow of thing %s: %w", t.Thing, err)
		}
	}
	s.put(t.Thing, t.Shadow, r)
	return nil
}

func (s *Service) put(thing, name string, r record) {
	if s.things[thing] == nil {
		s.things[thing] = map[string]record{}
	}
	s.things[thing][name] = r
}

// delta returns what the device has still to change, with the metadata of the
// desired state.
func (r record) delta() (delta, metadata object) {
	desired, _ := r.State["desired"].(object)
	reported, _ := r.State["reported"].(object)
	meta, _ := r.Metadata["desired"].(object)
	return difference(desired, reported, meta)
}
