package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxDepth bounds how deeply expressions nest.
const maxDepth = 64

// An expression returns its value for a message.
type expression func(*scope) any

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

// An item is one of the SELECT list.
type item struct {
	star  bool
	value expression
	name  []string // the path of the alias
}

// A parser reads tokens of text.
type parser struct {
	text  string
	pos   int // behind the current token
	kind  kind
	token string // of names as written, of strings the content
	start int    // of the current token
	depth int
}

type kind byte

const (
	kindEnd kind = iota
	kindName
	kindNumber
	kindText
	kindSymbol
)

// A syntaxError unwinds the parser.
type syntaxError string

func (p *parser) fail(format string, args ...any) {
	panic(syntaxError(fmt.Sprintf("at character %d: ", utf8.RuneCountInString(p.text[:p.start])+1) + fmt.Sprintf(format, args...)))
}

func catch(err *error) {
	if r := recover(); r != nil {
		e, ok := r.(syntaxError)
		if !ok {
			panic(r)
		}
		*err = fmt.Errorf("%s", string(e))
	}
}

// parseStatement reads a whole SQL statement.
func parseStatement(sql string) (s *statement, err error) {
	defer catch(&err)
	p := &parser{text: sql}
	p.next()
	s = p.selection(false)
	if p.kind != kindEnd {
		p.fail("%q is not expected; SET, comments and other clauses are not emulated", p.token)
	}
	return s, nil
}

// parseTemplate reads a text with substitution templates.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-substitution-templates.html
func parseTemplate(template string) (parts []expression, err error) {
	defer catch(&err)
	p := &parser{text: template}
	for {
		i := strings.Index(p.text[p.pos:], "${")
		if i < 0 {
			break
		}
		if i > 0 {
			parts = append(parts, literal(p.text[p.pos:p.pos+i]))
		}
		p.pos += i + len("${")
		p.next()
		parts = append(parts, p.expression())
		if p.token != "}" || p.kind != kindSymbol {
			p.fail("the substitution template needs a closing brace")
		}
	}
	if rest := p.text[p.pos:]; rest != "" {
		parts = append(parts, literal(rest))
	}
	return parts, nil
}

func literal(v any) expression { return func(*scope) any { return v } }

var symbols = []string{"<>", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")", "[", "]", "{", "}", ",", ".", ":"}

// next reads a token.
func (p *parser) next() {
	p.pos += len(p.text[p.pos:]) - len(strings.TrimLeftFunc(p.text[p.pos:], unicode.IsSpace))
	p.start = p.pos
	rest := p.text[p.pos:]
	if rest == "" {
		p.kind, p.token = kindEnd, "the end"
		return
	}
	switch c := rest[0]; {
	case c == '\'' || c == '"':
		p.quoted(c)
		return
	case isDigit(c):
		p.kind, p.token = kindNumber, rest[:scanNumber(rest)]
	case c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z':
		n := strings.IndexFunc(rest, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if n < 0 {
			n = len(rest)
		}
		p.kind, p.token = kindName, rest[:n]
	default:
		i := slices.IndexFunc(symbols, func(s string) bool { return strings.HasPrefix(rest, s) })
		if i < 0 {
			p.fail("%q is no part of the SQL", rest[:1])
		}
		p.kind, p.token = kindSymbol, symbols[i]
	}
	p.pos += len(p.token)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func scanNumber(s string) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	if n+1 < len(s) && s[n] == '.' && isDigit(s[n+1]) {
		for n++; n < len(s) && isDigit(s[n]); n++ {
		}
	}
	if n < len(s) && s[n]|0x20 == 'e' {
		m := n + 1
		if m < len(s) && (s[m] == '-' || s[m] == '+') {
			m++
		}
		if m < len(s) && isDigit(s[m]) {
			for n = m; n < len(s) && isDigit(s[n]); n++ {
			}
		}
	}
	return n
}

// quoted reads a string. The quote itself is written twice in it.
func (p *parser) quoted(quote byte) {
	var content strings.Builder
	for i := p.pos + 1; i < len(p.text); i++ {
		switch {
		case p.text[i] != quote:
			content.WriteByte(p.text[i])
		case i+1 < len(p.text) && p.text[i+1] == quote:
			content.WriteByte(quote)
			i++
		default:
			p.kind, p.token, p.pos = kindText, content.String(), i+1
			return
		}
	}
	p.fail("the string is not closed")
}

// is reports whether the current token is this symbol or keyword.
func (p *parser) is(token string) bool {
	return p.kind == kindSymbol && p.token == token || p.kind == kindName && strings.EqualFold(p.token, token)
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

// selection reads a SELECT, nested or not.
func (p *parser) selection(nested bool) *statement {
	p.expect("SELECT")
	s := &statement{}
	if p.is("VALUE") {
		mark := *p
		p.next()
		if s.value = !(p.is(",") || p.is(".") || p.is("AS") || p.is("FROM") || p.kind == kindEnd); !s.value {
			*p = mark // an attribute of this name
		}
	}
	for first := true; first || p.accept(","); first = false {
		s.items = append(s.items, p.item(s.value))
	}
	if s.value && len(s.items) > 1 {
		p.fail("SELECT VALUE takes one item")
	}
	if nested {
		p.expect("FROM")
		s.source = p.postfix()
	} else if p.accept("FROM") {
		if p.kind != kindText {
			p.fail("the topic filter must be in single quotes")
		}
		if s.filter = p.token; !validFilter(s.filter) {
			p.fail("%q is no topic filter", s.filter)
		}
		p.next()
	}
	if p.accept("WHERE") {
		s.where = p.expression()
	}
	return s
}

func (p *parser) item(value bool) (i item) {
	if p.accept("*") {
		return item{star: true}
	}
	first := *p
	i.value = p.expression()
	if p.accept("AS") {
		for first := true; first || p.accept("."); first = false {
			if p.kind != kindName && p.kind != kindText {
				p.fail("%q is no alias", p.token)
			}
			i.name = append(i.name, p.token)
			p.next()
		}
		return i
	}
	// Without an alias only a path of attributes has a name, its last one.
	words := strings.Split(strings.TrimSpace(p.text[first.start:p.start]), ".")
	last := words[len(words)-1]
	isPath := !slices.ContainsFunc(words, func(w string) bool { return w == "" || strings.ContainsFunc(w, notInName) || isDigit(w[0]) })
	if !value && !isPath {
		p.fail("an expression needs an alias: AS name")
	}
	i.name = []string{last}
	return i
}

func notInName(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }

// validFilter checks the form of a topic filter.
func validFilter(filter string) bool {
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if strings.Contains(level, "#") && (level != "#" || i != len(levels)-1) || strings.Contains(level, "+") && level != "+" {
			return false
		}
	}
	return filter != "" && !strings.Contains(filter, "\x00") && !strings.HasPrefix(filter, "$aws/rules/")
}

// expression reads OR, the weakest operator.
func (p *parser) expression() expression {
	if p.depth++; p.depth > maxDepth {
		p.fail("the expression nests more than %d levels", maxDepth)
	}
	defer func() { p.depth-- }()
	left := p.conjunction()
	for p.accept("OR") {
		left = logical(left, p.conjunction(), func(a, b bool) bool { return a || b })
	}
	return left
}

func (p *parser) conjunction() expression {
	left := p.negation()
	for p.accept("AND") {
		left = logical(left, p.negation(), func(a, b bool) bool { return a && b })
	}
	return left
}

func (p *parser) negation() expression {
	negations := 0
	for p.accept("NOT") {
		negations++
	}
	e := p.comparison()
	for range negations {
		e = not(e)
	}
	return e
}

var comparisons = []string{"=", "<>", "<=", ">=", "<", ">", "LIKE", "IN"}

func (p *parser) comparison() expression {
	left := p.sum()
	for {
		if p.is("NOT") { // NOT LIKE, NOT IN
			p.next()
			if !p.is("LIKE") && !p.is("IN") {
				p.fail("LIKE or IN is expected instead of %q", p.token)
			}
			operator := strings.ToUpper(p.token)
			p.next()
			left = not(compare(operator, left, p.operand(operator)))
			continue
		}
		i := slices.IndexFunc(comparisons, p.is)
		if i < 0 {
			return left
		}
		p.next()
		left = compare(comparisons[i], left, p.operand(comparisons[i]))
	}
}

// operand reads the right side of a comparison; that of IN may be a list in
// parentheses.
func (p *parser) operand(operator string) expression {
	if operator == "IN" && p.accept("(") {
		if p.is("SELECT") {
			e := nested(p.selection(true))
			p.expect(")")
			return e
		}
		return p.list(")")
	}
	return p.sum()
}

func (p *parser) sum() expression {
	left := p.product()
	for p.is("+") || p.is("-") {
		operator := p.token
		p.next()
		left = arithmetic(operator, left, p.product())
	}
	return left
}

func (p *parser) product() expression {
	left := p.unary()
	for p.is("*") || p.is("/") || p.is("%") {
		operator := p.token
		p.next()
		left = arithmetic(operator, left, p.unary())
	}
	return left
}

func (p *parser) unary() expression {
	negative := false
	for p.accept("-") {
		negative = !negative
	}
	e := p.postfix()
	if negative {
		return arithmetic("-", literal(integer(0)), e)
	}
	return e
}

func (p *parser) postfix() expression {
	e := p.primary()
	for p.accept(".") {
		if p.kind != kindName {
			p.fail("%q is no attribute; the get function reads others", p.token)
		}
		e = member(e, p.token)
		p.next()
	}
	return e
}

// reserved words are no attributes.
var reserved = []string{"SELECT", "FROM", "WHERE", "AND", "OR", "NOT", "LIKE", "IN", "WHEN", "THEN", "ELSE", "END", "AS"}

func (p *parser) primary() expression {
	token := p.token
	switch p.kind {
	case kindText:
		p.next()
		return literal(token)
	case kindNumber:
		p.next()
		return literal(parseNumber(token))
	case kindSymbol:
		return p.bracketed()
	case kindEnd:
		p.fail("an expression is expected")
	}
	if i := slices.IndexFunc(reserved, p.is); i >= 0 {
		p.fail("an expression is expected instead of %s", reserved[i])
	}
	p.next()
	switch strings.ToUpper(token) {
	case "NULL":
		return literal(nil)
	case "TRUE":
		return literal(true)
	case "FALSE":
		return literal(false)
	case "CASE":
		return p.cases()
	}
	if p.is("(") {
		return p.call(token)
	}
	return member(func(s *scope) any { return s.payload }, token)
}

// bracketed reads parentheses, an array or an object.
func (p *parser) bracketed() expression {
	switch {
	case p.accept("("):
		var e expression
		if p.is("SELECT") {
			if p.depth++; p.depth > maxDepth {
				p.fail("the statement nests more than %d levels", maxDepth)
			}
			e = nested(p.selection(true))
			p.depth--
		} else {
			e = p.expression()
		}
		p.expect(")")
		return e
	case p.accept("["):
		return p.list("]")
	case p.accept("{"):
		members := map[string]expression{}
		for !p.accept("}") {
			if len(members) > 0 {
				p.expect(",")
			}
			key := p.token
			if p.kind != kindText {
				p.fail("a key in quotes is expected instead of %q", key)
			}
			p.next()
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
	p.fail("%q is not expected", p.token)
	return nil
}

// list reads expressions up to the closing symbol, as an array.
func (p *parser) list(closing string) expression {
	var elements []expression
	for !p.accept(closing) {
		if len(elements) > 0 {
			p.expect(",")
		}
		elements = append(elements, p.expression())
	}
	return func(s *scope) any { return s.all(elements) }
}

// cases reads a CASE statement.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-case.html
func (p *parser) cases() expression {
	if p.is("WHEN") {
		p.fail("CASE needs an expression before WHEN")
	}
	value := p.expression()
	var when, then []expression
	for p.accept("WHEN") {
		when = append(when, p.expression())
		p.expect("THEN")
		then = append(then, p.expression())
	}
	if len(when) == 0 {
		p.fail("CASE needs a WHEN")
	}
	otherwise := literal(undefined)
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

// call reads the arguments of a function. A function that is not emulated is an
// error here, and so never a difference that nobody sees.
func (p *parser) call(function string) expression {
	lower := strings.ToLower(function)
	p.expect("(")
	if lower == "cast" {
		value := p.expression()
		p.expect("AS")
		convert, ok := casts[strings.ToLower(p.token)]
		if !ok {
			p.fail("%q is no type to cast to", p.token)
		}
		p.next()
		p.expect(")")
		return func(s *scope) any { return convert(value(s)) }
	}
	f, ok := functions[lower]
	if !ok {
		p.fail("function %s is not emulated; these are: cast, %s", function, strings.Join(slices.Sorted(maps.Keys(functions)), ", "))
	}
	var arguments []expression
	if lower == "encode" && p.accept("*") {
		arguments = append(arguments, func(s *scope) any { return string(s.message.Payload) })
	}
	for !p.accept(")") {
		if len(arguments) > 0 {
			p.expect(",")
		}
		arguments = append(arguments, p.expression())
	}
	if n := len(arguments); n < f.least || n > f.most {
		p.fail("function %s takes %d to %d arguments, not %d", function, f.least, f.most, n)
	}
	return func(s *scope) any { return f.run(s, s.all(arguments)) }
}
