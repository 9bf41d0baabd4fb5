package template

import (
	"strings"
)

const functionNames = "Ref, Fn::Join, Fn::Select, Fn::Split, Fn::FindInMap and Fn::Sub"

// isFunction reports whether n is an object with a function's key.
func isFunction(n *node) bool {
	if n.kind != object {
		return false
	}
	for _, m := range n.items {
		if m.key == "Ref" || strings.HasPrefix(m.key, "Fn::") {
			return true
		}
	}
	return false
}

// expression reads a string or a function that gives one.
func (p *parser) expression(n *node) expression {
	if n.kind == text {
		return literal(n.text)
	}
	if !isFunction(n) {
		p.fail(n, "must be a string or a function, is %s", n.kind)
		return broken{}
	}
	argument := p.argument(n)
	if argument == nil {
		return broken{}
	}
	switch argument.key {
	case "Ref":
		return p.ref(argument)
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
		p.failKey(argument, "%s is not a function of provisioning templates; they are %s", argument.key, functionNames)
	}
	return broken{}
}

// list reads a list that is written out or given by Fn::Split.
func (p *parser) list(n *node) listExpression {
	if n.kind == array {
		values := make(listing, len(n.items))
		for i, item := range n.items {
			values[i] = p.expression(item)
		}
		return values
	}
	if !isFunction(n) {
		p.fail(n, "must be a list or Fn::Split, is %s", n.kind)
		return broken{}
	}
	argument := p.argument(n)
	if argument == nil {
		return broken{}
	}
	if argument.key != "Fn::Split" {
		p.failKey(argument, "gives no list; only Fn::Split does")
		return broken{}
	}
	return p.split(argument)
}

// argument returns the only member of a function.
func (p *parser) argument(n *node) *node {
	if len(n.items) != 1 {
		p.fail(n, "a function must be the only key of its object")
		return nil
	}
	return n.items[0]
}

// arguments returns the elements of n, an array of that many.
func (p *parser) arguments(n *node, count int, form string) []*node {
	if n.kind != array || len(n.items) != count {
		p.fail(n, "%s wants %s", n.key, form)
		return nil
	}
	return n.items
}

func (p *parser) ref(n *node) expression {
	if !p.expect(n, text) {
		return broken{}
	}
	return ref(n.text)
}

func (p *parser) join(n *node) expression {
	if p.inPolicy {
		p.failKey(n, "Fn::Join is not supported inside Policy resources; use Fn::Sub")
		return broken{}
	}
	arguments := p.arguments(n, 2, "[delimiter, list]")
	if arguments == nil || !p.expect(arguments[0], text) {
		return broken{}
	}
	return join{arguments[0].text, p.list(arguments[1])}
}

func (p *parser) split(n *node) listExpression {
	arguments := p.arguments(n, 2, "[delimiter, string]")
	if arguments == nil || !p.expect(arguments[0], text) {
		return broken{}
	}
	if arguments[0].text == "" {
		p.fail(arguments[0], "the delimiter is empty")
	}
	return split{arguments[0].text, p.expression(arguments[1])}
}

func (p *parser) selection(n *node) expression {
	arguments := p.arguments(n, 2, "[index, list]")
	if arguments == nil {
		return broken{}
	}
	var index expression
	if arguments[0].kind == number {
		index = literal(arguments[0].text)
	} else {
		index = p.expression(arguments[0])
	}
	return selection{index, p.list(arguments[1])}
}

func (p *parser) findInMap(n *node) expression {
	arguments := p.arguments(n, 3, "[map, key, key]")
	if arguments == nil {
		return broken{}
	}
	f := findInMap{in: p.mappings}
	for i, a := range arguments {
		f.keys[i] = p.expression(a)
	}
	if !p.checkKeys(f, arguments) {
		return broken{}
	}
	return f
}

// checkKeys looks for a constant map name or second key that cannot be found
// whatever the other keys are.
func (p *parser) checkKeys(f findInMap, arguments []*node) bool {
	name, ok := f.keys[0].(literal)
	if !ok {
		return true
	}
	table, ok := f.in[string(name)]
	if !ok {
		p.fail(arguments[0], "there is no map %q; there is %s", string(name), known(f.in))
		return false
	}
	second, ok := f.keys[2].(literal)
	if !ok {
		return true
	}
	for _, row := range table {
		if _, ok := row[string(second)]; ok {
			return true
		}
	}
	p.fail(arguments[2], "no key of map %q has %q", string(name), string(second))
	return false
}

func (p *parser) substitution(n *node) expression {
	pattern, u := n, substitution{}
	if n.kind == array {
		arguments := p.arguments(n, 2, "a string or [string, variables]")
		if arguments == nil || !p.expect(arguments[1], object) {
			return broken{}
		}
		pattern = arguments[0]
		u.names = make(map[string]expression)
		for _, m := range arguments[1].items {
			u.names[m.key] = p.expression(m)
		}
	}
	if !p.expect(pattern, text) {
		return broken{}
	}
	u.parts = p.subParts(pattern)
	return u
}

// subParts cuts the string of Fn::Sub at its variables.
func (p *parser) subParts(n *node) (parts []subPart) {
	rest := n.text
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
