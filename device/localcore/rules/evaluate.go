package rules

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// A scope is what an expression sees: a message, and the object whose members are its attributes.
type scope struct {
	service *Service
	message *Message
	version string
	trace   string
	payload any // of the message, or an element of a nested SELECT; undefined if it is no JSON
}

type expression func(*scope) any // returns its value for a message

func literal(v any) expression { return func(*scope) any { return v } }

func payload(s *scope) any { return s.payload }

func member(of expression, name string) expression {
	return func(s *scope) any { return get(of(s), name) }
}

// operation is what a function or operator makes of its operands.
func operation(f any, operands ...expression) expression {
	return func(s *scope) any { return call(f, s, s.all(operands)) }
}

// maxResult is the greatest length of the JSON text that a function, an operator or a nested SELECT
// gives: that of a message. AWS documents none.
const maxResult = 128 << 10

// checkSize ends an evaluation whose values would take memory without bound.
func checkSize(size int64) {
	if size > maxResult {
		panic(failure{fmt.Errorf("a value would have %d bytes; %d are allowed, as in a message", size, maxResult)})
	}
}

func (s *scope) all(expressions []expression) []any {
	out := make([]any, len(expressions))
	for i, e := range expressions {
		out[i] = e(s)
	}
	return out
}

// run evaluates a statement: ok is false if WHERE is not true.
func (st *statement) run(s *scope) (payload []byte, ok bool, err error) {
	defer catch(&err)
	if st.where != nil && st.where(s) != true {
		return nil, false, nil
	}
	star := slices.ContainsFunc(st.items, func(i item) bool { return i.value == nil })
	if star && len(st.items) == 1 {
		return s.message.Payload, true, nil
	}
	if _, isObject := s.payload.(object); star && !isObject && len(s.message.Payload) > 0 {
		return nil, true, errors.New("SELECT * with more items needs a payload that is a JSON object")
	}
	return encode(st.project(s)), true, nil
}

// project returns what the SELECT list makes of the scope.
func (st *statement) project(s *scope) any {
	out := object{}
	for _, i := range st.items {
		v := s.payload
		if i.value != nil {
			v = i.value(s)
		}
		if st.value {
			return v
		}
		if i.value == nil {
			payload, _ := v.(object)
			maps.Copy(out, payload)
		} else if last := len(i.name) - 1; v != undefined {
			to := out
			for _, name := range i.name[:last] { // objects on the way are copied: they may belong to the payload
				below := object{}
				old, _ := to[name].(object)
				maps.Copy(below, old)
				to[name], to = below, below
			}
			to[i.name[last]] = v
		}
	}
	return out
}

// nested runs a SELECT over the elements of an array, or over one object.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-nested-queries.html
func nested(st *statement) expression {
	return func(s *scope) any {
		one := func(element any) any {
			inner := *s
			inner.payload = element
			if st.where != nil && st.where(&inner) != true {
				return undefined
			}
			return st.project(&inner)
		}
		switch source := st.source(s).(type) {
		case object:
			return one(source)
		case []any:
			out, size := []any{}, 0
			for _, element := range source {
				if v := one(element); v != undefined {
					size += len(encode(v))
					checkSize(int64(size))
					out = append(out, v)
				}
			}
			return out
		}
		return undefined
	}
}

// operators are the binary ones, as functions of their operands. One of a higher level binds more
// strongly; NOT stands between AND and the comparisons.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-operators.html
var operators = map[string]struct {
	level int
	apply any
}{
	"OR":  {1, func(a, b bool) any { return a || b }},
	"AND": {2, func(a, b bool) any { return a && b }},
	"=":   {4, equal},
	"<>":  {4, func(a, b any) any { return call(not, nil, []any{equal(a, b)}) }},
	"<":   {4, func(a, b *big.Rat) any { return a.Cmp(b) < 0 }},
	"<=":  {4, func(a, b *big.Rat) any { return a.Cmp(b) <= 0 }},
	">":   {4, func(a, b *big.Rat) any { return a.Cmp(b) > 0 }},
	">=":  {4, func(a, b *big.Rat) any { return a.Cmp(b) >= 0 }},
	"LIKE": {4, func(subject string, pattern any) any { // as in ANSI SQL: % stands for any characters, _ for one
		text, ok := pattern.(string)
		if !ok {
			return undefined
		}
		re := strings.NewReplacer("%", ".*", "_", ".").Replace(regexp.QuoteMeta(text))
		matched, _ := regexp.MatchString("(?s)^"+re+"$", subject)
		return matched
	}},
	"IN": {4, func(v, list any) any {
		elements, ok := list.([]any)
		if !ok || v == undefined {
			return undefined
		}
		return slices.ContainsFunc(elements, func(element any) bool { return same(v, element) })
	}},
	"+": {5, func(a, b any) any {
		_, leftText := a.(string)
		_, rightText := b.(string)
		if leftText || rightText {
			return call(func(a, b string) any { return a + b }, nil, []any{a, b})
		}
		return call(func(a, b *big.Rat) any { return a.Add(a, b) }, nil, []any{a, b})
	}},
	"-": {5, subtract},
	"*": {6, func(a, b *big.Rat) any { return a.Mul(a, b) }},
	"/": {6, func(a, b any) any { // of integers without the remainder
		x, okX := toNumber(a)
		y, okY := toNumber(b)
		if !okX || !okY || y.Sign() == 0 {
			return undefined
		}
		_, leftText := a.(string)
		_, rightText := b.(string)
		quotient := new(big.Rat).Quo(x, y)
		if !leftText && !rightText && x.IsInt() && y.IsInt() {
			return truncated(quotient)
		}
		return quotient
	}},
	"%": {6, modulo},
}

const notLevel, tightest = 3, 7

func not(v bool) any { return !v }

func subtract(a, b *big.Rat) any { return a.Sub(a, b) }

func modulo(a, b *big.Rat) any {
	if b.Sign() == 0 {
		return undefined
	}
	whole := truncated(new(big.Rat).Quo(a, b))
	return a.Sub(a, whole.Mul(whole, b))
}

func truncated(r *big.Rat) *big.Rat {
	return new(big.Rat).SetInt(new(big.Int).Quo(r.Num(), r.Denom()))
}
