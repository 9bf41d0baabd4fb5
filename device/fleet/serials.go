package fleet

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Digits after the prefix: the least of generated serial numbers, and the most that fit into an
// int64.
const (
	digits    = 7
	maxDigits = 18
)

// Serials are consecutive serial numbers: a prefix, and a fixed number of decimal digits. The zero
// value holds none.
type Serials struct {
	Prefix string
	Count  int
	first  int64
	width  int
}

// NewSerials returns count serial numbers that begin with prefix. first is the first one, in full;
// empty means number 1 with seven digits, or as many as count takes. The error is a *[ValueError].
func NewSerials(prefix, first string, count int) (Serials, error) {
	s := Serials{Prefix: prefix, Count: count, first: 1, width: max(digits, len(strconv.Itoa(count)))}
	if first != "" {
		number, begins := strings.CutPrefix(first, prefix)
		n, err := strconv.ParseUint(number, 10, 63)
		if !begins || err != nil || len(number) > maxDigits {
			return s, &ValueError{"first", first, fmt.Sprintf("the prefix %s and 1 to %d digits, to count up from", prefix, maxDigits)}
		}
		s.first, s.width = int64(n), len(number)
	}
	return s, s.check()
}

func (s Serials) check() error {
	if s.Count < 1 || s.Count > MaxDevices {
		return &ValueError{"devices", strconv.Itoa(s.Count), fmt.Sprintf("1 to %d", MaxDevices)}
	}
	if last := strconv.FormatInt(s.first+int64(s.Count)-1, 10); len(last) > s.width {
		return &ValueError{"first", s.At(0), fmt.Sprintf("a lower number or more digits: the %d serial numbers that follow leave the prefix %s", s.Count-1, s.Prefix)}
	}
	return nil
}

// At returns serial number i, from 0.
func (s Serials) At(i int) string {
	return fmt.Sprintf("%s%0*d", s.Prefix, s.width, s.first+int64(i))
}

// A Shard is the share of one of several processes in a launch: every Of-th device, from the
// Index-th on, both counted from 1.
type Shard struct {
	Index int `json:"index"`
	Of    int `json:"of"`
}

// ParseShard reads "2/5". 0/5 is 5/5, so that an index that counts from 0, as a Kubernetes Job has,
// is a shard too.
func ParseShard(text string) (Shard, error) {
	index, of, _ := strings.Cut(text, "/")
	i, err1 := strconv.Atoi(index)
	n, err2 := strconv.Atoi(of)
	s := Shard{Index: cmp.Or(i, n), Of: n}
	if err1 != nil || err2 != nil || s.check() != nil {
		return Shard{}, &ValueError{"shard", strconv.Quote(text), "NUMBER/OF, as in 2/5"}
	}
	return s, nil
}

// String returns the form that [ParseShard] reads.
func (s Shard) String() string { return fmt.Sprintf("%d/%d", s.Index, s.Of) }

func (s Shard) check() error {
	if s.Of < 1 || s.Index < 1 || s.Index > s.Of {
		return &ValueError{"shard", s.String(), "NUMBER/OF, as in 2/5"}
	}
	return nil
}

// device returns the number, in the whole launch, of the shard's k-th device.
func (s Shard) device(k int) int { return s.Index - 1 + k*s.Of }

// size returns how many of all devices are the shard's.
func (s Shard) size(all int) int { return (all - s.Index + s.Of) / s.Of }
