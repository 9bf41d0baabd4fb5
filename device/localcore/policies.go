package localcore

import (
	"sync"

	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/registry"
)

// A policyCache keeps the parsed policies of connections until the registry
// changes. The zero value is empty. It is safe for concurrent use.
type policyCache struct {
	mu         sync.RWMutex
	generation uint64
	sets       map[policyKey][]policy.Policy // under mu
	documents  map[string]*policy.Document   // by text, under mu
}

// A policyKey is who policies are gathered for.
type policyKey struct{ certificateID, clientID string }

// of returns the policies that hold for a session. The caller must not change
// them.
func (p *policyCache) of(r *registry.Registry, key policyKey) []policy.Policy {
	generation := r.Generation() // read first: what is read later is at least as new
	p.mu.RLock()
	set, ok := p.sets[key]
	fresh := p.generation == generation
	p.mu.RUnlock()
	if ok && fresh {
		return set
	}
	documents := r.PoliciesFor(key.certificateID, key.clientID)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.generation != generation || p.sets == nil {
		p.generation, p.sets = generation, map[policyKey][]policy.Policy{}
	}
	set = make([]policy.Policy, 0, len(documents))
	for _, d := range documents {
		if parsed := p.parse(d.Document); parsed != nil {
			set = append(set, policy.Policy{Name: d.Name, Document: parsed})
		}
	}
	p.sets[key] = set
	return set
}

// parse returns a document, parsed once. The registry holds valid ones only.
func (p *policyCache) parse(text string) *policy.Document {
	if d, ok := p.documents[text]; ok {
		return d
	}
	d, err := policy.Parse([]byte(text))
	if err != nil {
		return nil
	}
	if p.documents == nil {
		p.documents = map[string]*policy.Document{}
	}
	p.documents[text] = d
	return d
}
