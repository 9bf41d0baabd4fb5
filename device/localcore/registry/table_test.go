package registry

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRelationsOfStatesAreApart compares a relation with a plain set over random
// changes, and its copy in the next state, which changes do not reach the former.
func TestRelationsOfStatesAreApart(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	now := new(state).next()
	model := map[[2]string]bool{}
	for range 200 {
		next := now.next()
		changed := map[[2]string]bool{}
		for pair := range model {
			changed[pair] = true
		}
		for range 5 {
			left, right := fmt.Sprint("l", random.IntN(4)), fmt.Sprint("r", random.IntN(4))
			if random.IntN(2) == 0 {
				next.thingGroups.put(left, right, struct{}{})
				changed[[2]string{left, right}] = true
			} else {
				next.thingGroups.remove(left, right)
				delete(changed, [2]string{left, right})
			}
		}
		compare(t, now.thingGroups, model)
		compare(t, next.thingGroups, changed)
		now, model = next, changed
	}
}

func compare(t *testing.T, r *relation[struct{}], model map[[2]string]bool) {
	t.Helper()
	for i := range 4 {
		var rights, lefts []string
		for j := range 4 {
			if model[[2]string{fmt.Sprint("l", i), fmt.Sprint("r", j)}] {
				rights = append(rights, fmt.Sprint("r", j))
			}
			if model[[2]string{fmt.Sprint("l", j), fmt.Sprint("r", i)}] {
				lefts = append(lefts, fmt.Sprint("l", j))
			}
		}
		if diff := cmp.Diff(rights, r.rightsOf(fmt.Sprint("l", i))); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(lefts, r.leftsOf(fmt.Sprint("r", i))); diff != "" {
			t.Fatal(diff)
		}
	}
	if got := len(r.pairs.keys()); got != len(model) {
		t.Fatalf("%d pairs, want %d", got, len(model))
	}
}
