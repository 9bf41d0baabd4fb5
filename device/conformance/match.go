package conformance

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// decode reads JSON with its numbers as they are written.
func decode(text string) (v any, err error) {
	err = awsiot.DecodeJSON([]byte(text), &v)
	return v, err
}

// A matcher compares values with patterns and keeps what they capture.
type matcher struct {
	vars  map[string]string
	exact bool // objects have no members that the pattern does not name
}

// text compares text with a pattern: as JSON if the pattern is some.
func (m matcher) text(pattern, got string) error {
	if pattern == "" {
		return nil
	}
	want, err := decode(pattern)
	if _, number := want.(json.Number); err != nil || number {
		if pattern != got {
			return fmt.Errorf("got %q, want %q", got, pattern)
		}
		return nil
	}
	value, err := decode(got)
	if err != nil {
		return fmt.Errorf("got %q, which is no JSON", got)
	}
	return m.value("", want, value)
}

// value compares a value, found at path, with its pattern.
func (m matcher) value(path string, want, got any) error {
	differs := fmt.Errorf("at %s: got %s, want %s", place(path), show(got), show(want))
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return differs
		}
		_, open := want["..."]
		all := maps.Clone(object)
		maps.Copy(all, want)
		delete(all, "...")
		for _, key := range slices.Sorted(maps.Keys(all)) {
			value, there := object[key]
			pattern, wanted := want[key]
			switch {
			case there && (pattern == "<absent>" || !wanted && m.exact && !open):
				return fmt.Errorf("at %s.%s: got %s, want no such member", path, key, show(value))
			case !wanted, pattern == "<absent>":
			case !there:
				return fmt.Errorf("at %s: got %s, want a member %s", place(path), show(got), key)
			default:
				if err := m.value(path+"."+key, pattern, value); err != nil {
					return err
				}
			}
		}
		return nil
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(want) {
			return differs
		}
		for i := range want {
			if err := m.value(fmt.Sprintf("%s[%d]", path, i), want[i], list[i]); err != nil {
				return err
			}
		}
		return nil
	case string:
		if m.wild(want, got) {
			return nil
		}
	case json.Number:
		number, ok := got.(json.Number)
		x, errX := want.Float64()
		y, errY := number.Float64()
		if ok && errX == nil && errY == nil && x == y && x < 1<<53 && x > -1<<53 { // larger ones are compared as they are written
			return nil
		}
	}
	if want != got {
		return differs
	}
	return nil
}

// wild matches what is not text as it stands.
func (m matcher) wild(pattern string, got any) bool {
	inner, ok := strings.CutPrefix(pattern, "<")
	inner, end := strings.CutSuffix(inner, ">")
	text, isText := got.(string)
	_, isNumber := got.(json.Number)
	switch {
	case !ok || !end:
		return isText && text == pattern
	case inner == "any":
		return true
	case inner == "soon": // 4 to 6 minutes from now
		seconds, err := strconv.ParseFloat(fmt.Sprint(got), 64)
		left := time.Until(time.UnixMilli(int64(seconds * 1000)))
		return isNumber && err == nil && left > 4*time.Minute && left < 6*time.Minute
	case inner == "number":
		return isNumber
	case inner == "string":
		return isText
	case strings.HasPrefix(inner, "~"):
		matched, err := regexp.MatchString(inner[1:], text)
		return isText && err == nil && matched
	case strings.HasPrefix(inner, "="):
		if !isText {
			text = fmt.Sprint(got)
		}
		m.vars[inner[1:]] = text
		return true
	}
	return false
}

func show(v any) string { return string(awsiot.EncodeJSON(v)) }

// place names a path for people.
func place(path string) string {
	return cmp.Or(strings.TrimPrefix(path, "."), "the top")
}
