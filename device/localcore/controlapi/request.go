package controlapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// maxBody is the greatest body that is read: twice the payload of the greatest
// message.
const maxBody = 256 << 10

// A request is one call of an operation. Its query parameters are checked
// before the operation runs, so that reading them cannot fail.
type request struct {
	*http.Request
	params url.Values
	body   []byte
}

// numeric are the query parameters that are numbers, with their ranges.
var numeric = map[string]struct{ min, max int64 }{
	"expectedVersion": {0, 1 << 62},
	"maxResults":      {1, 250},
	"pageSize":        {1, 250},
	"messageExpiry":   {0, 1 << 31},
	"qos":             {0, 1},
}

// boolean are the query parameters that are true or false.
var boolean = map[string]bool{
	"setAsActive": true, "setAsDefault": true, "forceDelete": true, "recursive": true, "isAscendingOrder": true,
	"usePrefixAttributeValue": true, "retain": true, "cleanSession": true, "preventWillMessage": true,
}

func readRequest(w http.ResponseWriter, r *http.Request) (*request, error) {
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query cannot be read: %v", err)
	}
	for name := range params {
		if err := checkParam(name, params.Get(name)); err != nil {
			return nil, err
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, invalid("the body is longer than %d bytes", maxBody)
	case err != nil:
		return nil, invalid("the body cannot be read: %v", err)
	}
	return &request{Request: r, params: params, body: body}, nil
}

func checkParam(name, value string) error {
	if limits, ok := numeric[name]; ok {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < limits.min || n > limits.max {
			return invalid("%s is %q, it must be a number from %d to %d", name, clip(value), limits.min, limits.max)
		}
	}
	if boolean[name] && value != "true" && value != "false" {
		return invalid("%s is %q, it must be true or false", name, clip(value))
	}
	return nil
}

func (q *request) path(name string) string  { return q.PathValue(name) }
func (q *request) query(name string) string { return q.params.Get(name) }
func (q *request) flag(name string) bool    { return q.query(name) == "true" }

// number returns a query parameter of numeric, zero where it is absent.
func (q *request) number(name string) int64 {
	n, _ := strconv.ParseInt(q.query(name), 10, 64)
	return n
}

// version returns the id of a version in the path.
func (q *request) version(name string) (int, error) {
	n, err := strconv.Atoi(q.path(name))
	if err != nil || n < 1 {
		return 0, invalid("version %q must be a number from 1 up", clip(q.path(name)))
	}
	return n, nil
}

// decode reads the body as JSON into v, a pointer to a struct. No body is an
// empty object. Members that v does not know are ignored, as AWS does.
func (q *request) decode(v any) error {
	if len(bytes.TrimSpace(q.body)) == 0 {
		return nil
	}
	err := json.Unmarshal(q.body, v)
	var mistyped *json.UnmarshalTypeError
	switch {
	case errors.As(err, &mistyped):
		return invalid("the body is malformed: member %q cannot be a %s", mistyped.Field, mistyped.Value)
	case err != nil:
		return invalid("the body is malformed JSON: %v", err)
	}
	return nil
}
