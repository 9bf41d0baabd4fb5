package fleet

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSerialsAreConsecutiveWithinPrefix(t *testing.T) {
	for name, test := range map[string]struct {
		first string
		count int
		want  []string // first and last; nil for an error
	}{
		"default":                  {"", 1000, []string{"2974680000001", "2974680001000"}},
		"more than seven digits":   {"", 10_000_000, []string{"29746800000001", "29746810000000"}},
		"from a number":            {"2974685", 3, []string{"2974685", "2974687"}},
		"last of one digit":        {"2974685", 5, []string{"2974685", "2974689"}},
		"out of one digit":         {"2974685", 6, nil},
		"zeros are kept":           {"29746800098", 3, []string{"29746800098", "29746800100"}},
		"another prefix":           {"1234567", 1, nil},
		"the bare prefix":          {"297468", 1, nil},
		"letters":                  {"297468x1", 1, nil},
		"a sign":                   {"297468+1", 1, nil},
		"too many digits to count": {"2974681234567890123456789", 1, nil},
		"none":                     {"", 0, nil},
		"less than none":           {"", -5, nil},
		"absurdly many":            {"", MaxDevices + 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := NewSerials("297468", test.first, test.count)
			var got []string
			if err == nil {
				got = []string{s.At(0), s.At(s.Count - 1)}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("serials (-want +got), error %v:\n%s", err, diff)
			}
		})
	}
}

func TestShardsPartitionDevices(t *testing.T) {
	for _, all := range []int{1, 2, 7, 100} {
		for of := 1; of <= 9; of++ {
			seen := map[int]bool{}
			for i := 1; i <= of; i++ {
				s := Shard{Index: i, Of: of}
				for k := range s.size(all) {
					seen[s.device(k)] = true
				}
			}
			if len(seen) != all || seen[all] || !seen[0] || !seen[all-1] {
				t.Errorf("%d shards of %d devices have %d", of, all, len(seen))
			}
		}
	}
}

// An index that counts from 0, as in a Kubernetes Job, covers the same shards.
func TestShardsCountFromZeroToo(t *testing.T) {
	for text, want := range map[string]Shard{"0/5": {Index: 5, Of: 5}, "1/5": {Index: 1, Of: 5}, "0/1": {Index: 1, Of: 1}, "5/5": {Index: 5, Of: 5}} {
		if got, err := ParseShard(text); err != nil || got != want {
			t.Errorf("%s is %v %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"0/0", "-1/5", "6/5"} {
		if got, err := ParseShard(text); err == nil {
			t.Errorf("%s is %v", text, got)
		}
	}
}

func FuzzParseShard(f *testing.F) {
	for _, seed := range []string{"1/1", "2/5", "0/1", "3/2", "", "/", "1/", "-1/-1", "1/1/1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseShard(text)
		if err != nil {
			return
		}
		if again, err := ParseShard(s.String()); err != nil || again != s || s.Index < 1 || s.Index > s.Of {
			t.Errorf("%q is %+v, and printed again %+v, %v", text, s, again, err)
		}
	})
}
