package assembly

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// maxText is the greatest length of a text that functions make, in bytes:
// CloudFormation's limit on a whole template.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
const maxText = 1 << 20

// A resolver turns the values of a template into plain ones.
type resolver struct {
	stack      *Stack
	env        Environment
	names      map[string]string // of resources, by logical id
	conditions map[string]bool
	open       map[string]bool // names and conditions that are being resolved
}

// noValue is the value of AWS::NoValue: whatever is set to it is left out.
type noValue struct{}

func newResolver(s *Stack, e Environment) *resolver {
	return &resolver{s, e, map[string]string{}, map[string]bool{}, map[string]bool{}}
}

// in returns the place of a resource or a condition.
func (r *resolver) in(id string) place { return place{file: r.stack.file, id: id} }

// value resolves v and all that is in it.
func (r *resolver) value(at place, v any) (any, error) {
	switch v := v.(type) {
	case map[string]any:
		if name, ok := function(v); ok && len(v) > 1 {
			return nil, at.fail("%s stands beside other keys", name)
		} else if ok {
			return r.call(at.field(name), name, v[name])
		}
		return r.object(at, v)
	case []any:
		return r.list(at, v)
	}
	return v, nil
}

// function returns the name of the function that an object calls, if it does.
func function(object map[string]any) (name string, ok bool) {
	for key := range object {
		if strings.HasPrefix(key, "Fn::") || key == "Ref" && len(object) == 1 {
			return key, true
		}
	}
	return "", false
}

func (r *resolver) object(at place, object map[string]any) (any, error) {
	resolved := make(map[string]any, len(object))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		v, err := r.value(at.field(key), object[key])
		if err != nil {
			return nil, err
		}
		if v != (noValue{}) {
			resolved[key] = v
		}
	}
	return resolved, nil
}

func (r *resolver) list(at place, list []any) (any, error) {
	resolved := make([]any, 0, len(list))
	for i, item := range list {
		v, err := r.value(at.index(i), item)
		if err != nil {
			return nil, err
		}
		if v != (noValue{}) {
			resolved = append(resolved, v)
		}
	}
	return resolved, nil
}

// text resolves what must be text in the end. Numbers and booleans are, too.
func (r *resolver) text(at place, v any) (string, error) {
	resolved, err := r.value(at, v)
	if err != nil {
		return "", err
	}
	switch v := resolved.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		if v {
			return "true", nil
		}
		return "false", nil
	}
	return "", at.fail("must be text")
}

// texts resolves a list of texts.
func (r *resolver) texts(at place, v any) ([]string, error) {
	resolved, err := r.value(at, v)
	if err != nil {
		return nil, err
	}
	list, ok := resolved.([]any)
	if !ok {
		return nil, at.fail("must be a list")
	}
	texts := make([]string, len(list))
	for i, item := range list {
		if texts[i], err = r.text(at.index(i), item); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// arguments returns the arguments of a function that takes so many.
func arguments(at place, v any, count int) ([]any, error) {
	list, ok := v.([]any)
	if !ok || len(list) != count {
		return nil, at.fail("must be a list of %d", count)
	}
	return list, nil
}

// once guards the resolving of something that may refer to itself.
func (r *resolver) once(at place, what string, resolve func() error) error {
	if r.open[what] {
		return at.fail("the %s refers to itself", what)
	}
	r.open[what] = true
	defer delete(r.open, what)
	return resolve()
}
