package provision

import (
	"context"
	"time"
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
