package template

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
)

// An expression gives a string once the parameters are known. Its error is an
// *[Error], or errLater.
type expression interface {
	eval(*scope) (string, error)
}

// A listExpression gives a list of strings.
type listExpression interface {
	evalList(*scope) ([]string, error)
}

// errLater is the answer to a reference while the template is parsed.
var errLater = errors.New("known at registration only")

// A scope is what references resolve to.
type scope struct {
	parsing       bool // references have no value yet
	certificateID string
	given         map[string]string
	declared      map[string]parameter
}

func (s *scope) lookup(name string) (string, error) {
	if s.parsing {
		return "", errLater
	}
	if name == ImplicitCertificateID && s.certificateID != "" {
		return s.certificateID, nil
	}
	if value, ok := s.given[name]; ok {
		return value, nil
	}
	if p := s.declared[name]; p.fallback != nil {
		return *p.fallback, nil
	}
	return "", unresolved.errorf("Cannot resolve reference value: %s", name)
}

func (r rejection) errorf(format string, args ...any) *Error {
	return &Error{StatusCode: r.status, Code: r.code, Message: awsiot.Printable(fmt.Sprintf(format, args...))}
}

// A literal is a constant.
type literal string

func (l literal) eval(*scope) (string, error) { return string(l), nil }

// A ref is {"Ref": NAME}.
type ref string

func (r ref) eval(s *scope) (string, error) { return s.lookup(string(r)) }

// broken stands for an expression that has a fault of its own, so that no
// further fault is derived from it.
type broken struct{}

func (broken) eval(*scope) (string, error)       { return "", errLater }
func (broken) evalList(*scope) ([]string, error) { return nil, errLater }

// A listing is a list that is written out.
type listing []expression

func (l listing) evalList(s *scope) ([]string, error) {
	values := make([]string, len(l))
	for i, e := range l {
		var err error
		if values[i], err = e.eval(s); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// A join is {"Fn::Join": [DELIMITER, LIST]}.
type join struct {
	delimiter string
	values    listExpression
}

func (j join) eval(s *scope) (string, error) {
	values, err := j.values.evalList(s)
	if err != nil {
		return "", err
	}
	return bounded(strings.Join(values, j.delimiter))
}

// A split is {"Fn::Split": [DELIMITER, STRING]}.
type split struct {
	delimiter string
	source    expression
}

func (p split) evalList(s *scope) ([]string, error) {
	source, err := p.source.eval(s)
	if err != nil {
		return nil, err
	}
	return strings.Split(source, p.delimiter), nil
}

// A selection is {"Fn::Select": [INDEX, LIST]}.
type selection struct {
	index expression
	list  listExpression
}

func (e selection) eval(s *scope) (string, error) {
	digits, err := e.index.eval(s)
	if err != nil {
		return "", err
	}
	index, err := strconv.Atoi(digits)
	if err != nil {
		return "", badSelection.errorf("Fn::Select: index %q is not a whole number", digits)
	}
	list, err := e.list.evalList(s)
	if err != nil {
		return "", err
	}
	if index < 0 || index >= len(list) {
		return "", badSelection.errorf("Fn::Select: index %d is not in a list of %d", index, len(list))
	}
	return list[index], nil
}

// mappings are map name, first key, second key.
type mappings map[string]map[string]map[string]string

// A findInMap is {"Fn::FindInMap": [MAP, KEY, KEY]}.
type findInMap struct {
	in   mappings
	keys [3]expression
}

func (f findInMap) eval(s *scope) (string, error) {
	var keys [3]string
	for i, e := range f.keys {
		var err error
		if keys[i], err = e.eval(s); err != nil {
			return "", err
		}
	}
	table, ok := f.in[keys[0]]
	if !ok {
		return "", noSuchKey.errorf("Fn::FindInMap: there is no map %q; there is %s", keys[0], known(f.in))
	}
	row, ok := table[keys[1]]
	if !ok {
		return "", noSuchKey.errorf("Fn::FindInMap: map %q has no key %q; it has %s", keys[0], keys[1], known(table))
	}
	value, ok := row[keys[2]]
	if !ok {
		return "", noSuchKey.errorf("Fn::FindInMap: map %q has no key %q under %q; it has %s there", keys[0], keys[2], keys[1], known(row))
	}
	return value, nil
}

// known lists the keys of m.
func known[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none"
	}
	keys := slices.Sorted(maps.Keys(m))
	for i, key := range keys {
		keys[i] = strconv.Quote(key)
	}
	return strings.Join(keys, ", ")
}

// A substitution is {"Fn::Sub": …}: its parts one after the other.
type substitution struct {
	parts []subPart
	names map[string]expression // its own variables
}

// A subPart is a constant, or a variable when name is set.
type subPart struct{ constant, name string }

func (u substitution) eval(s *scope) (string, error) {
	// Each variable once: they may hold substitutions of their own.
	own := make(map[string]string, len(u.names))
	for _, name := range slices.Sorted(maps.Keys(u.names)) {
		value, err := u.names[name].eval(s)
		if err != nil {
			return "", err
		}
		own[name] = value
	}
	var b strings.Builder
	for _, part := range u.parts {
		b.WriteString(part.constant)
		if part.name == "" {
			continue
		}
		value, ok := own[part.name]
		if !ok {
			var err error
			if value, err = s.lookup(part.name); err != nil {
				return "", err
			}
		}
		b.WriteString(value)
		if b.Len() > maxText {
			break
		}
	}
	return bounded(b.String())
}

func bounded(value string) (string, error) {
	if len(value) > maxText {
		return "", badValue.errorf("a value has more than %d bytes", maxText)
	}
	return value, nil
}

// A checked expression rejects what breaks a rule of the registry.
type checked struct {
	expression
	rule rule
}

func (c checked) eval(s *scope) (string, error) {
	value, err := c.expression.eval(s)
	if err != nil {
		return "", err
	}
	if wrong := c.rule.check(value); wrong != "" {
		return "", badValue.errorf("%s", wrong)
	}
	return value, nil
}

// An enum is an expression with few values, in any letter case.
type enum struct {
	expression
	what   string
	values []string
}

func (e enum) eval(s *scope) (string, error) {
	value, err := e.expression.eval(s)
	if err != nil {
		return "", err
	}
	for _, v := range e.values {
		if strings.EqualFold(v, value) {
			return v, nil
		}
	}
	return "", badValue.errorf("%s %q is not one of %s", e.what, value, strings.Join(e.values, ", "))
}
