// Package shadow is the Device Shadow service of AWS IoT Core: it keeps the classic and the named
// shadows of things, merges updates into them, and returns what the service publishes about each
// request. It handles no packets and no HTTP: the caller delivers the messages.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-device-shadows.html
package shadow

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/records"
)

// versionKept is how long a deleted shadow's version number is continued.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-data-flow.html
const versionKept = 48 * time.Hour

// A Config says what the service stands on. Now must be set.
type Config struct {
	Store        records.Store // nil for memory only
	Now          func() time.Time
	EnforceRates bool // rejects more requests per second than AWS allows for a shadow
}

// A Service holds the shadows of one account. It is safe for concurrent use.
type Service struct {
	config Config

	mu      sync.Mutex               // held while the store is written, so that what is read is stored
	shadows map[string]record        // by key; under mu
	rates   map[string]*rate.Limiter // of requests for a shadow, by key; under mu
}

// A record is a shadow as it is stored, never changed in place.
type record struct {
	State    object    `json:"state"` // the sections desired and reported
	Metadata object    `json:"metadata"`
	Version  int64     `json:"version"`
	Deleted  time.Time `json:"deleted,omitzero"` // zero for a shadow that exists
}

// Open returns the service with the shadows in the store.
func Open(c Config) (*Service, error) {
	c.Store = cmp.Or(c.Store, records.None)
	s := &Service{config: c, shadows: map[string]record{}, rates: map[string]*rate.Limiter{}}
	err := c.Store.Each(func(key string, value []byte) error {
		var r record
		if err := awsiot.DecodeJSON(value, &r); err != nil {
			return fmt.Errorf("shadow %s: %w", key, err)
		}
		s.shadows[key] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the shadows: %w", err)
	}
	return s, nil
}

// Request carries out one request and returns what the service publishes: the accepted response
// first. A rejected request returns an [*awsiot.ShadowError]; see [Rejected] for the message about
// it. Any other error is of the store. ahead counts the requests of the same connection that were under
// way when it came.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-mqtt.html
func (s *Service) Request(t awsiot.ShadowTopic, payload []byte, ahead int) (out []awsiot.Message, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.config.Now()
	q, err := readRequest(t.Operation, payload)
	if !s.allow(t, now) || s.config.EnforceRates && ahead >= maxUnderway {
		err = reject(429, "Too many requests")
	}
	if err == nil {
		out, err = s.carryOut(t, q, now)
	}
	if e, ok := errors.AsType[*awsiot.ShadowError](err); ok {
		e.Timestamp, e.ClientToken = now.Unix(), q.ClientToken
	}
	return out, err
}

func (s *Service) carryOut(t awsiot.ShadowTopic, q awsiot.ShadowDocument, now time.Time) (out []awsiot.Message, err error) {
	publish := func(topic string, state, metadata any, version int64) {
		out = append(out, awsiot.Message{Topic: topic, Payload: awsiot.EncodeJSON(struct { // awsiot.ShadowDocument, whose state can be null
			State       any    `json:"state,omitzero"`
			Metadata    any    `json:"metadata,omitzero"`
			Version     int64  `json:"version"`
			Timestamp   int64  `json:"timestamp"`
			ClientToken string `json:"clientToken,omitempty"`
		}{state, metadata, version, now.Unix(), q.ClientToken})})
	}
	old, exists := s.shadows[key(t)]
	if exists = exists && old.Deleted.IsZero(); !exists && t.Operation != awsiot.UpdateShadow {
		return nil, reject(404, "No shadow exists with name: '%s'", cmp.Or(t.Shadow, t.Thing))
	}
	switch t.Operation {
	case awsiot.GetShadow:
		state, metadata := maps.Clone(old.State), maps.Clone(old.Metadata)
		if delta, meta := old.delta(); len(delta) > 0 {
			state["delta"], metadata["delta"] = delta, meta
		}
		publish(t.Accepted(), state, metadata, old.Version)
	case awsiot.DeleteShadow:
		if err := s.save(t, record{Version: old.Version, Deleted: now}); err != nil {
			return nil, err
		}
		publish(t.Accepted(), nil, nil, old.Version)
	case awsiot.UpdateShadow:
		if now.Sub(old.Deleted) > versionKept && !exists {
			old.Version = 0
		}
		if q.Version != nil && *q.Version != old.Version {
			return nil, reject(409, "Version conflict")
		}
		r := record{Version: old.Version + 1}
		var requested any = q.State
		if r.State, r.Metadata = merge(old.State, old.Metadata, q.State, now.Unix()); q.State == nil {
			requested, r.State, r.Metadata = json.RawMessage("null"), object{}, object{}
		}
		for section, state := range r.State {
			if len(state.(object)) == 0 {
				delete(r.State, section)
				delete(r.Metadata, section)
			}
		}
		if len(awsiot.EncodeJSON(r.State)) > awsiot.MaxShadowDocument {
			return nil, reject(413, "The payload exceeds the maximum size allowed")
		}
		if err := s.save(t, r); err != nil {
			return nil, err
		}
		publish(t.Accepted(), requested, stamp(requested, now.Unix()), r.Version)
		if delta, meta := r.delta(); len(delta) > 0 {
			publish(t.Delta(), delta, meta, r.Version)
		}
		both := struct {
			Previous    *awsiot.ShadowDocument `json:"previous"`
			Current     *awsiot.ShadowDocument `json:"current"`
			Timestamp   int64                  `json:"timestamp"`
			ClientToken string                 `json:"clientToken,omitempty"`
		}{nil, r.document(), now.Unix(), q.ClientToken}
		if exists {
			both.Previous = old.document()
		}
		out = append(out, awsiot.Message{Topic: t.Documents(), Payload: awsiot.EncodeJSON(both)})
	}
	return out, nil
}

func (r record) document() *awsiot.ShadowDocument {
	return &awsiot.ShadowDocument{State: r.State, Metadata: r.Metadata, Version: &r.Version}
}

// delta returns what the device has still to change, with the metadata of the desired state.
func (r record) delta() (delta, metadata object) {
	desired, _ := r.State["desired"].(object)
	reported, _ := r.State["reported"].(object)
	meta, _ := r.Metadata["desired"].(object)
	return difference(desired, reported, meta)
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

// key is the key of a shadow, also in the store; neither name has a slash.
func key(t awsiot.ShadowTopic) string { return t.Thing + "/" + t.Shadow }

func (s *Service) save(t awsiot.ShadowTopic, r record) error {
	if err := s.config.Store.Save(map[string][]byte{key(t): awsiot.EncodeJSON(r)}); err != nil {
		return fmt.Errorf("storing a shadow of thing %s: %w", t.Thing, err)
	}
	s.shadows[key(t)] = r
	return nil
}

// Sweep forgets the deleted shadows whose version numbers are not continued any more. Call it every
// few seconds.
func (s *Service) Sweep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone, now := map[string][]byte{}, s.config.Now()
	for key, r := range s.shadows {
		if !r.Deleted.IsZero() && now.Sub(r.Deleted) > versionKept {
			gone[key] = nil
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := s.config.Store.Save(gone); err != nil {
		return fmt.Errorf("removing deleted shadows: %w", err)
	}
	for key := range gone {
		delete(s.shadows, key)
	}
	return nil
}

// NamedShadows returns the names of the thing's named shadows, sorted.
func (s *Service) NamedShadows(thing string) (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, r := range s.shadows {
		if name, ok := strings.CutPrefix(key, thing+"/"); ok && name != "" && r.Deleted.IsZero() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
