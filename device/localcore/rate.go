package localcore

import (
	"sync"
	"time"
)

// A rate counts what happens within one second. The zero value has seen
// nothing. It is safe for concurrent use.
type rate struct {
	mu    sync.Mutex
	since time.Time
	count int
}

// allow counts one more and tells whether the second's limit still holds.
func (r *rate) allow(now time.Time, limit int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.since) >= time.Second {
		r.since, r.count = now, 0
	}
	r.count++
	return r.count <= limit
}
