package registry

import (
	"maps"
	"slices"
)

// A table holds the records of one kind by their key. A table may lie over
// another one: then its rows are changes, a nil row a deletion. Reading sees
// both. Records are never changed in place, only replaced.
type table[V any] struct {
	base *table[V]
	rows map[string]*V
}

func newTable[V any](base *table[V]) *table[V] {
	return &table[V]{base: base, rows: map[string]*V{}}
}

func (t *table[V]) get(key string) (v V, ok bool) {
	for ; t != nil; t = t.base {
		if row, found := t.rows[key]; found {
			if row == nil {
				return v, false
			}
			return *row, true
		}
	}
	return v, false
}

func (t *table[V]) has(key string) bool {
	_, ok := t.get(key)
	return ok
}

func (t *table[V]) put(key string, v V) { t.rows[key] = &v }

func (t *table[V]) remove(key string) {
	if t.base == nil {
		delete(t.rows, key)
		return
	}
	t.rows[key] = nil
}

// find returns a record, or a rejection that names its kind, as in its ARN and in
// a sentence.
func find[V any](t *table[V], kind, what, key string) (V, error) {
	v, ok := t.get(key)
	if !ok {
		return v, notFound(kind+"/"+key, what+" "+clip(key))
	}
	return v, nil
}

// keys returns the keys of all records, sorted.
func (t *table[V]) keys() []string {
	if t.base == nil {
		return slices.Sorted(maps.Keys(t.rows))
	}
	set := map[string]bool{}
	for _, k := range t.base.keys() {
		set[k] = true
	}
	for k, row := range t.rows {
		if row == nil {
			delete(set, k)
		} else {
			set[k] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// all returns the records in the order of their keys.
func (t *table[V]) all() []V {
	keys := t.keys()
	out := make([]V, len(keys))
	for i, k := range keys {
		out[i], _ = t.get(k)
	}
	return out
}

func (t *table[V]) merge(over bucket) {
	for k, row := range over.(*table[V]).rows {
		if row == nil {
			delete(t.rows, k)
		} else {
			t.rows[k] = row
		}
	}
}
