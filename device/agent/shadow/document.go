package shadow

import (
	"bytes"
	"errors"
	"maps"
	"slices"

	"example.com/fleety/device/awsiot"
)

const maxMessage = 128 << 10 // more than an answer with a whole document has, metadata included

// An object is a JSON object. Its numbers are [json.Number]: they are sent as they were received.
type object = map[string]any

var errTooLarge = errors.New("a shadow has 8 KiB at most")

// sections returns the desired and the reported state of a document, which may be null.
func sections(state object) (object, error) {
	kept := object{}
	for _, name := range []string{"desired", "reported"} {
		value, ok := state[name]
		if !ok {
			continue
		}
		if _, isObject := value.(object); !isObject && value != nil {
			return nil, errors.New("not a shadow document")
		}
		kept[name] = value
	}
	if size := len(awsiot.EncodeJSON(kept)); size > 2*awsiot.MaxShadowDocument { // nothing that AWS IoT has accepted
		return nil, errTooLarge
	}
	return kept, nil
}

// storable reports whether a value has that many levels at most, and no null in an array.
func storable(value any, levels int) bool {
	switch value := value.(type) {
	case object:
		return levels > 0 && !slices.ContainsFunc(slices.Collect(maps.Values(value)), func(v any) bool { return !storable(v, levels-1) })
	case []any:
		return !slices.ContainsFunc(value, func(v any) bool { return v == nil || !storable(v, levels) })
	}
	return true
}

// merge returns state with a change over it, as AWS IoT merges: null removes, objects merge,
// everything else replaces. Its arguments stay as they are.
func merge(state, change object) object {
	merged := object{}
	maps.Copy(merged, state)
	for key, value := range change {
		below, isObject := value.(object)
		old, _ := state[key].(object)
		switch {
		case value == nil:
			delete(merged, key)
		case isObject:
			merged[key] = merge(old, below)
		default:
			merged[key] = value
		}
	}
	return merged
}

// combine returns the one change that does what two do, one after the other, if there is such a
// change: an object cannot both replace a value and be merged.
func combine(first, second object) (both object, ok bool) {
	both = object{}
	maps.Copy(both, first)
	for key, value := range second {
		old, changed := first[key]
		below, isObject := value.(object)
		if oldObject, wasObject := old.(object); isObject && wasObject {
			if both[key], ok = combine(oldObject, below); !ok {
				return nil, false
			}
		} else if isObject && changed {
			return nil, false
		} else {
			both[key] = value
		}
	}
	return both, true
}

// equal compares values by their text. Object keys are sorted in it.
func equal(a, b any) bool { return bytes.Equal(awsiot.EncodeJSON(a), awsiot.EncodeJSON(b)) }
