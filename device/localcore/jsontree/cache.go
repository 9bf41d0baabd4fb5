package jsontree

import "sync"

// maxCached is how many texts a Cache keeps.
const maxCached = 1000

// A Cache keeps what JSON texts were parsed to, so that one that is used again is not parsed again.
// The zero value is empty. It is safe for concurrent use.
type Cache[T any] struct {
	mu     sync.Mutex
	parsed map[string]T // by text; under mu
}

// Parse returns what parse makes of a text, or has made of it before. An error is not kept.
func (c *Cache[T]) Parse(text string, parse func([]byte) (T, error)) (v T, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.parsed[text]
	if ok {
		return v, nil
	}
	if v, err = parse([]byte(text)); err != nil {
		return v, err
	}
	if c.parsed == nil || len(c.parsed) >= maxCached {
		c.parsed = map[string]T{}
	}
	c.parsed[text] = v
	return v, nil
}
