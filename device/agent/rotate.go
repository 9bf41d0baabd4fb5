package agent

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
)

// rotationDue returns when the identity is to be replaced.
func (a *agent) rotationDue(id *identity.Identity) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.state.rotationRequests) > 0 {
		return time.Time{}
	}
	cert, from := id.Certificate, id.Certificate.NotBefore
	age := cert.NotAfter.Sub(cert.NotBefore) / 3 * 2
	if a.RotateAfter > 0 {
		age = min(age, a.RotateAfter)
	}
	// No authority issues certificates that are half that old. A clock that was ahead then, and still
	// is, would have each new one replaced at once.
	if issued := id.Record.IssuedAt; issued.Sub(from) > age/2 && !time.Now().Before(issued) {
		from = issued
	}
	due := from.Add(age + time.Duration(a.jitter*float64(age)/10))
	if time.Until(due) < time.Until(a.state.rotateNext) { // also after the clock was set
		return a.state.rotateNext
	}
	return due
}

// rotate replaces the identity. The device is not connected meanwhile: the rotation needs its
// client id. After a failure the present identity stays, and the next attempt follows after
// retryRotation.
func (a *agent) rotate(ctx context.Context, id *identity.Identity) {
	if time.Until(a.rotationDue(id)) > 0 {
		return // the request was withdrawn
	}
	a.OnStatus(a.thing+": replacing key and certificate", false)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	c := a.provision()
	c.Rotate = true
	c.Author = cmp.Or(c.Author, id.Record.Author)
	result, err := provision.Run(ctx, c)
	a.lastConnect = time.Now()
	next := time.Now().Add(retryRotation(err, time.Until(id.Certificate.NotAfter)))
	a.update(func(s *state) {
		for _, done := range s.rotationRequests {
			done <- err
		}
		s.rotationRequests = nil
		if err == nil { // its files may not be readable in a moment
			s.identity = result.Identity
			s.rotations++
		} else {
			s.rotationsFailed++
			s.rotateNext = next
		}
	})
	if err != nil {
		a.Log.Error("replacing key and certificate failed; the present ones stay", "next", next.UTC(), "class", awsiot.ClassOf(err).String(), "error", err)
		return
	}
	a.Log.Info("replaced key and certificate", "certificateId", result.Identity.Record.CertificateID, "replaces", result.Identity.Record.Replaces)
}

// retryRotation returns the delay after a rotation that failed: about an hour, or a day if it was
// denied, since each attempt keeps the device offline for minutes. It is less where little is left
// of the certificate's life, after which nothing can be rotated.
func retryRotation(err error, left time.Duration) time.Duration {
	longest := time.Hour
	if awsiot.ClassOf(err) == awsiot.Denied {
		longest = 24 * time.Hour
	}
	delay := max(time.Minute, min(longest, left/4))
	return delay/2 + rand.N(delay)
}

// handleRotate has key and certificate replaced, and answers when the new ones are verified, or
// that has failed. Requests that come meanwhile share the result. One whose program goes away is
// withdrawn, unless the rotation has begun.
func (a *agent) handleRotate(w http.ResponseWriter, r *http.Request) (any, error) {
	if thing := r.URL.Query().Get("thing"); thing != "" && thing != a.thing {
		return nil, &Error{http.StatusConflict, fmt.Sprintf("this is the agent of thing %s", a.thing)}
	}
	ctx, gone, err := untilGone(w, r)
	defer gone(nil)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	a.update(func(s *state) { s.rotationRequests = append(s.rotationRequests, done) })
	signal(a.rotateNow)
	select {
	case err := <-done:
		a.mu.Lock()
		defer a.mu.Unlock()
		return map[string]string{"certificateId": a.state.identity.Record.CertificateID}, err
	case <-ctx.Done():
		a.update(func(s *state) {
			s.rotationRequests = slices.DeleteFunc(s.rotationRequests, func(c chan<- error) bool { return c == done })
		})
		return nil, context.Cause(ctx)
	}
}

// provision returns the present settings, which a change of the configuration may replace.
func (a *agent) provision() provision.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Provision
}
