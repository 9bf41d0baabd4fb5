package jsontree

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
)

// A text is parsed once, however many use it, and whatever else is in use.
func TestCacheParsesEachTextOnce(t *testing.T) {
	t.Parallel()
	var cache Cache[*[]int]
	parse := func(text []byte) (*[]int, error) {
		var v []int
		return &v, json.Unmarshal(text, &v)
	}
	first, err := cache.Parse("[0]", parse)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 5 {
		wg.Go(func() {
			for range 10 {
				if v, err := cache.Parse(fmt.Sprintf("[%d]", n), parse); err != nil || (*v)[0] != n {
					t.Errorf("%v: %v", v, err)
				}
				if again, _ := cache.Parse("[0]", parse); again != first {
					t.Error("the text was parsed again")
				}
			}
		})
	}
	wg.Wait()
	if _, err := cache.Parse("[", parse); err == nil {
		t.Error("a broken text was parsed")
	}
	for n := range 3 * maxCached { // what was dropped is parsed again
		if v, err := cache.Parse(fmt.Sprintf("[%d]", n), parse); err != nil || (*v)[0] != n || len(cache.parsed) > maxCached {
			t.Fatalf("%v, %d texts are kept: %v", v, len(cache.parsed), err)
		}
	}
	failure := errors.New("failure")
	if _, err := cache.Parse("[-1]", func([]byte) (*[]int, error) { return nil, failure }); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	if v, err := cache.Parse("[-1]", parse); err != nil || (*v)[0] != -1 {
		t.Errorf("after an error: %v, %v", v, err)
	}
}
