package controlapi

import (
	"net/http"
	"strconv"
	"testing"
)

// A tool pages through the 20,000 certificates of a fleet 25 at a time.
func TestPageMakesTheKeyOfEachItemOnce(t *testing.T) {
	t.Parallel()
	items := make([]int, 1000)
	for i := range items {
		items[i] = i
	}
	made := 0
	key := func(item int) string {
		made++
		return strconv.Itoa(item)
	}
	q := &request{Request: new(http.Request), op: op("ListCertificates", "GET /certificates")}
	if _, err := page("certificates", key, self)(q, items); err != nil || made > len(items) {
		t.Errorf("%d keys of %d items, %v", made, len(items), err)
	}
}
