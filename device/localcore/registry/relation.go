package registry

import (
	"maps"
	"slices"
	"strings"
)

// A relation holds pairs of keys, each with a value, and finds them from both
// sides. Like a table it may lie over another one.
type relation[V any] struct {
	pairs  *table[V]
	base   *relation[V]
	rights map[string]map[string]bool // left key to right keys touched here
	lefts  map[string]map[string]bool // right key to left keys touched here
}

// separator parts the two keys of a pair; no name may hold it.
const separator = "\x00"

func newRelation[V any](base *relation[V]) *relation[V] {
	var pairs *table[V]
	if base != nil {
		pairs = base.pairs
	}
	return &relation[V]{
		pairs:  newTable(pairs),
		base:   base,
		rights: map[string]map[string]bool{},
		lefts:  map[string]map[string]bool{},
	}
}

func (r *relation[V]) get(left, right string) (V, bool) { return r.pairs.get(left + separator + right) }

func (r *relation[V]) has(left, right string) bool { return r.pairs.has(left + separator + right) }

func (r *relation[V]) put(left, right string, v V) {
	r.pairs.put(left+separator+right, v)
	r.index(left, right)
}

func (r *relation[V]) remove(left, right string) {
	r.pairs.remove(left + separator + right)
	if r.base == nil {
		r.unindex(left, right)
	}
}

func (r *relation[V]) index(left, right string) {
	link(r.rights, left, right)
	link(r.lefts, right, left)
}

func (r *relation[V]) unindex(left, right string) {
	unlink(r.rights, left, right)
	unlink(r.lefts, right, left)
}

func link(m map[string]map[string]bool, from, to string) {
	if m[from] == nil {
		m[from] = map[string]bool{}
	}
	m[from][to] = true
}

func unlink(m map[string]map[string]bool, from, to string) {
	delete(m[from], to)
	if len(m[from]) == 0 {
		delete(m, from)
	}
}

// rightsOf returns the right keys paired with left, sorted.
func (r *relation[V]) rightsOf(left string) []string {
	set := map[string]bool{}
	for l := r; l != nil; l = l.base {
		maps.Copy(set, l.rights[left])
	}
	maps.DeleteFunc(set, func(right string, _ bool) bool { return !r.has(left, right) })
	return slices.Sorted(maps.Keys(set))
}

// leftsOf returns the left keys paired with right, sorted.
func (r *relation[V]) leftsOf(right string) []string {
	set := map[string]bool{}
	for l := r; l != nil; l = l.base {
		maps.Copy(set, l.lefts[right])
	}
	maps.DeleteFunc(set, func(left string, _ bool) bool { return !r.has(left, right) })
	return slices.Sorted(maps.Keys(set))
}

func (r *relation[V]) merge(over bucket) {
	for key, row := range over.(*relation[V]).pairs.rows {
		left, right, _ := strings.Cut(key, separator)
		if row == nil {
			r.remove(left, right)
		} else {
			r.put(left, right, *row)
		}
	}
}
