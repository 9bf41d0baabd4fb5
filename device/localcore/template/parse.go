package template

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Parse reads a fleet provisioning template and finds what is wrong with it
// whatever the parameters will be. The error is [SyntaxErrors], of which
// [errors.As] also finds the first *[SyntaxError].
func Parse(body []byte) (*Template, error) { return parse(body, true) }

// ParseBody is [Parse] for the template body of RegisterThing over HTTPS, which
// may give the certificate as a signing request or in PEM form too.
func ParseBody(body []byte) (*Template, error) { return parse(body, false) }

func parse(body []byte, fleet bool) (*Template, error) {
	p := &parser{body: body, fleet: fleet, template: &Template{}}
	if p.checkText() {
		if root := readJSON(body, p.failAt); root != nil && len(p.faults) == 0 {
			p.readTemplate(root)
		}
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

func (p *parser) failAt(offset int, path, reason string) {
	line, column := position(p.body, offset)
	p.faults = append(p.faults, &SyntaxError{Line: line, Column: column, Path: path, Reason: reason})
}

func (p *parser) fail(n *node, format string, args ...any) {
	p.failAt(n.start, n.path(), fmt.Sprintf(format, args...))
}

// failKey reports a fault of the key that n is the value of.
func (p *parser) failKey(n *node, format string, args ...any) {
	p.failAt(n.keyAt, n.path(), fmt.Sprintf(format, args...))
}

func (p *parser) checkText() bool {
	if n := utf8.RuneCount(p.body); n > MaxBody {
		p.failAt(0, "$", fmt.Sprintf("the template has %d characters, %d are allowed", n, MaxBody))
	}
	if !utf8.Valid(p.body) {
		at := bytes.IndexFunc(p.body, func(r rune) bool { return r == utf8.RuneError })
		p.failAt(at, "$", "not UTF-8")
	}
	return len(p.faults) == 0
}

// members reports whether n is an object that has no other keys than those.
func (p *parser) members(n *node, keys ...string) bool {
	if !p.expect(n, object) {
		return false
	}
	for _, m := range n.items {
		if !slices.Contains(keys, m.key) {
			p.failKey(m, "not known here; known are %s", strings.Join(keys, ", "))
		}
	}
	return true
}

func (p *parser) expect(n *node, want kind) bool {
	if n.kind != want {
		p.fail(n, "must be %s, is %s", want, n.kind)
	}
	return n.kind == want
}

func (p *parser) readTemplate(root *node) {
	if !p.members(root, "Parameters", "Mappings", "Resources", "DeviceConfiguration") {
		return
	}
	if n := root.get("Parameters"); n != nil {
		p.readParameters(n)
	}
	if n := root.get("Mappings"); n != nil {
		p.readMappings(n)
	}
	if n := root.get("Resources"); n != nil {
		p.readResources(n)
	} else {
		p.fail(root, "has no Resources")
	}
	if n := root.get("DeviceConfiguration"); n != nil {
		p.template.configuration = p.texts(n, nil)
	}
}

func (p *parser) readParameters(n *node) {
	p.template.parameters = make(map[string]parameter)
	if !p.expect(n, object) {
		return
	}
	for _, m := range n.items {
		if length := utf8.RuneCountInString(m.key); length == 0 || length > MaxParameterName {
			p.failKey(m, "a parameter's name must have 1 to %d characters, has %d", MaxParameterName, length)
		}
		p.template.parameters[m.key] = p.readParameter(m)
	}
}

func (p *parser) readParameter(n *node) (declared parameter) {
	if !p.members(n, "Type", "Default") {
		return declared
	}
	switch kind := n.get("Type"); {
	case kind == nil:
		p.fail(n, `has no Type; the only one is "String"`)
	case kind.text != "String" || kind.kind != text:
		p.fail(kind, `the only Type is "String"`)
	}
	if d := n.get("Default"); d != nil && p.expect(d, text) {
		if length := utf8.RuneCountInString(d.text); length > MaxParameterValue {
			p.fail(d, "has %d characters, %d are allowed", length, MaxParameterValue)
		}
		declared.fallback = &d.text
	}
	return declared
}

func (p *parser) readMappings(n *node) {
	p.mappings = make(mappings)
	if !p.expect(n, object) {
		return
	}
	for _, table := range n.items {
		rows := make(map[string]map[string]string)
		p.mappings[table.key] = rows
		if !p.expect(table, object) {
			continue
		}
		for _, row := range table.items {
			rows[row.key] = p.readRow(row)
		}
	}
}

func (p *parser) readRow(n *node) map[string]string {
	values := make(map[string]string)
	if !p.expect(n, object) {
		return values
	}
	for _, m := range n.items {
		switch {
		case isFunction(n) || isFunction(m):
			p.fail(m, "no functions are allowed inside Mappings")
		case p.expect(m, text):
			values[m.key] = m.text
		}
	}
	return values
}

// A constraint makes an expression refuse what it must not give.
type constraint func(expression) expression

func obeying(r rule) constraint {
	return func(e expression) expression { return checked{e, r} }
}

func oneOf(what string, values ...string) constraint {
	return func(e expression) expression { return enum{e, what, values} }
}

// value reads a string or function with what it must obey, and looks for
// faults that do not depend on parameters.
func (p *parser) value(n *node, c constraint) expression {
	e := p.expression(n)
	if c != nil {
		e = c(e)
	}
	_, err := e.eval(&scope{parsing: true})
	p.failEarly(n, err)
	return e
}

// optional reads a member of n; absent is nil.
func (p *parser) optional(n *node, key string, c constraint) expression {
	m := n.get(key)
	if m == nil {
		return nil
	}
	return p.value(m, c)
}

// texts reads a flat object of strings and functions.
func (p *parser) texts(n *node, c constraint) map[string]expression {
	if !p.expect(n, object) {
		return nil
	}
	values := make(map[string]expression, len(n.items))
	for _, m := range n.items {
		if m.kind == object && !isFunction(m) {
			p.fail(m, "must be a string or a function; nested objects are not allowed")
			continue
		}
		values[m.key] = p.value(m, c)
	}
	return values
}

// failEarly reports the error of an evaluation while parsing. A reference that
// has no value yet is none.
func (p *parser) failEarly(n *node, err error) {
	if e, ok := errors.AsType[*Error](err); ok {
		p.fail(n, "%s", e.Message)
	}
}
