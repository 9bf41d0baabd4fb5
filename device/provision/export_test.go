package provision

import (
	"context"
	"time"

	"example.com/fleety/device/identity"
)

// RunQuickly is Run with shorter waits, for tests of what happens between
// them.
func RunQuickly(ctx context.Context, c Config) (*Result, error) {
	return runWith(ctx, c, timing{
		connects:   20 * time.Millisecond,
		firstDelay: 20 * time.Millisecond,
		maxDelay:   200 * time.Millisecond,
		rejected:   []time.Duration{20 * time.Millisecond, 20 * time.Millisecond},
		resolve:    100 * time.Millisecond,
		silent:     50 * time.Millisecond,
	})
}

// AttemptAfterCommit is the attempt of a run that has committed a replacement, and could not install it.
func AttemptAfterCommit(ctx context.Context, c Config, j *identity.Journal, replaced *identity.Identity) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	r := &run{Config: c, journal: j, present: replaced, connected: map[string]time.Time{}, silentCloses: map[string]silentCloses{}}
	return r.attempt(ctx)
}
