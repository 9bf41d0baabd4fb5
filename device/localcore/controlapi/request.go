package controlapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/jsontree"
)

const (
	// maxBody is the greatest body that is read: twice the payload of the greatest message.
	maxBody = 256 << 10
	// maxNesting is how deep a body may be nested, far deeper than the service models go.
	maxNesting = 100
	// readTimeout bounds how long a body may take to arrive.
	readTimeout = 30 * time.Second
)

// An operation is one call of the API, as [op] declares it.
type operation struct {
	name, pattern string // AWS's name; method and path as [http.ServeMux] has them
	service       string // begins its name among the constraints, where two services have the name
	path, query   []string
	members       []string // of the body, and headers
	functions     []any
}

var pathParameter = regexp.MustCompile(`\{(\w+)(?:\.\.\.)?\}`)

// op declares an operation by AWS's name for it, its parameters as
//
//	METHOD PATH?QUERY MEMBER…
//
// and the functions that carry it out. PATH has its parameters in braces, QUERY the names of the
// others, separated by &. A MEMBER is one of the body, a header if it begins with X-, or * for the
// members that are not listed. The first function takes these parameters in this order, each
// further one what the function before it returned, and the last returns the answer; an error ends
// the operation. A function may take the *request before these, or alone.
//
// What the service model says of paging, of the tags of a resource that is created, and of the ARNs
// that a request may have instead of names is not repeated: [page] takes the first, [api.run] the
// second, and functions get names.
func op(name, form string, functions ...any) operation {
	words := strings.Fields(form)
	path, query, _ := strings.Cut(words[1], "?")
	o := operation{name: name, pattern: words[0] + " " + path, members: words[2:], functions: functions}
	for _, parameter := range pathParameter.FindAllStringSubmatch(path, -1) {
		o.path = append(o.path, parameter[1])
	}
	if query != "" {
		o.query = strings.Split(query, "&")
	}
	return o
}

// tagged reports whether the operation creates a resource with tags. Its answer has the ARN.
func (o operation) tagged() bool { return o.has("tags") && !slices.Contains(o.members, "tags") }

// takes reports whether the operation has the query parameter.
func (o operation) takes(name string) bool {
	return slices.Contains(o.query, name) || slices.Contains(paging, name) && o.has(name) && !slices.Contains(o.members, name)
}

// parameters returns the names of those that the first function takes.
func (o operation) parameters() []string {
	return slices.DeleteFunc(slices.Concat(o.path, o.query, o.members), func(name string) bool { return slices.Contains(paging, name) })
}

// named reports whether a member is a name that may be given by the ARN of the resource, and what begins the
// names of both members.
func (o operation) named(member string) (stem string, ok bool) {
	stem, ok = strings.CutSuffix(member, "Name")
	return stem, ok && o.has(stem+"Arn")
}

// A request is one call of an operation.
type request struct {
	*http.Request
	op operation
	// members are the parameters that were sent, wherever they stood, by AWS's
	// names; * has an object.
	members map[string]json.RawMessage
	body    []byte
}

func readRequest(w http.ResponseWriter, r *http.Request, o operation) (*request, error) {
	q := &request{Request: r, op: o, members: map[string]json.RawMessage{}}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query cannot be read: %v", err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch {
		case len(query[name]) > 1:
			err = invalid("query parameter %q is given more than once", awsiot.Clip(name))
		case o.takes(name):
			err = q.set(name, query.Get(name))
		case !strings.HasPrefix(strings.ToLower(name), "x-amz-"): // else of a signature
			err = invalid("query parameter %q of %s is not emulated", awsiot.Clip(name), o.name)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, name := range o.path {
		if err := q.set(name, r.PathValue(name)); err != nil {
			return nil, err
		}
	}
	// Recorders of tests have no deadline to set.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(readTimeout))
	q.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case tooLarge && (o.name == "SendDirectMessage" || o.name == "UpdateThingShadow"):
		return nil, payloadTooLarge(maxBody)
	case tooLarge:
		return nil, invalid("the body is longer than %d bytes", maxBody)
	case err != nil: // the deadline stays, for net/http would read on
		return nil, invalid("the body cannot be read: %v", err)
	}
	_ = control.SetReadDeadline(time.Time{})
	return q, q.readMembers()
}

// set reads a parameter of path or query. A number or Boolean that is none stays a string, which
// [request.validate] rejects.
func (q *request) set(name, value string) error {
	if !utf8.ValidString(value) {
		return invalid("%s is %q, it must be UTF-8", name, awsiot.Clip(value))
	}
	q.members[name], _ = json.Marshal(value) // a string always encodes
	kind := model().Shapes[q.op.input().Members[name]].Type
	if n, err := strconv.ParseInt(value, 10, 64); err == nil && (kind == "integer" || kind == "long") {
		q.members[name] = strconv.AppendInt(nil, n, 10)
	} else if kind == "boolean" && (value == "true" || value == "false") {
		q.members[name] = json.RawMessage(value)
	}
	return nil
}

// readMembers reads the headers and, where the operation has a body of members, that as JSON. No
// body is an empty object. A member that the operation does not have is rejected by its name, and so
// is one that is given twice, so that nothing is dropped in silence; AWS ignores what its model does
// not have.
func (q *request) readMembers() error {
	names := slices.Clone(q.op.members)
	if q.op.tagged() {
		names = append(names, "tags")
	}
	for _, name := range q.op.members {
		if stem, ok := q.op.named(name); ok {
			names = append(names, stem+"Arn")
		}
	}
	object := false
	for _, name := range names {
		if header := strings.HasPrefix(name, "X-"); header {
			q.members[name], _ = json.Marshal(q.Header.Get(name))
		} else {
			object = true
		}
	}
	body := bytes.TrimPrefix(q.body, []byte("\xef\xbb\xbf"))
	if !object || len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	root, faults := jsontree.Parse(body, maxNesting)
	if len(faults) > 0 {
		return invalid("The body cannot be read: line %d, column %d: %s.", faults[0].Line, faults[0].Column, faults[0].Reason)
	}
	if root.Kind != jsontree.Object {
		return invalid("the body is malformed: it is %v, it must be an object", root.Kind)
	}
	rest := map[string]json.RawMessage{}
	for _, member := range root.Items {
		into := rest
		if slices.Contains(names, member.Key) {
			into = q.members
		}
		into[member.Key] = body[member.Start:member.End]
	}
	if slices.Contains(names, "*") {
		q.members["*"], _ = json.Marshal(rest) // of what was JSON before
	} else if len(rest) > 0 {
		return invalid("parameter %q of %s is not emulated", awsiot.Clip(slices.Min(slices.Collect(maps.Keys(rest)))), q.op.name)
	}
	return nil
}

// read reads a parameter into v, and leaves v alone where there is none.
func (q *request) read(name string, v any) error {
	raw, ok := q.members[name]
	if !ok {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return invalid("the body is malformed: member %q cannot be a %s", strings.Trim(name+"."+e.Field, "*."), e.Value)
	}
	if exception(err) != nil {
		return err
	}
	if err != nil {
		if member, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
			return invalid("parameter %s of %s is not emulated", awsiot.Clip(member), q.op.name)
		}
		return invalid("the body is malformed: %v", err)
	}
	return nil
}

// value returns a parameter that was read already, and zero where there is none.
func value[T any](q *request, name string) (v T) {
	_ = q.read(name, &v)
	return v
}

var (
	requestType = reflect.TypeFor[*request]()
	errorType   = reflect.TypeFor[error]()
)

// call runs the functions of the operation. Those that return nothing but an error answer with nil.
func (q *request) call() (answer any, err error) {
	var results []reflect.Value
	for i, function := range q.op.functions {
		f := reflect.ValueOf(function)
		t, in := f.Type(), []reflect.Value{}
		if t.NumIn() > 0 && t.In(0) == requestType {
			in = append(in, reflect.ValueOf(q))
		}
		switch {
		case i > 0:
			in = append(in, results...)
		case len(in) == 0 || t.NumIn() > 1:
			for _, name := range q.op.parameters() {
				v := reflect.New(t.In(len(in)))
				if err := q.read(name, v.Interface()); err != nil {
					return nil, err
				}
				in = append(in, v.Elem())
			}
		}
		results = f.Call(in)
		if last := len(results) - 1; results[last].Type() == errorType {
			if err, failed := results[last].Interface().(error); failed {
				return nil, err
			}
			results = results[:last]
		}
	}
	if len(results) > 0 {
		answer = results[0].Interface()
	}
	return answer, nil
}
