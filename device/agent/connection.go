package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

const (
	connectInterval = time.Second     // AWS IoT's quota: one CONNECT per second for a client id
	firstDelay      = time.Second     // the first limit of the delay before the next attempt
	maxDelay        = 5 * time.Minute // the last one
)

// The wall clock is compared with the monotonic one, which stands still while Linux is suspended,
// in each clockInterval. More than clockJump is noticed.
const (
	clockInterval = 15 * time.Second
	clockJump     = 10 * time.Second
)

var (
	errRotate = errors.New("key and certificate are to be replaced")
	errClock  = errors.New("the system was suspended, or its clock was set")
)

// watchClock returns a function that reports whether the wall clock has jumped since its last call.
func watchClock(now func() time.Time) (jumped func() bool) {
	wall, monotonic := now().Round(0), time.Now()
	return func() bool {
		formerWall, formerMonotonic := wall, monotonic
		wall, monotonic = now().Round(0), time.Now()
		return (wall.Sub(formerWall) - monotonic.Sub(formerMonotonic)).Abs() > clockJump
	}
}

// A backoff makes delays with full jitter: each is random between zero and a limit that doubles.
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
type backoff struct{ limit time.Duration }

// next returns the delay after a connection that lasted that long, 0 for none. The limit begins
// anew after one that lasted twice as long as it: two clients that take a client id from each other
// do not get there.
func (b *backoff) next(lasted time.Duration) time.Duration {
	if b.limit = min(2*b.limit, maxDelay); b.limit == 0 || lasted >= max(time.Minute, b.limit) {
		b.limit = firstDelay
	}
	return rand.N(b.limit)
}

// stayConnected connects until ctx ends.
func (a *agent) stayConnected(ctx context.Context) {
	var delays backoff
	for ctx.Err() == nil {
		id, lasted, err := a.connectOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errRotate) {
			a.rotate(ctx, id)
			continue
		}
		delay := delays.next(lasted)
		cause := causeOf(err)
		if cause == "closed" && lasted > 0 && delays.limit > firstDelay { // not the first in a row
			cause = "takeover"
			err = fmt.Errorf("another client probably connects with client id %s, which AWS IoT allows once (%w)", a.thing, err)
		}
		a.update(func(s *state) { s.reconnects[cause]++; s.lastError = err.Error() })
		a.Log.Warn("not connected", "cause", cause, "next", delay.Round(time.Millisecond), "error", err)
		a.OnStatus(fmt.Sprintf("%s: not connected, next attempt in %s: %v", a.thing, delay.Round(time.Second), err), false)
		a.sleepUntilJump(ctx, delay)
	}
}

// sleepUntilJump waits, but not on after a jump of the clock: what failed may succeed now.
func (a *agent) sleepUntilJump(ctx context.Context, d time.Duration) {
	jumped := watchClock(a.now)
	for until := time.Now().Add(d); sleep(ctx, min(time.Until(until), clockInterval)) && time.Now().Before(until) && !jumped(); {
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-wait.Done()
	return ctx.Err() == nil
}

// causeOf returns the stage at which a connection failed or was lost, or another label of the metric.
func causeOf(err error) string {
	e, ok := errors.AsType[*session.Error](err)
	switch {
	case errors.Is(err, errClock):
		return "clock" // it jumped
	case !ok:
		return string(session.StageLost)
	case e.Stage == session.StageLost && errors.Is(err, session.ErrClosedSilently):
		return "closed" // by the server, while nothing was unanswered
	}
	return string(e.Stage)
}

// connectOnce connects with the present identity, which another process may have replaced, and
// stays until the connection ends. It returns how long it lasted. Where a disk fails or is not
// mounted, the identity that this process has still works.
func (a *agent) connectOnce(ctx context.Context) (id *identity.Identity, lasted time.Duration, err error) {
	p := a.provision()
	if id, err = p.Store.Load(); err != nil {
		a.Log.Error("the identity cannot be read; the agent goes on with the one that it has, until it ends", "error", err)
		a.update(func(s *state) { id = s.identity })
	}
	if !sleep(ctx, time.Until(a.lastConnect.Add(connectInterval))) {
		return id, 0, ctx.Err()
	}
	a.lastConnect = time.Now()
	o := p.Session
	o.ClientID = id.Record.ThingName
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return id.TLS(), nil }
	o.OnMessage = a.deliver
	o.KeepSession, o.AnswerTimeout = true, answerTimeout
	conn, err := session.Connect(ctx, o)
	if err != nil {
		return id, 0, err
	}
	if o.CurvePreferences == nil && conn.TLS().CurveID != tls.X25519MLKEM768 {
		a.update(func(*state) { a.Provision.Session.CurvePreferences = session.ClassicCurves }) // the server or the network does not use ML-KEM
	}
	present := conn.Present() && !a.taken
	if a.taken = false; !present {
		a.subscriptions.reset(conn.Present())
	}
	began := time.Now()
	a.update(func(s *state) { s.identity, s.connectedSince, s.lastError = id, began, "" })
	a.Log.Info("connected", "endpoint", o.Endpoint, "clientId", o.ClientID, "certificateId", id.Record.CertificateID, "sessionPresent", conn.Present())
	a.OnStatus(a.thing+": connected", true)
	err = a.useConnection(ctx, conn, present, id)
	lasted = time.Since(began)
	a.taken = errors.Is(err, session.ErrClosedSilently) // perhaps by another client, which had the session meanwhile
	a.update(func(s *state) { s.connectedSince, s.connectedTotal = time.Time{}, s.connectedTotal+lasted })
	return id, lasted, err
}

// useConnection sends and subscribes until awaitEnd has a reason to disconnect, which it returns.
func (a *agent) useConnection(ctx context.Context, conn *session.Session, present bool, id *identity.Identity) error {
	using, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	var workers sync.WaitGroup
	workers.Go(func() { stop(a.publisher.publish(using, conn)) })
	workers.Go(func() { stop(a.subscriptions.keepSubscribed(using, serviceConn{agent: a, conn: conn})) })
	afterEnd := func(f func()) func() bool { return context.AfterFunc(using, f) }
	a.setLink(link{conn: conn, present: present, afterEnd: afterEnd})
	err := a.awaitEnd(ctx, using, conn, id)
	stop(err)
	a.setLink(link{})
	conn.Close(context.WithoutCancel(ctx))
	workers.Wait()
	return err
}

// awaitEnd returns why the connection is to end.
func (a *agent) awaitEnd(ctx, using context.Context, conn *session.Session, id *identity.Identity) error {
	for jumped := watchClock(a.now); ; {
		wait := time.Until(a.rotationDue(id))
		switch {
		case jumped():
			return errClock
		case wait <= 0:
			return errRotate
		}
		select {
		case <-time.After(min(wait, clockInterval)):
		case <-a.rotateNow:
		case <-conn.Done():
			return conn.Err()
		case <-using.Done():
			// Where the connection has ended, it says better why.
			return cmp.Or(conn.Err(), context.Cause(using))
		case <-ctx.Done():
			a.drain(using, conn)
			return ctx.Err()
		}
	}
}

// drain waits until the outbox is empty, for a moment: the agent is being stopped.
func (a *agent) drain(using context.Context, conn *session.Session) {
	using, cancel := context.WithTimeout(using, 5*time.Second)
	defer cancel()
	for a.outbox.Stats().Messages > 0 {
		select {
		case <-a.publisher.idle: // perhaps of a while ago
		case <-using.Done():
			return
		case <-conn.Done():
			return
		}
	}
}
