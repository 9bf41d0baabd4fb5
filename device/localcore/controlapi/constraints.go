package controlapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"example.com/fleety/device/localcore/registry"
)

// constraintsText has the inputs of the operations as AWS's service models constrain them, and which
// operations have no output. It is made by testdata/aws_constraints.py from those of botocore; see
// NOTICE.
//
//go:embed aws_constraints.json
var constraintsText []byte

type constraints struct {
	Operations    map[string]string // the names of the shapes of their inputs
	WithoutOutput []string          // operations that answer without a body, where others give {} at least
	Shapes        map[string]shape
}

// A shape is what AWS's models say of a value. Min and Max bound a number, or the length of all else.
type shape struct {
	Type                string
	Min, Max            *float64
	Pattern             *regexp.Regexp
	Enum                []string
	Required            []string          // of a structure, as are:
	Members             map[string]string // their shapes
	Payload             string            // the member that is the body
	Element, Key, Value string            // the shapes of the parts of a list or map
}

var model = sync.OnceValue(func() (c constraints) {
	if err := json.Unmarshal(constraintsText, &c); err != nil {
		panic(err) // the tests would have found it
	}
	return c
})

// input is the shape of what the operation takes.
func (o operation) input() shape { return model().Shapes[model().Operations[o.service+o.name]] }

// has reports whether the operation has the parameter.
func (o operation) has(name string) bool {
	_, ok := o.input().Members[name]
	return ok
}

// validate rejects a request that breaks a constraint, in AWS's words.
func (q *request) validate() error {
	input, all := q.op.input(), map[string]any{}
	for name, raw := range q.members {
		var v any
		_ = json.Unmarshal(raw, &v) // it was parsed already
		switch body, ok := v.(map[string]any); {
		case name != "*":
			all[name] = v
		case input.Payload != "":
			all[input.Payload] = v
		case ok:
			maps.Copy(all, body)
		}
	}
	var broken []string
	model().check(input, "", all, func(at, constraint string) {
		broken = append(broken, "Value at '"+at+"' failed to satisfy constraint: "+constraint)
	})
	if len(broken) == 0 {
		return nil
	}
	slices.Sort(broken)
	noun := "error"
	if len(broken) > 1 {
		noun = "errors"
	}
	return registry.Reject(registry.CodeInvalidRequest, "%d validation %s detected: %s", len(broken), noun, strings.Join(broken, "; "))
}

// check reports which constraints a value breaks, and where.
func (c constraints) check(s shape, at string, value any, report func(at, constraint string)) {
	path := func(name string) string { return strings.TrimPrefix(at+"."+name, ".") }
	below := func(name, shape string, value any) { c.check(c.Shapes[shape], path(name), value, report) }
	element := func(name, shape string, value any) {
		if below(name, shape, value); value == nil { // https://smithy.io/2.0/spec/type-refinement-traits.html#sparse-trait
			report(path(name), "Member must not be null")
		}
	}
	size, length, types := 0.0, "length ", "" // types are those that the value may have
	switch v := value.(type) {
	case nil:
		return
	case bool:
		types = "boolean"
	case string:
		types = "string"
		size = float64(utf8.RuneCountInString(v))
		if s.Pattern != nil && !s.Pattern.MatchString(v) {
			report(at, "Member must satisfy regular expression pattern: "+strings.TrimSuffix(strings.TrimPrefix(s.Pattern.String(), "^(?:"), ")$"))
		}
		if s.Enum != nil && !slices.Contains(s.Enum, v) {
			report(at, "Member must satisfy enum value set: ["+strings.Join(s.Enum, ", ")+"]")
		}
	case float64:
		if size, length, types = v, "value ", "double float"; v == math.Trunc(v) {
			types = "long double float"
		}
		if v == math.Trunc(v) && math.Abs(v) <= math.MaxInt32 {
			types = "integer long double float"
		}
	case []any:
		types = "list"
		size = float64(len(v))
		for i, value := range v {
			element(strconv.Itoa(i+1)+".member", s.Element, value)
		}
	case map[string]any:
		types = "structure map"
		size = float64(len(v))
		for _, name := range s.Required {
			if v[name] == nil {
				report(path(name), "Member must not be null")
			}
		}
		for name, member := range v {
			shape, known := s.Members[name]
			if s.Type == "map" {
				below("key", s.Key, name)
				element("value", s.Value, member)
			} else if below(name, shape, member); !known && s.Type == "structure" { // in another case, for instance
				report(path(name), "Member must be one of the service model")
			}
		}
	}
	if !strings.Contains(types, s.Type) {
		report(at, "Member must be a "+s.Type)
		return
	}
	if s.Min != nil && size < *s.Min {
		report(at, fmt.Sprintf("Member must have %sgreater than or equal to %v", length, *s.Min))
	}
	if s.Max != nil && size > *s.Max {
		report(at, fmt.Sprintf("Member must have %sless than or equal to %v", length, *s.Max))
	}
}
