package template

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/jsontree"
)

// An expression gives a string once the parameters are known, and a
// listExpression a list of strings. What goes wrong is in the scope: then the
// value means nothing.
type (
	expression     func(*scope) string
	listExpression func(*scope) []string
)

// A scope is what references resolve to.
type scope struct {
	parsing       bool // references have no value yet
	certificateID string
	given         map[string]string
	declared      map[string]parameter
	err           error // the first: an *Error, or errLater
}

// errLater is the answer to a reference while the template is parsed.
var errLater = errors.New("known at registration only")

// fail keeps the first error.
func (s *scope) fail(err error) string {
	if s.err == nil {
		s.err = err
	}
	return ""
}

func (s *scope) reject(r rejection, format string, args ...any) string {
	return s.fail(&Error{StatusCode: r.status, Code: r.code, Message: awsiot.Printable(fmt.Sprintf(format, args...))})
}

func (s *scope) lookup(name string) string {
	if s.parsing {
		return s.fail(errLater)
	}
	if name == ImplicitCertificateID && s.certificateID != "" {
		return s.certificateID
	}
	if value, ok := s.given[name]; ok {
		return value
	}
	if p := s.declared[name]; p.fallback != nil {
		return *p.fallback
	}
	return s.reject(unresolved, "Cannot resolve reference value: %s", name)
}

// text returns the value of e, which may be nil.
func (s *scope) text(e expression) string {
	if e == nil {
		return ""
	}
	return e(s)
}

// texts returns nil for nothing. Of several faults it always returns that of the
// first key.
func (s *scope) texts(from map[string]expression) map[string]string {
	if len(from) == 0 {
		return nil
	}
	values := make(map[string]string, len(from))
	for _, key := range slices.Sorted(maps.Keys(from)) {
		values[key] = from[key](s)
	}
	return values
}

func (s *scope) bounded(value string) string {
	if len(value) > maxText {
		return s.reject(badValue, "a value has more than %d bytes", maxText)
	}
	return value
}

func constant(text string) expression { return func(*scope) string { return text } }

// broken stands for an expression that has a fault of its own, so that no
// further fault is derived from it.
func broken(s *scope) string { return s.fail(errLater) }

func brokenList(s *scope) []string {
	s.fail(errLater)
	return nil
}

// isFunction reports whether n is an object with a function's key.
func isFunction(n *jsontree.Node) bool {
	return n.Kind == jsontree.Object && slices.ContainsFunc(n.Items, func(m *jsontree.Node) bool {
		return m.Key == "Ref" || strings.HasPrefix(m.Key, "Fn::")
	})
}

// expression reads a string or a function that gives one.
func (p *parser) expression(n *jsontree.Node) expression {
	if n.Kind == jsontree.String {
		return constant(n.Text)
	}
	if !isFunction(n) {
		p.fail(n, "must be a string or a function, is %s", n.Kind)
		return broken
	}
	if len(n.Items) != 1 {
		p.fail(n, "a function must be the only key of its object")
		return broken
	}
	argument := n.Items[0]
	switch argument.Key {
	case "Ref":
		if p.expect(argument, jsontree.String) {
			return func(s *scope) string { return s.lookup(argument.Text) }
		}
	case "Fn::Join":
		return p.join(argument)
	case "Fn::Select":
		return p.selection(argument)
	case "Fn::FindInMap":
		return p.findInMap(argument)
	case "Fn::Sub":
		return p.substitution(argument)
	case "Fn::Split":
		p.failKey(argument, "gives a list where a string must be; use it inside Fn::Select")
	default:
		p.failKey(argument, "%s is not a function of provisioning templates; they are Ref, Fn::Join, Fn::Select, Fn::Split, Fn::FindInMap and Fn::Sub", argument.Key)
	}
	return broken
}

// list reads a list that is written out or given by Fn::Split.
func (p *parser) list(n *jsontree.Node) listExpression {
	switch {
	case n.Kind == jsontree.Array:
		items := make([]expression, len(n.Items))
		for i, item := range n.Items {
			items[i] = p.expression(item)
		}
		return func(s *scope) []string {
			values := make([]string, len(items))
			for i, item := range items {
				values[i] = item(s)
			}
			return values
		}
	case !isFunction(n):
		p.fail(n, "must be a list or Fn::Split, is %s", n.Kind)
	case len(n.Items) != 1:
		p.fail(n, "a function must be the only key of its object")
	case n.Items[0].Key != "Fn::Split":
		p.failKey(n.Items[0], "gives no list; only Fn::Split does")
	default:
		return p.split(n.Items[0])
	}
	return brokenList
}

// arguments returns the elements of n, an array of that many.
func (p *parser) arguments(n *jsontree.Node, count int, form string) []*jsontree.Node {
	if n.Kind != jsontree.Array || len(n.Items) != count {
		p.fail(n, "%s needs %s", n.Key, form)
		return nil
	}
	return n.Items
}

// join reads [DELIMITER, LIST].
func (p *parser) join(n *jsontree.Node) expression {
	if p.inPolicy {
		p.failKey(n, "Fn::Join is not supported inside Policy resources; use Fn::Sub")
		return broken
	}
	arguments := p.arguments(n, 2, "[delimiter, list]")
	if arguments == nil || !p.expect(arguments[0], jsontree.String) {
		return broken
	}
	values := p.list(arguments[1])
	return func(s *scope) string { return s.bounded(strings.Join(values(s), arguments[0].Text)) }
}

// split reads [DELIMITER, STRING].
func (p *parser) split(n *jsontree.Node) listExpression {
	arguments := p.arguments(n, 2, "[delimiter, string]")
	if arguments == nil || !p.expect(arguments[0], jsontree.String) {
		return brokenList
	}
	if arguments[0].Text == "" {
		p.fail(arguments[0], "the delimiter is empty")
	}
	source := p.expression(arguments[1])
	return func(s *scope) []string { return strings.Split(source(s), arguments[0].Text) }
}

// selection reads [INDEX, LIST].
func (p *parser) selection(n *jsontree.Node) expression {
	arguments := p.arguments(n, 2, "[index, list]")
	if arguments == nil {
		return broken
	}
	index := constant(arguments[0].Text)
	if arguments[0].Kind != jsontree.Number {
		index = p.expression(arguments[0])
	}
	list := p.list(arguments[1])
	return func(s *scope) string {
		digits := index(s)
		i, err := strconv.Atoi(digits)
		if err != nil {
			return s.reject(badSelection, "Fn::Select: index %q is not a whole number", digits)
		}
		values := list(s)
		if i < 0 || i >= len(values) {
			return s.reject(badSelection, "Fn::Select: index %d is not in a list of %d", i, len(values))
		}
		return values[i]
	}
}

// mappings are map name, first key, second key.
type mappings map[string]map[string]map[string]string

// findInMap reads [MAP, KEY, KEY]. A constant map name or second key that cannot
// be found whatever the other keys are is a fault of the template.
func (p *parser) findInMap(n *jsontree.Node) expression {
	arguments := p.arguments(n, 3, "[map, key, key]")
	if arguments == nil {
		return broken
	}
	name, first, second := p.expression(arguments[0]), p.expression(arguments[1]), p.expression(arguments[2])
	if arguments[0].Kind == jsontree.String {
		name := arguments[0].Text
		table, ok := p.mappings[name]
		if !ok {
			p.fail(arguments[0], "there is no map %q; there is %s", name, known(p.mappings))
			return broken
		}
		if key := arguments[2]; key.Kind == jsontree.String {
			if !slices.ContainsFunc(slices.Collect(maps.Values(table)), func(row map[string]string) bool { _, ok := row[key.Text]; return ok }) {
				p.fail(key, "no key of map %q has %q", name, key.Text)
				return broken
			}
		}
	}
	in := p.mappings
	return func(s *scope) string {
		name, first, second := name(s), first(s), second(s)
		table, ok := in[name]
		if !ok {
			return s.reject(noSuchKey, "Fn::FindInMap: there is no map %q; there is %s", name, known(in))
		}
		row, ok := table[first]
		if !ok {
			return s.reject(noSuchKey, "Fn::FindInMap: map %q has no key %q; it has %s", name, first, known(table))
		}
		value, ok := row[second]
		if !ok {
			return s.reject(noSuchKey, "Fn::FindInMap: map %q has no key %q under %q; it has %s there", name, second, first, known(row))
		}
		return value
	}
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

// substitution reads a string or [STRING, VARIABLES].
func (p *parser) substitution(n *jsontree.Node) expression {
	pattern := n
	variables := map[string]expression{}
	if n.Kind == jsontree.Array {
		arguments := p.arguments(n, 2, "a string or [string, variables]")
		if arguments == nil || !p.expect(arguments[1], jsontree.Object) {
			return broken
		}
		pattern = arguments[0]
		for _, m := range arguments[1].Items {
			variables[m.Key] = p.expression(m)
		}
	}
	if !p.expect(pattern, jsontree.String) {
		return broken
	}
	parts := p.subParts(pattern)
	return func(s *scope) string {
		own := s.texts(variables) // each once: they may hold substitutions of their own
		var b strings.Builder
		for _, part := range parts {
			b.WriteString(part.constant)
			if value, ok := own[part.name]; ok {
				b.WriteString(value)
			} else if part.name != "" {
				b.WriteString(s.lookup(part.name))
			}
			if b.Len() > maxText {
				break
			}
		}
		return s.bounded(b.String())
	}
}

// A subPart is a constant and then a variable, unless that has no name.
type subPart struct{ constant, name string }

// subParts cuts the string of Fn::Sub at its variables.
func (p *parser) subParts(n *jsontree.Node) (parts []subPart) {
	rest := n.Text
	for {
		constant, after, found := strings.Cut(rest, "${")
		if !found {
			return append(parts, subPart{constant: rest})
		}
		name, next, closed := strings.Cut(after, "}")
		bare, quoted := strings.CutPrefix(name, "!")
		switch {
		case !closed:
			p.fail(n, "Fn::Sub: a ${ has no }")
			return nil
		case bare == "":
			p.fail(n, "Fn::Sub: a ${} names nothing")
			return nil
		case quoted:
			parts = append(parts, subPart{constant: constant + "${" + bare + "}"})
		default:
			parts = append(parts, subPart{constant: constant, name: name})
		}
		rest = next
	}
}
