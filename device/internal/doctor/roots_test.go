package doctor

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testdata/roots.pem holds the roots as AWS publishes them.
func TestRootsAreRecognised(t *testing.T) {
	data, err := os.ReadFile("testdata/roots.pem")
	if err != nil {
		t.Fatal(err)
	}
	bundle := parseBundle(data)
	if len(bundle) != len(awsRoots) {
		t.Fatalf("%d certificates, want %d", len(bundle), len(awsRoots))
	}
	for i, c := range bundle {
		sum := sha256.Sum256(c.Raw)
		if got := hex.EncodeToString(sum[:]); got != awsRoots[i].sha256 || c.Subject.CommonName != awsRoots[i].name {
			t.Errorf("%q has %s, the table says %+v", c.Subject.CommonName, got, awsRoots[i])
		}
	}
	for name, tc := range map[string]struct {
		held int
		want []string
	}{
		"all": {held: 4},
		"one": {held: 1, want: []string{"Amazon Root CA 2", "Amazon Root CA 3", "Amazon Root CA 4"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, missingRoots(bundle[:tc.held])); diff != "" {
				t.Error(diff)
			}
		})
	}
}
