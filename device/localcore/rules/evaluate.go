package rules

import (
	"errors"
	"maps"
	"math/big"
	"regexp"
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

// errNotObject reports a payload that members cannot be added to.
var errNotObject = errors.New("SELECT * with more items needs a payload that is a JSON object")

// run evaluates a statement: ok is false if WHERE is not true.
func (st *statement) run(s *scope) (payload []byte, ok bool, err error) {
	if st.where != nil && st.where(s) != true {
		return nil, false, nil
	}
	if len(st.items) == 1 && st.items[0].star {
		return s.message.Payload, true, nil
	}
	if _, isObject := s.payload.(object); !isObject && len(s.message.Payload) > 0 {
		for _, i := range st.items {
			if i.star {
				return nil, true, errNotObject
			}
		}
	}
	return encode(st.project(s)), true, nil
}

// project returns what the SELECT list makes of the scope.
func (st *statement) project(s *scope) any {
	if st.value {
		if st.items[0].star {
			return s.payload
		}
		return st.items[0].value(s)
	}
	out := object{}
	for _, i := range st.items {
		if i.star {
			payload, _ := s.payload.(object)
			maps.Copy(out, payload)
			continue
		}
		if v := i.value(s); v != undefined {
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

// The operators follow the tables of
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-operators.html

func logical(left, right expression, f func(a, b bool) bool) expression {
	return func(s *scope) any {
		a, okA := toBool(left(s))
		b, okB := toBool(right(s))
		if !okA || !okB {
			return undefined
		}
		return f(a, b)
	}
}

func not(e expression) expression {
	return func(s *scope) any {
		v, ok := toBool(e(s))
		if !ok {
			return undefined
		}
		return !v
	}
}

func compare(operator string, left, right expression) expression {
	return func(s *scope) any {
		a, b := left(s), right(s)
		switch operator {
		case "=":
			return equal(a, b)
		case "<>":
			if v, ok := equal(a, b).(bool); ok {
				return !v
			}
			return undefined
		case "IN":
			elements, ok := b.([]any)
			if !ok || a == undefined {
				return undefined
			}
			for _, element := range elements {
				if equal(a, element) == true {
					return true
				}
			}
			return false
		case "LIKE":
			subject, okA := toString(a)
			pattern, okB := b.(string)
			if !okA || !okB {
				return undefined
			}
			return like(subject, pattern)
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
}

// like matches as in ANSI SQL: % stands for any characters, _ for one.
func like(subject, pattern string) bool {
	expr := strings.NewReplacer("%", ".*", "_", ".").Replace(regexp.QuoteMeta(pattern))
	re, err := regexp.Compile("(?s)^" + expr + "$")
	return err == nil && re.MatchString(subject)
}

func arithmetic(operator string, left, right expression) expression {
	return func(s *scope) any {
		a, b := left(s), right(s)
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
		if !okX || !okY {
			return undefined
		}
		return calculate(operator, x, y, !leftText && !rightText && x.IsInt() && y.IsInt())
	}
}

// calculate divides integers without a remainder.
func calculate(operator string, x, y *big.Rat, integers bool) any {
	out := new(big.Rat)
	switch operator {
	case "+":
		out.Add(x, y)
	case "-":
		out.Sub(x, y)
	case "*":
		out.Mul(x, y)
	default:
		if y.Sign() == 0 {
			return undefined
		}
		out.Quo(x, y)
		if operator == "/" && !integers {
			break
		}
		whole := new(big.Rat).SetInt(new(big.Int).Quo(out.Num(), out.Denom()))
		if operator == "/" {
			out = whole
		} else {
			out.Sub(x, whole.Mul(whole, y))
		}
	}
	return round(out)
}
