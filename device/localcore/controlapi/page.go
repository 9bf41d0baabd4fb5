package controlapi

import (
	"encoding/base64"
	"slices"
)

// defaultPage is how many items a page has where the request does not say.
const defaultPage = 250

// page returns the page of items that a request asks for, by maxResults and
// nextToken or by pageSize and marker, and the token of the next page. The items
// must be in ascending order of their keys. A token names the last key that was
// returned, so that deletions between two pages lose nothing.
func page[T any](q *request, items []T, key func(T) string) (some []T, next string, err error) {
	after, err := q.token()
	if err != nil {
		return nil, "", err
	}
	return pageBy(q, items, func(item T) bool { return after == "" || key(item) > after }, key)
}

// pageDescending is page for items in descending order.
func pageDescending[T any](q *request, items []T, key func(T) string) (some []T, next string, err error) {
	before, err := q.token()
	if err != nil {
		return nil, "", err
	}
	return pageBy(q, items, func(item T) bool { return before == "" || key(item) < before }, key)
}

func pageBy[T any](q *request, items []T, wanted func(T) bool, key func(T) string) ([]T, string, error) {
	start := slices.IndexFunc(items, wanted)
	if start < 0 {
		return []T{}, "", nil
	}
	items = items[start:]
	limit := q.pageSize()
	if len(items) <= limit {
		return items, "", nil
	}
	items = items[:limit]
	return items, base64.RawURLEncoding.EncodeToString([]byte(key(items[limit-1]))), nil
}

func (q *request) pageSize() int {
	for _, name := range []string{"maxResults", "pageSize"} {
		if n := q.number(name); n > 0 {
			return int(n)
		}
	}
	return defaultPage
}

func (q *request) token() (string, error) {
	text := q.query("nextToken")
	if text == "" {
		text = q.query("marker")
	}
	key, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return "", invalid("the pagination token %q is not one of ours", clip(text))
	}
	return string(key), nil
}

// self is the key of items that are their own key.
func self(item string) string { return item }

// convert returns what f makes of each item; never nil, so that JSON has an
// empty list.
func convert[T, U any](items []T, f func(T) U) []U {
	out := make([]U, len(items))
	for i, item := range items {
		out[i] = f(item)
	}
	return out
}
