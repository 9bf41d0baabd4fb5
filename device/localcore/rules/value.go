package rules

import (
	"encoding/json"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/awsiot"
)

// A value of the SQL is nil for Null, bool, *big.Rat for Int and Decimal, string, []any, object, or
// undefined. In SQL version 2016-03-23 a number that is whole is an Int.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-data-types.html

var undefined = undefinedValue{} // the value of what is not there

type undefinedValue struct{}

type object = map[string]any

const (
	digits    = 34   // of a number
	precision = 256  // bits of an intermediate result, more than digits need
	maxScale  = 3322 // bits: the magnitude is from 1E-999 to 1E999
)

var decimalPattern = regexp.MustCompile(`^-?\d+(\.\d+)?([eE]-?\d+)?$`)

// parseNumber reads a number of JSON, rounded to 34 digits.
func parseNumber(text string) any {
	f, _, err := big.ParseFloat(text, 10, precision, big.ToNearestEven)
	if err != nil {
		return undefined
	}
	return fromFloat(f)
}

// round returns r with 34 digits.
func round(r *big.Rat) any {
	if r.IsInt() && r.Num().BitLen() < 112 {
		return r
	}
	return fromFloat(new(big.Float).SetPrec(precision).SetRat(r))
}

func fromFloat(f *big.Float) any {
	if scale := f.MantExp(nil); !f.IsInf() && scale <= maxScale && scale >= -maxScale {
		if r, ok := new(big.Rat).SetString(f.Text('e', digits-1)); ok {
			return r
		}
	}
	return undefined
}

func integer(n int64) any { return new(big.Rat).SetInt64(n) }

func formatNumber(r *big.Rat) string {
	if r.IsInt() {
		return r.Num().String()
	}
	return new(big.Float).SetPrec(precision).SetRat(r).Text('g', digits)
}

// toNumber converts by the rules for functions and operators.
func toNumber(v any) (*big.Rat, bool) {
	switch v := v.(type) {
	case *big.Rat:
		return v, true
	case string:
		if decimalPattern.MatchString(v) {
			r, ok := parseNumber(v).(*big.Rat)
			return r, ok
		}
	}
	return nil, false
}

func floor(r *big.Rat) *big.Int {
	return new(big.Int).Div(r.Num(), r.Denom()) // Euclidean, and the divisor is positive
}

// toString converts by the rules for functions and operators; Null and undefined have no string.
func toString(v any) (string, bool) {
	switch v := v.(type) {
	case nil, undefinedValue:
		return "", false
	case string:
		return v, true
	case *big.Rat:
		return formatNumber(v), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return string(encode(v)), true
}

// toBool converts by the rules for AND, OR and NOT.
func toBool(v any) (value, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		return strings.EqualFold(v, "true"), strings.EqualFold(v, "true") || strings.EqualFold(v, "false")
	}
	return false, false
}

// equal compares as = does: what is undefined equals nothing.
func equal(a, b any) any {
	if a == undefined || b == undefined {
		return undefined
	}
	return same(a, b)
}

func same(a, b any) bool {
	switch a := a.(type) {
	case *big.Rat:
		b, ok := b.(*big.Rat)
		return ok && a.Cmp(b) == 0
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, same)
	case object:
		b, ok := b.(object)
		return ok && maps.EqualFunc(a, b, same)
	}
	return a == b // never of two lists or objects
}

// decode reads exactly one JSON value; what is not one is undefined.
func decode(data []byte) any {
	var v any
	if err := awsiot.DecodeJSON(data, &v); err != nil {
		return undefined
	}
	return convert(v, func(v any) any {
		if n, ok := v.(json.Number); ok {
			return parseNumber(string(n))
		}
		return v
	})
}

// encode writes JSON. What is undefined is left out; alone it is nothing.
func encode(v any) []byte {
	if v == undefined {
		return nil
	}
	return awsiot.EncodeJSON(convert(v, func(v any) any {
		if r, ok := v.(*big.Rat); ok {
			return json.Number(formatNumber(r))
		}
		return v
	}))
}

// convert copies v with f applied to each leaf, without what is undefined.
func convert(v any, f func(any) any) any {
	switch v := v.(type) {
	case []any:
		out := []any{}
		for _, element := range v {
			if element = convert(element, f); element != undefined {
				out = append(out, element)
			}
		}
		return out
	case object:
		out := object{}
		for key, member := range v {
			if member = convert(member, f); member != undefined {
				out[key] = member
			}
		}
		return out
	}
	return f(v)
}
