package shadow

import (
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
	// checkInterval is how often an old message has the shadow got, at most: after a shadow is
	// deleted, its versions may begin anew.
	checkInterval = time.Minute
	maxConflicts  = 5 // after that many in a row an update goes without a version
)

// Filters returns the topics of the responses, the differences, and a deletion by somebody else.
func (s *Shadow) Filters(thing string) []string {
	get, update, del := s.topic(thing, awsiot.GetShadow), s.topic(thing, awsiot.UpdateShadow), s.topic(thing, awsiot.DeleteShadow)
	return []string{get.Accepted(), get.Rejected(), update.Accepted(), update.Rejected(), update.Delta(), del.Accepted()}
}

func (s *Shadow) topic(thing string, o awsiot.ShadowOperation) awsiot.ShadowTopic {
	return awsiot.ShadowTopic{Thing: thing, Shadow: s.config.Name, Operation: o}
}

// Deliver lets a message of this shadow wait for Serve.
func (s *Shadow) Deliver(m session.Message) bool {
	if t, _, ok := parseTopic(m.Topic); !ok || t.Shadow != s.config.Name {
		return false
	}
	select {
	case s.inbox <- m:
	default: // the state will be got instead
		s.missed.Store(true)
		s.count(countOverflow)
	}
	return true
}

// parseTopic splits the topic of a response into that of the request and its last level.
func parseTopic(topic string) (t awsiot.ShadowTopic, response string, ok bool) {
	i := max(strings.LastIndexByte(topic, '/'), 0)
	t, ok = awsiot.ParseShadowTopic(topic[:i])
	response = strings.TrimPrefix(topic[i:], "/")
	return t, response, ok && (response == "accepted" || response == "rejected" || response == "delta" && t.Operation == awsiot.UpdateShadow)
}

// An exchange is what Serve knows of one connection.
type exchange struct {
	*Shadow
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
	body      object
}

// Serve gets the shadow, unless the session and the state of this process are still there, and then
// sends changes and receives those of others.
func (s *Shadow) Serve(ctx context.Context, conn session.Shared) error {
	s.mu.Lock()
	s.stale = s.stale || !s.synced || !conn.SessionPresent()
	s.mu.Unlock()
	x := &exchange{Shadow: s}
	for {
		if r := x.next(); r != nil {
			err := conn.Publish(ctx, s.topic(conn.ThingName(), r.operation).String(), awsiot.EncodeJSON(r.body))
			r.deadline = time.Now().Add(answerTimeout) // on a slow link others may have been sent before
			if err != nil && ctx.Err() == nil {
				x.fail("publishing a request to the Device Shadow service", err)
				x.repeat(countFailed)
			}
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
			x.receive(conn.ThingName(), m)
		case <-s.changed:
		case <-expired:
			if x.waiting != nil {
				x.fail("waiting for the Device Shadow service", fmt.Errorf("no answer within %v", answerTimeout))
				x.repeat(countFailed)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// next returns the request that is due, nil if there is none or one is unanswered.
func (x *exchange) next() *request {
	now := time.Now()
	if x.waiting != nil || now.Before(x.retryAt) {
		return nil
	}
	x.retryAt = time.Time{}
	x.mu.Lock()
	defer x.mu.Unlock()
	r := &request{token: rand.Text(), version: x.state.Version}
	r.body = object{"clientToken": r.token}
	x.stale = x.missed.Swap(false) || x.stale
	switch {
	case x.stale:
		r.operation, x.got = awsiot.GetShadow, now
	case len(x.state.Queue) > 0:
		r.operation, r.body["state"] = awsiot.UpdateShadow, x.state.Queue[0]
		if r.version > 0 && x.conflicts < maxConflicts {
			r.body["version"] = r.version
		}
	default:
		return nil
	}
	x.waiting = r
	return r
}

// repeat gives the request up that is unanswered, and lets the next one wait.
func (x *exchange) repeat(result string) {
	x.count(result)
	x.waiting = nil
	x.delay = min(max(firstDelay, 2*x.delay), maxDelay)
	x.retryAt = time.Now().Add(mathrand.N(x.delay))
}

func (s *Shadow) count(result string) {
	s.counting.Lock()
	defer s.counting.Unlock()
	s.counters[result]++
}

// receive handles a message about the shadow.
func (x *exchange) receive(thing string, m session.Message) {
	t, response, _ := parseTopic(m.Topic)
	var d awsiot.ShadowDocument
	var rejected awsiot.ShadowError
	wellFormed := len(m.Payload) <= maxMessage && utf8.Valid(m.Payload)
	switch {
	case t.Thing != thing:
		x.count(countForeign)
	case response == "rejected":
		if !wellFormed || json.Unmarshal(m.Payload, &rejected) != nil || rejected.Code == 0 {
			x.count(countMalformed)
		} else if x.waiting != nil && x.waiting.operation == t.Operation && (rejected.ClientToken == "" || rejected.ClientToken == x.waiting.token) {
			x.rejected(rejected)
		} // another client's
	case t.Operation == awsiot.DeleteShadow:
		x.mu.Lock()
		defer x.mu.Unlock()
		x.stale = true
		if x.waiting != nil && x.waiting.operation == awsiot.GetShadow {
			x.waiting = nil // its response may be of before the deletion
		}
	case !wellFormed || awsiot.DecodeJSON(m.Payload, &d) != nil || d.Version == nil || *d.Version < 0:
		x.count(countMalformed)
	default:
		if response == "delta" {
			d.State = object{"desired": d.State}
		}
		known, err := sections(d.State)
		if err != nil || response == "delta" && len(d.State["desired"].(object)) == 0 {
			x.count(countMalformed)
			return
		}
		x.update(t.Operation, d, known, response == "accepted")
	}
}

// update adopts a state, or the change of it, that AWS IoT has published.
func (x *exchange) update(o awsiot.ShadowOperation, d awsiot.ShadowDocument, known object, accepted bool) {
	ours := x.waiting != nil && x.waiting.operation == o && d.ClientToken == x.waiting.token
	if o == awsiot.GetShadow && !ours {
		return // another client's
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	st, version := x.state, *d.Version
	switch {
	case o == awsiot.GetShadow && version < st.Version && st.Version != x.waiting.version:
		// A later change has overtaken the response: the state is still to be got.
	case o == awsiot.GetShadow:
		st.Version, st.Known, x.stale = version, merge(nil, known), false
		delta, _ := d.State["delta"].(object)
		x.synced, x.again = true, x.again || len(delta) > 0
	case version < st.Version:
		x.count(countOld)
		x.stale = x.stale || time.Since(x.got) > checkInterval
	default:
		x.stale = x.stale || version > st.Version+1 // something was missed
		st.Version, st.Known = version, merge(st.Known, known)
	}
	if ours && accepted {
		x.count(countAccepted)
		x.fault, x.waiting = "", nil
		if o == awsiot.UpdateShadow || len(st.Queue) == 0 {
			x.delay, x.conflicts = 0, 0
		}
		if o == awsiot.UpdateShadow {
			st.Queue = slices.Clone(st.Queue[1:])
		}
	}
	x.adopt(st)
}

// adopt takes what AWS IoT has sent, also where it cannot be stored: it can be got again. The
// caller holds mu.
func (s *Shadow) adopt(st state) {
	if !equal(st, s.state) {
		if err := s.save(st); err != nil {
			s.state = st
			s.config.Log.Error("storing the shadow", "error", err)
		}
	}
	s.show()
	signal(s.desired)
}

// rejected handles an error response.
func (x *exchange) rejected(r awsiot.ShadowError) {
	switch {
	case r.Code == 404 && x.waiting.operation == awsiot.GetShadow: // there is none yet
		x.mu.Lock()
		defer x.mu.Unlock()
		x.count(countAccepted)
		st := x.state
		st.Version, st.Known = 0, object{}
		x.synced, x.stale, x.fault, x.waiting = true, false, "", nil
		x.adopt(st)
	case r.Code == 409:
		x.repeat(countConflict)
		if x.conflicts++; x.conflicts == 1 {
			x.retryAt = time.Time{}
		}
		x.mu.Lock()
		x.stale = true
		x.mu.Unlock()
	case (r.Code == 400 || r.Code == 413) && x.waiting.operation == awsiot.UpdateShadow && r.ClientToken != "":
		x.fail("a change of the shadow was rejected and is dropped", &r)
		x.count(countDropped)
		x.waiting = nil
		x.mu.Lock()
		defer x.mu.Unlock()
		st := x.state
		st.Queue = slices.Clone(st.Queue[1:])
		x.adopt(st)
	case r.Code == 429:
		x.repeat(countThrottled)
	default:
		x.fail("a request to the Device Shadow service was rejected", &r)
		x.repeat(countFailed)
	}
}
