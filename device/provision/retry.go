package provision

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

// A denial without a response takes as many silent closes after the same packet, one after the
// other, over as long a time. An account over its CONNECT quota closes connections too, and AWS
// says that a change of policy takes 6 to 8 minutes.
const maxSilentCloses = 5

// A timing says how a run waits.
type timing struct {
	connects             time.Duration   // least time between two CONNECTs with one client id
	firstDelay, maxDelay time.Duration   // the limits of the delay before another attempt
	rejected             []time.Duration // delays after denials that may pass, each random between half of it and all
	resolve              time.Duration   // how long AWS IoT may still be working on a registration whose answer was lost
	silent               time.Duration   // least time from the first silent close to a denial
}

// awsTiming obeys AWS IoT's limit of one CONNECT a second for a client id, and
// waits for what the hook is allowed, and a little more.
// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
var awsTiming = timing{
	connects:   time.Second,
	firstDelay: time.Second,
	maxDelay:   20 * time.Second,
	rejected:   []time.Duration{2 * time.Second, 6 * time.Second},
	resolve:    7 * time.Second,
	silent:     3 * time.Minute,
}

// A decided error says, whatever its class, whether another attempt makes sense, and then at once.
type decided struct {
	error
	retry bool
}

func (e decided) Unwrap() error { return e.error }

// newBackOff returns exponential delays with full jitter: each is random
// between zero and a limit that doubles.
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
func (t timing) newBackOff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{InitialInterval: t.firstDelay / 2, MaxInterval: t.maxDelay / 2, RandomizationFactor: 1, Multiplier: 2}
}

// retry repeats an attempt while that may help and ctx lasts. When ctx ends, the
// error names the failure that was to be retried, or else what was awaited.
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
		if cause == nil {
			return err // what the first attempt was waiting for
		}
		if ctx.Err() == nil {
			delay, again := r.delayAfter(err, delays)
			if !again {
				return err
			}
			r.Log.InfoContext(ctx, "retrying", "after", delay, "error", err)
			r.Progress(Event{Step: StepWait, Elapsed: delay, Err: err})
			began := time.Now()
			err = sleep(ctx, delay)
			r.Progress(Event{Step: StepWait, Ended: true, Elapsed: time.Since(began), Err: err})
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w; before that: %w", context.Cause(ctx), cause)
		}
	}
}

// delayAfter returns how long to wait before another attempt, and whether to make one.
func (r *run) delayAfter(err error, delays *backoff.ExponentialBackOff) (delay time.Duration, again bool) {
	if e, ok := errors.AsType[decided](err); ok {
		return 0, e.retry
	}
	class := awsiot.ClassOf(err)
	rejection, rejected := errors.AsType[*awsiot.ErrorResponse](err)
	// AWS IoT answers a hook that failed as one that denied, and a certificate that
	// was activated a moment ago may not be known everywhere.
	mayPass := rejected && deniesDevice(rejection) || !rejected && r.registered
	if class == awsiot.Denied && mayPass && r.rejections < len(r.timing.rejected) {
		longest := r.timing.rejected[r.rejections]
		r.rejections++
		return longest/2 + rand.N(longest/2), true
	}
	return delays.NextBackOff(), class == awsiot.Temporary
}

func sleep(ctx context.Context, d time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-wait.Done()
	return context.Cause(ctx)
}

// awaitConnectInterval keeps CONNECTs with the same client id apart.
func (r *run) awaitConnectInterval(ctx context.Context, clientID string) error {
	if err := sleep(ctx, time.Until(r.connected[clientID].Add(r.timing.connects))); err != nil {
		return err
	}
	r.connected[clientID] = time.Now()
	return nil
}

// The two certificates that a run connects with.
const (
	claimRole  = "claim"
	deviceRole = "device"
)

// silentCloses counts those after one packet, one after the other.
type silentCloses struct {
	count int
	first time.Time
}

// countSilentCloses counts the silent closes after the same packet, what, and gives the last of too
// many the class [awsiot.Denied]: AWS IoT denies what no policy allows by closing the connection. An
// identity that was proved before is not denied so.
func (r *run) countSilentCloses(err error, role, what string) error {
	key := role + " " + what
	if role == claimRole {
		key = fmt.Sprint(r.claim, " ", key)
	}
	if session.Unanswered(err) == "" {
		delete(r.silentCloses, key)
		return err
	}
	n := r.silentCloses[key]
	if n.count++; n.count == 1 {
		n.first = time.Now()
	}
	r.silentCloses[key] = n
	r.claimSilent = role == claimRole && n.count%maxSilentCloses == 0
	if r.proved || n.count < maxSilentCloses || time.Since(n.first) < r.timing.silent {
		return err
	}
	return awsiot.WithClass(awsiot.Denied, fmt.Errorf("probably denied to the %s certificate (%d times, one after the other): %w", role, n.count, err))
}
