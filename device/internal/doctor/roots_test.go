package doctor

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/internal/config"
)

func TestRootsOfABundleAreComparedWithAmazons(t *testing.T) {
	roots := config.AmazonRoots()
	for name, tc := range map[string]struct {
		held int
		want []string
	}{
		"all but the Starfield root": {held: 4},
		"one":                        {held: 1, want: []string{"Amazon Root CA 2", "Amazon Root CA 3", "Amazon Root CA 4"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, missingRoots(roots[:tc.held])); diff != "" || len(otherRoots(roots[:tc.held])) > 0 {
				t.Error(diff)
			}
		})
	}
}
