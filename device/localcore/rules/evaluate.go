package rules

import (
	"errors"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// A scope is what an expression sees: a message, and the object whose members
// are its attributes.
type scope struct {
	service *Service
	message *Message
	version string
	trace   string
	payload any // of the message, or an element of a nested SELECT; undefined if it is no JSON
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
		} else if v != undefined {
			assign(out, i.name, v)
		}
	}
	return out
}

// assign sets a member at a path. Objects on the way are copied: they may belong
// to the payload.
func assign(to object, path []string, v any) {
	if len(path) == 1 {
		to[path[0]] = v
		return
	}
	old, _ := to[path[0]].(object)
	below := object{}
	maps.Copy(below, old)
	to[path[0]] = below
	assign(below, path[1:], v)
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
		source := st.source(s)
		elements, isArray := source.([]any)
		if !isArray {
			if _, isObject := source.(object); !isObject {
				return undefined
			}
			return one(source)
		}
		out := []any{}
		for _, element := range elements {
			if v := one(element); v != undefined {
				out = append(out, v)
			}
		}
		return out
	}
}

func member(of expression, name string) expression {
	return func(s *scope) any {
		if o, ok := of(s).(object); ok {
			if v, ok := o[name]; ok {
				return v
			}
		}
		return undefined
	}
}

func not(e expression) expression {
	return func(s *scope) any {
		if v, ok := toBool(e(s)); ok {
			return !v
		}
		return undefined
	}
}

// operation returns what a binary operator makes of its operands.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-operators.html
func operation(operator string, left, right expression) expression {
	f := arithmetic
	switch operator {
	case "AND", "OR":
		f = logical
	case "=", "<>", "<", "<=", ">", ">=", "LIKE", "IN":
		f = compare
	}
	return func(s *scope) any { return f(operator, left(s), right(s)) }
}

func logical(operator string, a, b any) any {
	x, okX := toBool(a)
	y, okY := toBool(b)
	switch {
	case !okX || !okY:
		return undefined
	case operator == "AND":
		return x && y
	}
	return x || y
}

func compare(operator string, a, b any) any {
	switch operator {
	case "=":
		return equal(a, b)
	case "<>":
		return not(literal(equal(a, b)))(nil)
	case "IN":
		elements, ok := b.([]any)
		if !ok || a == undefined {
			return undefined
		}
		return slices.ContainsFunc(elements, func(element any) bool { return same(a, element) })
	case "LIKE": // as in ANSI SQL: % stands for any characters, _ for one
		subject, okA := toString(a)
		pattern, okB := b.(string)
		if !okA || !okB {
			return undefined
		}
		re := strings.NewReplacer("%", ".*", "_", ".").Replace(regexp.QuoteMeta(pattern))
		matched, _ := regexp.MatchString("(?s)^"+re+"$", subject)
		return matched
	}
	x, okX := toNumber(a)
	y, okY := toNumber(b)
	if !okX || !okY {
		return undefined
	}
	switch c := x.Cmp(y); operator {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	default:
		return c >= 0
	}
}

func arithmetic(operator string, a, b any) any {
	_, leftText := a.(string)
	_, rightText := b.(string)
	if operator == "+" && (leftText || rightText) {
		x, okX := toString(a)
		y, okY := toString(b)
		if !okX || !okY {
			return undefined
		}
		return x + y
	}
	x, okX := toNumber(a)
	y, okY := toNumber(b)
	if !okX || !okY || y.Sign() == 0 && (operator == "/" || operator == "%") {
		return undefined
	}
	out := new(big.Rat)
	switch operator {
	case "+":
		out.Add(x, y)
	case "-":
		out.Sub(x, y)
	case "*":
		out.Mul(x, y)
	case "/":
		if out.Quo(x, y); !leftText && !rightText && x.IsInt() && y.IsInt() {
			out = truncated(out) // of integers there is no remainder
		}
	case "%":
		out.Sub(x, out.Mul(truncated(out.Quo(x, y)), y))
	}
	return round(out)
}

// truncated returns the integer part.
func truncated(r *big.Rat) *big.Rat {
	return new(big.Rat).SetInt(new(big.Int).Quo(r.Num(), r.Denom()))
}
