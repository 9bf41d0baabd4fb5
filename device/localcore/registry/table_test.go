package registry

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLayersReadAsOne compares a relation in two layers with a plain set, over
// random changes, before and after merging.
func TestLayersReadAsOne(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	base := newRelation[struct{}](nil)
	model := map[[2]string]bool{}
	for range 200 {
		over := newRelation(base)
		for range 5 {
			left, right := fmt.Sprint("l", random.IntN(4)), fmt.Sprint("r", random.IntN(4))
			if random.IntN(2) == 0 {
				over.put(left, right, struct{}{})
				model[[2]string{left, right}] = true
			} else {
				over.remove(left, right)
				delete(model, [2]string{left, right})
			}
		}
		compare(t, over, model)
		base.merge(over)
		compare(t, base, model)
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
