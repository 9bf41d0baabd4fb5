package shadow

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

const (
	maxClientToken    = 64    // bytes
	requestsPerSecond = 20    // for one shadow
	maxUnderway       = 10    // requests of one connection
	maxRates          = 10000 // shadows whose requests are counted
)

// An object is a JSON object. Numbers in it are [json.Number], so that they are returned as they
// were sent.
type object = map[string]any

func reject(code int, format string, args ...any) *awsiot.ShadowError {
	return &awsiot.ShadowError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Rejected returns the message about a request that failed. An error that is not an
// [*awsiot.ShadowError] is answered as a failure of the service.
func Rejected(t awsiot.ShadowTopic, err error) awsiot.Message {
	e, ok := errors.AsType[*awsiot.ShadowError](err)
	if !ok {
		e = reject(500, "Internal service failure")
	}
	return awsiot.Message{Topic: t.Rejected(), Payload: awsiot.EncodeJSON(e)}
}

// readRequest reads and checks the body of a request. The client token is set as soon as it is
// known, for the error too; the state only of an update, nil for null. The body of a delete request is not
// checked, that of a get request may be empty.
func readRequest(o awsiot.ShadowOperation, payload []byte) (q awsiot.ShadowDocument, err error) {
	if !utf8.Valid(payload) {
		return q, reject(415, "Unsupported documented encoding; supported encoding is UTF-8")
	}
	if o == awsiot.GetShadow && len(payload) == 0 {
		return q, nil
	}
	var body object
	if err := awsiot.DecodeJSON(payload, &body); (err != nil || body == nil) && o != awsiot.DeleteShadow {
		return q, reject(400, "Invalid JSON")
	}
	if token, ok := body["clientToken"]; ok {
		text, ok := token.(string)
		if !ok || len(text) > maxClientToken {
			return q, reject(400, "Invalid clientToken")
		}
		q.ClientToken = text
	}
	if o != awsiot.UpdateShadow {
		return q, nil
	}
	if version := body["version"]; version != nil {
		number, _ := version.(json.Number)
		n, err := number.Int64()
		if err != nil || n < 0 {
			return q, reject(400, "Invalid version")
		}
		q.Version = &n
	}
	node, ok := body["state"]
	if !ok {
		return q, reject(400, "Missing required node: state")
	}
	if q.State, ok = node.(object); !ok && node != nil { // null clears the shadow
		return q, reject(400, "State node must be an object")
	}
	for _, section := range slices.Sorted(maps.Keys(q.State)) {
		node := q.State[section]
		title, known := map[string]string{"desired": "Desired", "reported": "Reported"}[section]
		_, isObject := node.(object)
		switch levels, storable := measure(node); {
		case !known, !storable:
			return q, reject(400, "State contains an invalid node")
		case !isObject && node != nil:
			return q, reject(400, "%s node must be an object", title)
		case levels > awsiot.MaxShadowLevels:
			return q, reject(400, "JSON contains too many levels of nesting; maximum is 6") // AWS's text, though its quota is 8
		}
	}
	return q, nil
}

// measure returns the greatest number of keys on a path into the node, and whether it has no null
// in an array.
func measure(node any) (levels int, storable bool) {
	storable = true
	below := func(v any, key int) {
		l, ok := measure(v)
		levels, storable = max(levels, key+l), storable && ok
	}
	switch node := node.(type) {
	case object:
		for _, v := range node {
			below(v, 1)
		}
	case []any:
		for _, v := range node {
			below(v, 0)
			storable = storable && v != nil
		}
	}
	return levels, storable
}

// merge returns state and metadata with the patch over them: null removes a key, objects merge,
// everything else, arrays included, replaces. Its arguments stay as they are.
func merge(state, metadata, patch object, now int64) (object, object) {
	newState, newMetadata := object{}, object{}
	maps.Copy(newState, state)
	maps.Copy(newMetadata, metadata)
	for key, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(newState, key)
			delete(newMetadata, key)
		case object:
			var below object
			old, ok := state[key].(object)
			if ok {
				below, _ = metadata[key].(object)
			}
			newState[key], newMetadata[key] = merge(old, below, value, now)
		default:
			newState[key], newMetadata[key] = value, stamp(value, now)
		}
	}
	return newState, newMetadata
}

// stamp returns the metadata of a node: a time for each leaf and for each element of an array.
func stamp(node any, now int64) any {
	switch node := node.(type) {
	case object:
		out := object{}
		for key, v := range node {
			out[key] = stamp(v, now)
		}
		return out
	case []any:
		out := make([]any, len(node))
		for i, v := range node {
			out[i] = stamp(v, now)
		}
		return out
	}
	return object{"timestamp": now}
}

// difference returns the fields of desired that reported lacks or has otherwise, with their
// metadata.
func difference(desired, reported, metadata object) (delta, meta object) {
	delta, meta = object{}, object{}
	for key, want := range desired {
		have, ok := reported[key]
		wantObject, isObject := want.(object)
		haveObject, hasObject := have.(object)
		if isObject && hasObject {
			below, _ := metadata[key].(object)
			if d, m := difference(wantObject, haveObject, below); len(d) > 0 {
				delta[key], meta[key] = d, m
			}
		} else if !ok || !equal(want, have) {
			delta[key], meta[key] = want, metadata[key]
		}
	}
	return delta, meta
}

// equal compares nodes; numbers count by their value, so that 20 is 20.0.
func equal(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		if a == b || !strings.ContainsAny(string(a+b), ".eE") {
			return ok && a == b // integers of any size
		}
		x, errX := a.Float64()
		y, errY := b.Float64()
		return ok && errX == nil && errY == nil && x == y
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equal)
	case object:
		b, ok := b.(object)
		return ok && maps.EqualFunc(a, b, equal)
	}
	return a == b
}
