package template

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/localcore/jsontree"
)

// maxDepth bounds how deep values may be nested in each other.
const maxDepth = 64

// Parse reads a fleet provisioning template and finds what is wrong with it
// whatever the parameters will be. The error is [SyntaxErrors], of which
// [errors.As] also finds the first *[SyntaxError].
func Parse(body []byte) (*Template, error) { return parse(body, true) }

// ParseBody is [Parse] for the template body of RegisterThing over HTTPS, which
// may give the certificate as a signing request or in PEM form too.
func ParseBody(body []byte) (*Template, error) { return parse(body, false) }

func parse(body []byte, fleet bool) (*Template, error) {
	p := &parser{body: body, fleet: fleet, template: &Template{}}
	if n := utf8.RuneCount(body); n > MaxBody {
		p.faults = SyntaxErrors{jsontree.ErrorAt(body, 0, "$", fmt.Sprintf("the template has %d characters, %d are allowed", n, MaxBody))}
	} else if root, faults := jsontree.Parse(body, maxDepth); root != nil {
		p.readTemplate(root)
	} else {
		p.faults = faults
	}
	if len(p.faults) > 0 {
		slices.SortStableFunc(p.faults, func(a, b *SyntaxError) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, p.faults
	}
	return p.template, nil
}

// A parser collects the faults of a template while it reads it.
type parser struct {
	body     []byte
	fleet    bool // of fleet provisioning
	template *Template
	mappings mappings
	inPolicy bool // inside a Policy resource
	faults   SyntaxErrors
}

func (p *parser) fail(n *jsontree.Node, format string, args ...any) {
	p.faults = append(p.faults, jsontree.ErrorAt(p.body, n.Start, n.Path(), fmt.Sprintf(format, args...)))
}

// failKey reports a fault of the key that n is the value of.
func (p *parser) failKey(n *jsontree.Node, format string, args ...any) {
	p.faults = append(p.faults, jsontree.ErrorAt(p.body, n.KeyStart, n.Path(), fmt.Sprintf(format, args...)))
}

// members reports whether n is an object that has no other keys than those.
func (p *parser) members(n *jsontree.Node, keys ...string) bool {
	if !p.expect(n, jsontree.Object) {
		return false
	}
	for _, m := range n.Items {
		if !slices.Contains(keys, m.Key) {
			p.failKey(m, "not known here; known are %s", strings.Join(keys, ", "))
		}
	}
	return true
}

func (p *parser) expect(n *jsontree.Node, want jsontree.Kind) bool {
	if n.Kind != want {
		p.fail(n, "must be %s, is %s", want, n.Kind)
	}
	return n.Kind == want
}

func (p *parser) readTemplate(root *jsontree.Node) {
	if !p.members(root, "Parameters", "Mappings", "Resources", "DeviceConfiguration") {
		return
	}
	if n := root.Get("Parameters"); n != nil {
		p.readParameters(n)
	}
	if n := root.Get("Mappings"); n != nil {
		p.readMappings(n)
	}
	if n := root.Get("Resources"); n != nil {
		p.readResources(n)
	} else {
		p.fail(root, "has no Resources")
	}
	if n := root.Get("DeviceConfiguration"); n != nil {
		p.template.configuration = p.texts(n, nil)
	}
}

func (p *parser) readParameters(n *jsontree.Node) {
	p.template.parameters = make(map[string]parameter)
	if !p.expect(n, jsontree.Object) {
		return
	}
	for _, m := range n.Items {
		if length := utf8.RuneCountInString(m.Key); length == 0 || length > MaxParameterName {
			p.failKey(m, "a parameter's name must have 1 to %d characters, has %d", MaxParameterName, length)
		}
		p.template.parameters[m.Key] = p.readParameter(m)
	}
}

func (p *parser) readParameter(n *jsontree.Node) (declared parameter) {
	if !p.members(n, "Type", "Default") {
		return declared
	}
	switch kind := n.Get("Type"); {
	case kind == nil:
		p.fail(n, `has no Type; the only one is "String"`)
	case kind.Text != "String" || kind.Kind != jsontree.String:
		p.fail(kind, `the only Type is "String"`)
	}
	if d := n.Get("Default"); d != nil && p.expect(d, jsontree.String) {
		if length := utf8.RuneCountInString(d.Text); length > MaxParameterValue {
			p.fail(d, "has %d characters, %d are allowed", length, MaxParameterValue)
		}
		declared.fallback = &d.Text
	}
	return declared
}

func (p *parser) readMappings(n *jsontree.Node) {
	p.mappings = make(mappings)
	if !p.expect(n, jsontree.Object) {
		return
	}
	for _, table := range n.Items {
		rows := make(map[string]map[string]string)
		p.mappings[table.Key] = rows
		if !p.expect(table, jsontree.Object) {
			continue
		}
		for _, row := range table.Items {
			rows[row.Key] = p.readRow(row)
		}
	}
}

func (p *parser) readRow(n *jsontree.Node) map[string]string {
	values := make(map[string]string)
	if !p.expect(n, jsontree.Object) {
		return values
	}
	for _, m := range n.Items {
		switch {
		case isFunction(n) || isFunction(m):
			p.fail(m, "no functions are allowed inside Mappings")
		case p.expect(m, jsontree.String):
			values[m.Key] = m.Text
		}
	}
	return values
}

// A constraint makes an expression reject values that it must not have.
type constraint func(expression) expression

func obeying(r rule) constraint {
	return func(e expression) expression { return checked{e, r} }
}

func oneOf(what string, values ...string) constraint {
	return func(e expression) expression { return enum{e, what, values} }
}

// value reads a string or function with what it must obey, and looks for
// faults that do not depend on parameters.
func (p *parser) value(n *jsontree.Node, c constraint) expression {
	e := p.expression(n)
	if c != nil {
		e = c(e)
	}
	_, err := e.eval(&scope{parsing: true})
	p.failEarly(n, err)
	return e
}

// optional reads a member of n; absent is nil.
func (p *parser) optional(n *jsontree.Node, key string, c constraint) expression {
	m := n.Get(key)
	if m == nil {
		return nil
	}
	return p.value(m, c)
}

// texts reads a flat object of strings and functions.
func (p *parser) texts(n *jsontree.Node, c constraint) map[string]expression {
	if !p.expect(n, jsontree.Object) {
		return nil
	}
	values := make(map[string]expression, len(n.Items))
	for _, m := range n.Items {
		if m.Kind == jsontree.Object && !isFunction(m) {
			p.fail(m, "must be a string or a function; nested objects are not allowed")
			continue
		}
		values[m.Key] = p.value(m, c)
	}
	return values
}

// failEarly reports the error of an evaluation while parsing. A reference that
// has no value yet is none.
func (p *parser) failEarly(n *jsontree.Node, err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		p.fail(n, "%s", e.Message)
	}
}
