package shadow

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

const (
	answerTimeout = 30 * time.Second // of the Device Shadow service
	firstDelay    = time.Second      // the first limit of the delay before a request is repeated
	maxDelay      = 5 * time.Minute  // the last one
	// checkInterval is how often an old message has the shadow got, at most: after a
	// shadow is deleted, its versions may begin anew.
	checkInterval = time.Minute
	// maxConflicts is after how many in a row an update goes without a version.
	maxConflicts = 5
)

// A Conn is the agent's connection.
type Conn = interface {
	ThingName() string
	SessionPresent() bool
	Publish(ctx context.Context, topic string, payload []byte) error
}

// Filters returns the topics of the responses, of the differences, and of the
// shadow's deletion by somebody else.
func (s *Shadow) Filters(thing string) []string {
	get, update, del := s.topic(thing, awsiot.GetShadow), s.topic(thing, awsiot.UpdateShadow), s.topic(thing, awsiot.DeleteShadow)
	return []string{get.Accepted(), get.Rejected(), update.Accepted(), update.Rejected(), update.Delta(), del.Accepted()}
}

// Deliver lets a message of this shadow wait for Serve.
func (s *Shadow) Deliver(m session.Message) bool {
	if t, _, ok := parseTopic(m.Topic); !ok || t.Shadow != s.config.Name {
		return false
	}
	select {
	case s.inbox <- m:
	default: // the state will be got instead
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stale = true
		s.counters[countOverflow]++
	}
	return true
}

// parseTopic splits the topic of a response into that of the request and its last
// level.
func parseTopic(topic string) (t awsiot.ShadowTopic, response string, ok bool) {
	i := strings.LastIndexByte(topic, '/')
	if i < 0 {
		return t, "", false
	}
	t, ok = awsiot.ParseShadowTopic(topic[:i])
	response = topic[i+1:]
	return t, response, ok && (response == "accepted" || response == "rejected" || response == "delta" && t.Operation == awsiot.UpdateShadow)
}

// An exchange is what Serve knows of one connection.
type exchange struct {
	shadow    *Shadow
	waiting   *request
	retryAt   time.Time     // no request before
	delay     time.Duration // limit of the last delay, 0 after a success
	conflicts int           // in a row
	got       time.Time     // when the state was requested last
}

// A request waits for its answer. There is one at a time.
type request struct {
	operation awsiot.ShadowOperation
	token     string
	deadline  time.Time
	version   int64 // of the state when it was sent
}

// Serve gets the shadow, unless the session and the state of this process are
// still there, and then sends changes and receives those of others.
func (s *Shadow) Serve(ctx context.Context, conn Conn) error {
	s.mu.Lock()
	s.stale = s.stale || !s.synced || !conn.SessionPresent()
	s.mu.Unlock()
	x := &exchange{shadow: s}
	for {
		if err := x.request(ctx, conn); err != nil && ctx.Err() == nil {
			s.fail("publishing a request to the Device Shadow service", err)
			x.failed(countFailed)
		}
		due := x.retryAt
		if x.waiting != nil {
			due = x.waiting.deadline
		}
		var expired <-chan time.Time
		if !due.IsZero() {
			expired = time.After(time.Until(due))
		}
		select {
		case m := <-s.inbox:
			t, response, _ := parseTopic(m.Topic)
			if t.Thing != conn.ThingName() {
				s.count(countForeign)
				continue
			}
			x.receive(t.Operation, response, m.Payload)
		case <-s.changed:
		case <-expired:
			if x.waiting != nil {
				s.fail("waiting for the Device Shadow service", context.DeadlineExceeded)
				x.failed(countFailed)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// request sends what is due, if nothing is unanswered.
func (x *exchange) request(ctx context.Context, conn Conn) error {
	now := time.Now()
	if x.waiting != nil || now.Before(x.retryAt) {
		return nil
	}
	x.retryAt = time.Time{}
	x.shadow.mu.Lock()
	r := &request{token: rand.Text(), deadline: now.Add(answerTimeout), version: x.shadow.state.Version}
	body := object{"clientToken": r.token}
	switch {
	case x.shadow.stale:
		r.operation, x.got = awsiot.GetShadow, now
	case len(x.shadow.state.Queue) > 0:
		r.operation, body["state"] = awsiot.UpdateShadow, x.shadow.state.Queue[0]
		if r.version > 0 && x.conflicts < maxConflicts {
			body["version"] = r.version
		}
	default:
		r = nil
	}
	x.shadow.mu.Unlock()
	if r == nil {
		return nil
	}
	x.waiting = r
	return conn.Publish(ctx, x.shadow.topic(conn.ThingName(), r.operation).String(), awsiot.EncodeJSON(body))
}

// failed gives the request up that is unanswered, and lets the next one wait.
func (x *exchange) failed(result string) {
	x.shadow.count(result)
	x.waiting = nil
	x.delay = min(max(firstDelay, 2*x.delay), maxDelay)
	x.retryAt = time.Now().Add(mathrand.N(x.delay))
}

func (s *Shadow) count(result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters[result]++
}

// receive handles a message about the shadow.
func (x *exchange) receive(o awsiot.ShadowOperation, response string, payload []byte) {
	if response == "rejected" {
		var r rejection
		if len(payload) > maxMessage || !utf8.Valid(payload) || json.Unmarshal(payload, &r) != nil || r.Code == 0 {
			x.shadow.count(countMalformed)
		} else if x.waiting != nil && x.waiting.operation == o && (r.ClientToken == "" || r.ClientToken == x.waiting.token) {
			x.rejected(r)
		} // another client's
		return
	}
	if o == awsiot.DeleteShadow {
		x.shadow.mu.Lock()
		defer x.shadow.mu.Unlock()
		x.shadow.stale = true
		if x.waiting != nil && x.waiting.operation == awsiot.GetShadow {
			x.waiting = nil // its response may be of before the deletion
		}
		return
	}
	d, err := readDocument(payload)
	if response == "delta" {
		d.State = object{"desired": d.State}
	}
	known, malformed := sections(d.State)
	if err != nil || malformed != nil || response == "delta" && len(d.State["desired"].(object)) == 0 {
		x.shadow.count(countMalformed)
		return
	}
	ours := x.waiting != nil && x.waiting.operation == o && d.ClientToken == x.waiting.token
	if o == awsiot.GetShadow && !ours {
		return // another client's
	}
	x.shadow.mu.Lock()
	defer x.shadow.mu.Unlock()
	st, version := x.shadow.state, *d.Version
	if ours && response == "accepted" {
		x.shadow.counters[countAccepted]++
		if x.shadow.fault = ""; o == awsiot.UpdateShadow || len(st.Queue) == 0 {
			x.delay, x.conflicts = 0, 0
		}
	}
	switch {
	case o == awsiot.GetShadow && version < st.Version && st.Version != x.waiting.version:
		// A later change has overtaken the response: the state is still to be got.
	case o == awsiot.GetShadow:
		st.Version, st.Known, x.shadow.stale = version, merge(nil, known), false
		delta, _ := d.State["delta"].(object)
		x.shadow.synced, x.shadow.apply = true, x.shadow.apply || len(delta) > 0
	case version < st.Version:
		x.shadow.counters[countOld]++
		x.shadow.stale = x.shadow.stale || time.Since(x.got) > checkInterval
	default:
		x.shadow.stale = x.shadow.stale || version > st.Version+1 // something was missed
		st.Version, st.Known = version, merge(st.Known, known)
	}
	if ours && response == "accepted" {
		if o == awsiot.UpdateShadow {
			st.Queue = slices.Clone(st.Queue[1:])
		}
		x.waiting = nil
	}
	x.shadow.adopt(st)
}

// adopt takes what AWS IoT has sent, also where it cannot be stored: it can be got
// again. The caller holds mu.
func (s *Shadow) adopt(st state) {
	if bytes.Equal(awsiot.EncodeJSON(st), awsiot.EncodeJSON(s.state)) {
		// nothing to store
	} else if err := s.save(st); err != nil {
		s.state = st
		s.config.Log.Error("storing the shadow", "error", err)
	}
	signal(s.desired)
}

// rejected handles an error response.
func (x *exchange) rejected(r rejection) {
	err := fmt.Errorf("%s (%d)", awsiot.Printable(r.Message), r.Code)
	switch {
	case r.Code == 404 && x.waiting.operation == awsiot.GetShadow: // there is none yet
		x.shadow.mu.Lock()
		defer x.shadow.mu.Unlock()
		x.shadow.counters[countAccepted]++
		st := x.shadow.state
		st.Version, st.Known = 0, object{}
		x.shadow.synced, x.shadow.stale, x.shadow.fault, x.waiting = true, false, "", nil
		x.shadow.adopt(st)
	case r.Code == 409:
		x.failed(countConflict)
		if x.conflicts++; x.conflicts == 1 {
			x.retryAt = time.Time{}
		}
		x.shadow.mu.Lock()
		x.shadow.stale = true
		x.shadow.mu.Unlock()
	case (r.Code == 400 || r.Code == 413) && x.waiting.operation == awsiot.UpdateShadow && r.ClientToken != "":
		x.shadow.fail("a change of the shadow was rejected and is dropped", err)
		x.shadow.count(countDropped)
		x.waiting = nil
		x.shadow.mu.Lock()
		defer x.shadow.mu.Unlock()
		st := x.shadow.state
		st.Queue = slices.Clone(st.Queue[1:])
		x.shadow.adopt(st)
	case r.Code == 429:
		x.failed(countThrottled)
	default:
		x.shadow.fail("a request to the Device Shadow service was rejected", err)
		x.failed(countFailed)
	}
}
