package rules

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

const maxDepth = 96 // bounds how deeply expressions nest, operands counted

// A statement is a parsed SQL statement.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-reference.html
type statement struct {
	items  []item
	value  bool       // SELECT VALUE
	source expression // of a nested SELECT
	filter string     // the topic filter, empty without FROM
	where  expression // nil without WHERE
}

// An item is one of the SELECT list: everything if value is nil.
type item struct {
	value expression
	name  []string // the path of the alias
}

type parser struct {
	what, text string // what it is, for errors
	version    string // of the SQL; see https://docs.aws.amazon.com/iot/latest/developerguide/iot-rule-sql-version.html
	start, pos int    // of the current token, and behind it
	kind       kind
	token      string // of strings the content
	depth      int
}

type kind int // of a token: its group in tokenPattern

const (
	end kind = iota
	number
	name
	text
	symbol
)

var tokenPattern = regexp.MustCompile(`^(?:(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|([A-Za-z_][\pL\pN_]*)|('(?:[^']|'')*'|"(?:[^"]|"")*")|(<>|<=|>=|[=<>+\-*/%()\[\]{},.:]))`)

func (p *parser) fail(format string, args ...any) {
	fail(SQLParse, "%s cannot be parsed at character %d: %s.", p.what, utf8.RuneCountInString(p.text[:p.start])+1, fmt.Sprintf(format, args...))
}

// next reads a token. A quote in a string is written twice.
func (p *parser) next() {
	rest := strings.TrimLeft(p.text[p.pos:], " \t\r\n")
	p.start = len(p.text) - len(rest)
	if rest == "" {
		p.pos, p.kind, p.token = p.start, end, "the end"
		return
	}
	m := tokenPattern.FindStringSubmatch(rest)
	if m == nil {
		p.fail("%.10q is no part of the SQL", rest)
	}
	p.pos, p.token = p.start+len(m[0]), m[0]
	p.kind = kind(1 + slices.IndexFunc(m[1:], func(group string) bool { return group != "" }))
	if p.kind == text {
		quote := m[0][:1]
		p.token = strings.ReplaceAll(m[0][1:len(m[0])-1], quote+quote, quote)
	}
}

// is reports whether the current token is this symbol or keyword.
func (p *parser) is(token string) bool {
	return p.kind == symbol && p.token == token || p.kind == name && strings.EqualFold(p.token, token)
}

// accept passes over a symbol or keyword, if it is there.
func (p *parser) accept(token string) bool {
	if !p.is(token) {
		return false
	}
	p.next()
	return true
}

func (p *parser) expect(token string) {
	if !p.accept(token) {
		p.fail("%s is expected instead of %q", token, p.token)
	}
}

// take passes over a token of one of these kinds and returns it.
func (p *parser) take(what string, kinds ...kind) string {
	token := p.token
	if !slices.Contains(kinds, p.kind) {
		p.fail("%s is expected instead of %q", what, token)
	}
	p.next()
	return token
}

func parseStatement(sql, version string) *statement {
	p := &parser{what: "The SQL", text: sql, version: version}
	p.next()
	s := p.selection(false)
	if p.kind != end {
		p.fail("%q is not expected; SET, comments and other clauses are not emulated", p.token)
	}
	return s
}

// parseTemplate reads a text with substitution templates.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-substitution-templates.html
func parseTemplate(template, version string) (parts []expression) {
	for p := (&parser{what: "The substitution template in " + strconv.Quote(template), text: template, version: version}); ; {
		before, _, found := strings.Cut(p.text[p.pos:], "${")
		parts = append(parts, literal(before))
		if !found {
			return parts
		}
		p.pos += len(before) + len("${")
		p.next()
		parts = append(parts, p.expression())
		if !p.is("}") { // accepting it would read a token of the text behind
			p.fail("the substitution template needs a closing brace")
		}
	}
}

func (p *parser) selection(nested bool) *statement {
	p.expect("SELECT")
	s := &statement{}
	if p.is("VALUE") {
		mark := *p
		p.next()
		operator := slices.ContainsFunc([]string{"AS", "FROM", "WHERE", "AND", "OR", "LIKE", "IN"}, p.is)
		if s.value = p.kind != end && p.kind != symbol && !operator || slices.ContainsFunc([]string{"(", "[", "{", "*"}, p.is); !s.value {
			*p = mark // an attribute of this name
		}
	}
	for first := true; first || p.accept(","); first = false {
		s.items = append(s.items, p.item(s.value))
	}
	if s.value && len(s.items) > 1 {
		p.fail("SELECT VALUE takes one item")
	}
	if (nested || s.value) && p.version != latest {
		p.fail("SELECT VALUE and nested queries need awsIotSqlVersion %s", latest)
	}
	if nested {
		p.expect("FROM")
		s.source = p.postfix()
	} else if p.accept("FROM") {
		if s.filter = p.take("a topic filter in single quotes", text); s.filter == "" || !awsiot.ValidFilter(s.filter) || strings.Contains(s.filter, "\x00") || strings.HasPrefix(s.filter, awsiot.IngestPrefix) {
			p.fail("%q is no topic filter", s.filter)
		}
	}
	if p.accept("WHERE") {
		s.where = p.expression()
	}
	return s
}

// attributePath is what has a name without an alias: its last part.
var attributePath = regexp.MustCompile(`^(?:[A-Za-z_][\pL\pN_]*\.)*([A-Za-z_][\pL\pN_]*)$`)

func (p *parser) item(value bool) (i item) {
	start := p.start
	if p.accept("*") {
		if !p.is("AS") {
			return i
		}
		i.value = payload
	} else {
		i.value = p.expression()
	}
	if p.accept("AS") {
		for first := true; first || p.accept("."); first = false {
			i.name = append(i.name, p.take("an alias", name, text))
		}
		return i
	}
	if path := attributePath.FindStringSubmatch(strings.TrimSpace(p.text[start:p.start])); path != nil {
		i.name = path[1:]
	} else if !value {
		p.fail("an expression needs an alias: AS name")
	}
	return i
}

func (p *parser) expression() expression { return p.binary(1) }

// binary reads operators that bind at least so strongly, and their operands.
func (p *parser) binary(least int) expression {
	if p.depth++; p.depth > maxDepth {
		p.fail("the expression nests too deeply")
	}
	defer func() { p.depth-- }()
	var left expression
	switch {
	case least <= notLevel && p.accept("NOT"):
		left = operation(not, p.binary(notLevel))
	case p.accept("-"):
		left = operation(subtract, literal(integer(0)), p.binary(tightest))
	default:
		left = p.postfix()
	}
	for p.kind == symbol || p.kind == name {
		operator, negated := strings.ToUpper(p.token), false
		if operator == "NOT" { // NOT LIKE, NOT IN
			mark := *p
			p.next()
			if operator, negated = strings.ToUpper(p.token), true; operator != "LIKE" && operator != "IN" {
				*p = mark
				return left
			}
		}
		found, ok := operators[operator]
		if !ok || found.level < least {
			return left
		}
		p.next()
		var right expression
		if operator == "IN" && p.accept("(") && !p.is("SELECT") {
			right = p.list(")")
		} else {
			right = p.binary(found.level + 1)
		}
		if left = operation(found.apply, left, right); negated {
			left = operation(not, left)
		}
	}
	return left
}

func (p *parser) postfix() expression {
	e := p.primary()
	for p.accept(".") {
		e = member(e, p.take("an attribute (the get function reads others)", name))
	}
	return e
}

// reserved words are no attributes.
var reserved = []string{"SELECT", "FROM", "WHERE", "AND", "OR", "NOT", "LIKE", "IN", "WHEN", "THEN", "ELSE", "END", "AS"}

var constants = map[string]any{"NULL": nil, "TRUE": true, "FALSE": false}

func (p *parser) primary() expression {
	switch {
	case p.accept("("):
		var e expression
		if p.is("SELECT") {
			e = nested(p.selection(true))
		} else {
			e = p.expression()
		}
		p.expect(")")
		return e
	case p.accept("["):
		return p.list("]")
	case p.accept("{"):
		return p.object()
	case p.kind == text:
		return literal(p.take("", text))
	case p.kind == number:
		return literal(parseNumber(p.take("", number)))
	case slices.ContainsFunc(reserved, p.is):
		p.fail("an expression is expected instead of %s", p.token)
	}
	token := p.take("an expression", name)
	value, constant := constants[strings.ToUpper(token)]
	switch {
	case constant:
		return literal(value)
	case strings.EqualFold(token, "CASE"):
		return p.cases()
	case p.accept("("):
		return p.call(token)
	}
	return member(payload, token)
}

func (p *parser) object() expression {
	members := map[string]expression{}
	for first := true; !p.accept("}"); first = false {
		if !first {
			p.expect(",")
		}
		key := p.take("a key in quotes", text)
		p.expect(":")
		members[key] = p.expression()
	}
	return func(s *scope) any {
		out := object{}
		for key, e := range members {
			out[key] = e(s)
		}
		return out
	}
}

// list reads expressions up to the closing symbol, as an array.
func (p *parser) list(closing string) expression {
	elements := p.expressions(closing)
	return func(s *scope) any { return s.all(elements) }
}

func (p *parser) expressions(closing string) (all []expression) {
	for !p.accept(closing) {
		if len(all) > 0 {
			p.expect(",")
		}
		all = append(all, p.expression())
	}
	return all
}

// cases reads a CASE statement.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-case.html
func (p *parser) cases() expression {
	value, otherwise := p.expression(), literal(undefined)
	var when, then []expression
	for more := true; more; more = p.is("WHEN") {
		p.expect("WHEN")
		when = append(when, p.expression())
		p.expect("THEN")
		then = append(then, p.expression())
	}
	if p.accept("ELSE") {
		otherwise = p.expression()
	}
	p.expect("END")
	return func(s *scope) any {
		v := value(s)
		if v == undefined {
			return undefined
		}
		for i, e := range when {
			if equal(v, e(s)) == true {
				return then[i](s)
			}
		}
		return otherwise(s)
	}
}

// call reads the arguments of a function. A function that is not emulated is an error here, and so
// never a difference that nobody sees.
func (p *parser) call(function string) expression {
	lower := strings.ToLower(function)
	if lower == "cast" {
		value := p.expression()
		p.expect("AS")
		convert, ok := casts[strings.ToLower(p.token)]
		if !ok {
			p.fail("%q is no type to cast to", p.token)
		}
		p.next()
		p.expect(")")
		return operation(convert, value)
	}
	if lower == "encode" && p.version != latest {
		p.fail("function encode needs awsIotSqlVersion %s", latest)
	}
	f, ok := functions[lower]
	if !ok {
		p.fail("function %s is not emulated; these are: cast, %s", function, strings.Join(slices.Sorted(maps.Keys(functions)), ", "))
	}
	var arguments []expression
	whole := map[string]expression{"encode": func(s *scope) any { return string(s.message.Payload) }, "get": payload}[lower]
	if whole != nil && p.accept("*") {
		p.expect(",")
		arguments = append(arguments, whole)
	}
	arguments = append(arguments, p.expressions(")")...)
	if least, most := arity(f); len(arguments) < least || len(arguments) > most {
		p.fail("function %s takes %d to %d arguments, not %d", function, least, most, len(arguments))
	}
	if strings.HasPrefix(lower, "regexp_") {
		pattern, _ := constant(arguments[1]).(string)
		_, err := syntax.Parse(pattern, syntax.Perl)
		if e, ok := errors.AsType[*syntax.Error](err); ok && slices.Contains(ofJava, e.Code) {
			p.fail("%v: such a regular expression is not emulated", e)
		}
	}
	return operation(f, arguments...)
}

// ofJava are the errors of regular expressions that AWS IoT, which has those of Java, may take.
var ofJava = []syntax.ErrorCode{syntax.ErrInvalidPerlOp, syntax.ErrInvalidEscape, syntax.ErrInvalidRepeatOp, syntax.ErrInvalidRepeatSize,
	syntax.ErrInvalidNamedCapture, syntax.ErrInvalidCharRange} // the last two of (?<=a) and \p{Alpha}

// constant returns the value of an expression that reads no message, and nil for others.
func constant(e expression) any {
	defer func() { _ = recover() }() // there is no scope to read
	return e(nil)
}
