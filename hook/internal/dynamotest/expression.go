package dynamotest

import (
	"fmt"
	"regexp"
	"strings"
)

// A parser evaluates an expression while it reads it.
type parser struct {
	tokens []string
	item   map[string]string
	values map[string]string
}

var token = regexp.MustCompile(`:?\w+|[(),=]|\S`)

// condition tells whether a condition expression holds for an item; an empty
// one does.
func condition(expression string, item, values map[string]string) (holds bool, err error) {
	if expression == "" {
		return true, nil
	}
	p := &parser{tokens: token.FindAllString(expression, -1), item: item, values: values}
	return evaluated(p, p.or)
}

// update changes item as a SET or REMOVE expression says.
func update(expression string, item, values map[string]string) error {
	p := &parser{tokens: token.FindAllString(expression, -1), item: item, values: values}
	_, err := evaluated(p, func() bool { p.update(); return true })
	return err
}

// A syntaxError is what a parser panics with.
type syntaxError string

func evaluated(p *parser, read func() bool) (result bool, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("expression: %v", reason.(syntaxError))
		}
	}()
	result = read()
	if len(p.tokens) > 0 {
		panic(syntaxError("unexpected " + p.tokens[0]))
	}
	return result, nil
}

func (p *parser) next() string {
	if len(p.tokens) == 0 {
		panic(syntaxError("unexpected end"))
	}
	first := p.tokens[0]
	p.tokens = p.tokens[1:]
	return first
}

func (p *parser) expect(want string) {
	if got := p.next(); got != want {
		panic(syntaxError("want " + want + ", got " + got))
	}
}

func (p *parser) accept(word string) bool {
	if len(p.tokens) == 0 || !strings.EqualFold(p.tokens[0], word) {
		return false
	}
	p.next()
	return true
}

func (p *parser) or() bool {
	result := p.and()
	for p.accept("OR") {
		right := p.and()
		result = result || right
	}
	return result
}

func (p *parser) and() bool {
	result := p.term()
	for p.accept("AND") {
		right := p.term()
		result = result && right
	}
	return result
}

func (p *parser) term() bool {
	if p.accept("(") {
		result := p.or()
		p.expect(")")
		return result
	}
	switch name := p.next(); name {
	case "attribute_exists", "attribute_not_exists":
		p.expect("(")
		_, exists := p.item[p.next()]
		p.expect(")")
		return exists == (name == "attribute_exists")
	default:
		p.expect("=")
		left, exists := p.item[name]
		return left == p.value(p.next()) && exists
	}
}

func (p *parser) value(placeholder string) string {
	value, ok := p.values[placeholder]
	if !ok {
		panic(syntaxError("no value for " + placeholder))
	}
	return value
}

func (p *parser) update() {
	remove := p.accept("REMOVE")
	if !remove {
		p.expect("SET")
	}
	for {
		name := p.next()
		if remove {
			delete(p.item, name)
		} else {
			p.expect("=")
			p.item[name] = p.operand()
		}
		if !p.accept(",") {
			return
		}
	}
}

func (p *parser) operand() string {
	if !p.accept("if_not_exists") {
		return p.value(p.next())
	}
	p.expect("(")
	old, exists := p.item[p.next()]
	p.expect(",")
	fallback := p.value(p.next())
	p.expect(")")
	if exists {
		return old
	}
	return fallback
}
