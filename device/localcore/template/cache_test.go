package template_test

import (
	"fmt"
	"sync"
	"testing"

	"example.com/fleety/device/localcore/template"
)

// A body is parsed once, however many registrations use it and whatever other
// versions are in use.
func TestCacheParsesEachVersionOnce(t *testing.T) {
	t.Parallel()
	var cache template.Cache
	version := func(n int) string {
		return fmt.Sprintf(`{"Resources": {"t": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": "t%d"}}}}`, n)
	}
	first, err := cache.Parse(version(0))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 5 {
		wg.Go(func() {
			for range 10 {
				if _, err := cache.Parse(version(n)); err != nil {
					t.Error(err)
				}
				if again, _ := cache.Parse(version(0)); again != first {
					t.Error("the template was parsed anew")
				}
			}
		})
	}
	wg.Wait()
	if _, err := cache.Parse("{"); err == nil {
		t.Error("a broken template was parsed")
	}
	for n := range 1000 { // it does not grow without end; what it dropped is parsed anew
		if _, err := cache.Parse(version(n)); err != nil {
			t.Fatal(err)
		}
	}
}
