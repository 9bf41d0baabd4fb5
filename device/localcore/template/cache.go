package template

import "sync"

// A Cache keeps parsed fleet provisioning templates, so that a registration
// does not read its template anew. The zero value is empty. It is safe for
// concurrent use.
type Cache struct {
	mu     sync.Mutex
	parsed map[string]*Template // by body
}

// maxCached is how many bodies a Cache keeps: more than the versions that are
// in use at one time.
const maxCached = 64

// Parse is [Parse] for a body that was perhaps parsed before.
func (c *Cache) Parse(body string) (*Template, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.parsed[body]; ok {
		return t, nil
	}
	t, err := Parse([]byte(body))
	if err != nil {
		return nil, err
	}
	if c.parsed == nil || len(c.parsed) >= maxCached {
		c.parsed = map[string]*Template{}
	}
	c.parsed[body] = t
	return t, nil
}
