package template

import (
	"strings"

	"example.com/fleety/device/localcore/jsontree"
)

const functionNames = "Ref, Fn::Join, Fn::Select, Fn::Split, Fn::FindInMap and Fn::Sub"

// isFunction reports whether n is an object with a function's key.
func isFunction(n *jsontree.Node) bool {
	if n.Kind != jsontree.Object {
		return false
	}
	for _, m := range n.Items {
		if m.Key == "Ref" || strings.HasPrefix(m.Key, "Fn::") {
			return true
		}
	}
	return false
}

// expression reads a string or a function that gives one.
func (p *parser) expression(n *jsontree.Node) expression {
	if n.Kind == jsontree.String {
		return literal(n.Text)
	}
	if !isFunction(n) {
		p.fail(n, "must be a string or a function, is %s", n.Kind)
		return broken{}
	}
	argument := p.argument(n)
	if argument == nil {
		return broken{}
	}
	switch argument.Key {
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
		p.failKey(argument, "%s is not a function of provisioning templates; they are %s", argument.Key, functionNames)
	}
	return broken{}
}

// list reads a list that is written out or given by Fn::Split.
func (p *parser) list(n *jsontree.Node) listExpression {
	if n.Kind == jsontree.Array {
		values := make(listing, len(n.Items))
		for i, item := range n.Items {
			values[i] = p.expression(item)
		}
		return values
	}
	if !isFunction(n) {
		p.fail(n, "must be a list or Fn::Split, is %s", n.Kind)
		return broken{}
	}
	argument := p.argument(n)
	if argument == nil {
		return broken{}
	}
	if argument.Key != "Fn::Split" {
		p.failKey(argument, "gives no list; only Fn::Split does")
		return broken{}
	}
	return p.split(argument)
}

// argument returns the only member of a function.
func (p *parser) argument(n *jsontree.Node) *jsontree.Node {
	if len(n.Items) != 1 {
		p.fail(n, "a function must be the only key of its object")
		return nil
	}
	return n.Items[0]
}

// arguments returns the elements of n, an array of that many.
func (p *parser) arguments(n *jsontree.Node, count int, form string) []*jsontree.Node {
	if n.Kind != jsontree.Array || len(n.Items) != count {
		p.fail(n, "%s needs %s", n.Key, form)
		return nil
	}
	return n.Items
}

func (p *parser) ref(n *jsontree.Node) expression {
	if !p.expect(n, jsontree.String) {
		return broken{}
	}
	return ref(n.Text)
}

func (p *parser) join(n *jsontree.Node) expression {
	if p.inPolicy {
		p.failKey(n, "Fn::Join is not supported inside Policy resources; use Fn::Sub")
		return broken{}
	}
	arguments := p.arguments(n, 2, "[delimiter, list]")
	if arguments == nil || !p.expect(arguments[0], jsontree.String) {
		return broken{}
	}
	return join{arguments[0].Text, p.list(arguments[1])}
}

func (p *parser) split(n *jsontree.Node) listExpression {
	arguments := p.arguments(n, 2, "[delimiter, string]")
	if arguments == nil || !p.expect(arguments[0], jsontree.String) {
		return broken{}
	}
	if arguments[0].Text == "" {
		p.fail(arguments[0], "the delimiter is empty")
	}
	return split{arguments[0].Text, p.expression(arguments[1])}
}

func (p *parser) selection(n *jsontree.Node) expression {
	arguments := p.arguments(n, 2, "[index, list]")
	if arguments == nil {
		return broken{}
	}
	var index expression
	if arguments[0].Kind == jsontree.Number {
		index = literal(arguments[0].Text)
	} else {
		index = p.expression(arguments[0])
	}
	return selection{index, p.list(arguments[1])}
}

func (p *parser) findInMap(n *jsontree.Node) expression {
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
func (p *parser) checkKeys(f findInMap, arguments []*jsontree.Node) bool {
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

func (p *parser) substitution(n *jsontree.Node) expression {
	pattern, u := n, substitution{}
	if n.Kind == jsontree.Array {
		arguments := p.arguments(n, 2, "a string or [string, variables]")
		if arguments == nil || !p.expect(arguments[1], jsontree.Object) {
			return broken{}
		}
		pattern = arguments[0]
		u.names = make(map[string]expression)
		for _, m := range arguments[1].Items {
			u.names[m.Key] = p.expression(m)
		}
	}
	if !p.expect(pattern, jsontree.String) {
		return broken{}
	}
	u.parts = p.subParts(pattern)
	return u
}

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
