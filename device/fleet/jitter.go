package fleet

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"example.com/fleety/device/session"
)

// maxDelay is the greatest limit of a delay before another attempt.
const maxDelay = 2 * time.Minute

// newBackOff returns delays with full jitter: each is random between zero and a
// limit that begins with first and doubles.
// https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
func newBackOff(first time.Duration) *backoff.ExponentialBackOff {
	b := &backoff.ExponentialBackOff{
		InitialInterval:     first / 2,
		RandomizationFactor: 1,
		Multiplier:          2,
		MaxInterval:         max(first, maxDelay) / 2,
	}
	b.Reset()
	return b
}

// temporary reports whether another attempt to connect may succeed. A server
// that closes in silence may have denied, but may as well be restarting.
func temporary(err error) bool {
	e, ok := errors.AsType[*session.Error](err)
	return ok && e.Class() == session.ClassTemporary
}
