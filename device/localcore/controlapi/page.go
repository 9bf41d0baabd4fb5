package controlapi

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"time"
)

// defaultPage is how many items a page has where the request does not say.
const defaultPage = 250

// list answers with the page of items that the request asks for, under name,
// and with the token of the next page. The items are in the order of their
// keys, ascending unless the operation has isAscendingOrder and it is not set.
// A token names the last key that was returned, so that deletions between two
// pages lose nothing.
func list[T, U any](q *request, name string, items []T, key func(T) string, show func(T) U) (any, error) {
	descending := q.op.takes("isAscendingOrder") && !q.flag("isAscendingOrder")
	compare := func(x, y string) int {
		if descending {
			return cmp.Compare(y, x)
		}
		return cmp.Compare(x, y)
	}
	token, next := cmp.Or(q.query("nextToken"), q.query("marker")), "nextToken"
	if q.op.takes("marker") {
		next = "nextMarker"
	}
	last, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, invalid("the pagination token %q is not one of ours", clip(token))
	}
	items = slices.SortedStableFunc(slices.Values(items), func(x, y T) int { return compare(key(x), key(y)) })
	if token != "" {
		items = slices.DeleteFunc(items, func(item T) bool { return compare(key(item), string(last)) <= 0 })
	}
	out := object{}
	limit := int(cmp.Or(q.number("maxResults"), q.number("pageSize"), defaultPage))
	if len(items) > limit {
		items = items[:limit]
		out[next] = base64.RawURLEncoding.EncodeToString([]byte(key(items[limit-1])))
	}
	out[name] = convert(items, show)
	return out, nil
}

// names is list for items that are their own key.
func names(q *request, name string, items []string) (any, error) {
	return list(q, name, items, self, self)
}

func self(item string) string { return item }

// ageKey is the key of an item in the order of creation.
func ageKey(created time.Time, name string) string {
	return fmt.Sprintf("%020d %s", created.UnixNano(), name)
}

// convert returns what f makes of each item; never nil, so that JSON has an
// empty list.
func convert[T, U any](items []T, f func(T) U) []U {
	out := make([]U, len(items))
	for i, item := range items {
		out[i] = f(item)
	}
	return out
}
