package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"example.com/fleety/device/session"
)

// maxSilence is how many silent ends in a row, after the same packet, count as
// a denial. A policy that was just attached may take a few seconds.
const maxSilence = 5

// A timing says how a run waits.
type timing struct {
	connects   time.Duration // least time between two CONNECTs with one client id
	firstDelay time.Duration // the first limit of the delay before another attempt
	maxDelay   time.Duration // the last one
	// settle is how long AWS IoT may still be working on a registration whose
	// answer was lost.
	settle time.Duration
}

// awsTiming obeys AWS IoT's limit of one CONNECT a second, and waits for what
// the hook is granted, and a little more.
// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
var awsTiming = timing{
	connects:   time.Second,
	firstDelay: time.Second,
	maxDelay:   20 * time.Second,
	settle:     7 * time.Second,
}

// again marks an error after which the very same attempt makes sense at once.
type again struct{ error }

func (e again) Unwrap() error { return e.error }

// enough marks an error that would be worth another attempt, had there not
// been too many.
type enough struct{ error }

func (e enough) Unwrap() error { return e.error }

// newBackOff returns exponential delays with full jitter: each is random
// between zero and a limit that doubles.
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
func (t timing) newBackOff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     t.firstDelay / 2,
		RandomizationFactor: 1,
		Multiplier:          2,
		MaxInterval:         t.maxDelay / 2,
	}
}

// retry repeats an attempt while that may help and ctx lasts. At the end of
// ctx its error tells the failure that was to be retried, too.
func (r *run) retry(ctx context.Context, attempt func(context.Context) error) error {
	delays := r.timing.newBackOff()
	var cause error // of the last attempt that failed by itself
	for {
		err := attempt(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
			cause = err
		}
		if ctx.Err() != nil {
			return ended(ctx, cause)
		}
		delay := delays.NextBackOff()
		if _, ok := errors.AsType[again](err); ok {
			delay = 0
		} else if _, ok := errors.AsType[enough](err); ok || ClassOf(err) != Temporary {
			return err
		}
		if r.waitAfter(ctx, delay, err) != nil {
			return ended(ctx, err)
		}
	}
}

func (r *run) waitAfter(ctx context.Context, delay time.Duration, cause error) error {
	r.Log.InfoContext(ctx, "trying again", "after", delay, "error", cause)
	r.Progress(Event{Step: StepWait, Phase: Begin, Elapsed: delay, Err: cause})
	began := time.Now()
	err := sleep(ctx, delay)
	phase := Done
	if err != nil {
		phase = Failed
	}
	r.Progress(Event{Step: StepWait, Phase: phase, Elapsed: time.Since(began), Err: err})
	return err
}

// ended joins the end of ctx with what went wrong before, if anything did.
func ended(ctx context.Context, cause error) error {
	if cause == nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w; before that: %w", context.Cause(ctx), cause)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitTurn keeps CONNECTs with the same client id apart.
func (r *run) awaitTurn(ctx context.Context, clientID string) error {
	if last, ok := r.connected[clientID]; ok {
		if err := sleep(ctx, time.Until(last.Add(r.timing.connects))); err != nil {
			return err
		}
	}
	r.connected[clientID] = time.Now()
	return nil
}

// The two certificates that a run connects with.
const (
	claimRole  = "claim"
	deviceRole = "device"
)

// unanswered returns the packet after which the server closed the connection in
// silence, "" for errors of other kinds.
func unanswered(err error) string {
	e, ok := errors.AsType[*session.Error](err)
	if !ok || !errors.Is(err, session.ErrClosedSilently) {
		return ""
	}
	return e.After
}

// heard counts the silent ends that follow the same packet, and makes a
// denial of too many: AWS IoT denies by closing the connection.
func (r *run) heard(err error, role, what string) error {
	key := role + " " + what
	packet := unanswered(err)
	if packet == "" {
		delete(r.silence, key)
		return err
	}
	r.silence[key]++
	if r.silence[key] < maxSilence {
		return err
	}
	return &DeniedError{Role: role, Packet: packet, Times: r.silence[key], Err: err}
}
