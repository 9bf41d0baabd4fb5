package rules

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"regexp"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

// A function takes least to most arguments.
type function struct {
	least, most int
	run         func(*scope, []any) any
}

// functions are those that are emulated, by their names in lower case; cast,
// which has a syntax of its own, is apart.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-functions.html
var functions = map[string]function{
	"accountid": f0(func(s *scope) any { return s.service.config.Account }),
	"clientid":  f0(func(s *scope) any { return orElse(s.message.ClientID, "n/a") }),
	"principal": f0(func(s *scope) any { return orElse(s.message.Principal, undefined) }),
	"thingname": f0(func(s *scope) any {
		return orElse(s.service.config.Thing(s.message.Principal, s.message.ClientID), undefined)
	}),
	"traceid":     f0(func(s *scope) any { return orElse(s.trace, undefined) }),
	"sql_version": f0(func(s *scope) any { return s.version }),
	"timestamp":   f0(func(s *scope) any { return int(s.service.config.Now().UnixMilli()) }),
	"newuuid":     f0(func(*scope) any { return awsiot.NewUUID() }),
	"rand":        f0(func(*scope) any { return mathrand.Float64() }),
	"topic":       {0, 1, topicLevel},

	"get_thing_shadow": {2, 3, thingShadow},

	"abs":  f1(func(r *big.Rat) any { return new(big.Rat).Abs(r) }),
	"sign": f1(func(r *big.Rat) any { return r.Sign() }),
	"ceil": f1(func(r *big.Rat) any {
		n := floor(new(big.Rat).Neg(r))
		return n.Neg(n)
	}),
	"floor": f1(func(n *big.Int) any { return n }),
	"round": f1(func(r *big.Rat) any { return truncated(r.Add(r, big.NewRat(int64(r.Sign()), 2))) }), // halves away from zero
	"trunc": f2(func(r *big.Rat, places int) any {
		scale := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(0, min(places, digits)))), nil))
		return r.Quo(truncated(r.Mul(r, scale)), scale)
	}),
	"acos": double(math.Acos), "asin": double(math.Asin), "atan": double(math.Atan),
	"cos": double(math.Cos), "cosh": double(math.Cosh), "sin": double(math.Sin), "sinh": double(math.Sinh),
	"tan": double(math.Tan), "tanh": double(math.Tanh),
	"exp": double(math.Exp), "ln": double(math.Log), "log": double(math.Log10), "sqrt": double(math.Sqrt),
	"atan2":     f2(func(y, x float64) any { return math.Atan2(y, x) }),
	"power":     f2(func(x, y float64) any { return math.Pow(x, y) }),
	"mod":       f2(func(x, y any) any { return arithmetic("%", x, y) }),
	"remainder": f2(func(x, y any) any { return arithmetic("%", x, y) }),
	"bitand":    f2(func(x, y *big.Int) any { return x.And(x, y) }),
	"bitor":     f2(func(x, y *big.Int) any { return x.Or(x, y) }),
	"bitxor":    f2(func(x, y *big.Int) any { return x.Xor(x, y) }),
	"bitnot":    f1(func(x *big.Int) any { return x.Not(x) }),
	"nanvl": f2(func(v, otherwise any) any {
		if v == nil || v == undefined {
			return otherwise
		}
		return v
	}),

	"lower":      f1(func(s string) any { return strings.ToLower(s) }),
	"upper":      f1(func(s string) any { return strings.ToUpper(s) }),
	"trim":       f1(func(s string) any { return strings.TrimSpace(s) }),
	"ltrim":      f1(func(s string) any { return strings.TrimLeft(s, " \t") }),
	"rtrim":      f1(func(s string) any { return strings.TrimRight(s, " \t") }),
	"length":     f1(func(s string) any { return utf8.RuneCountInString(s) }),
	"numbytes":   f1(func(s string) any { return len(s) }),
	"startswith": f2(func(s, prefix string) any { return strings.HasPrefix(s, prefix) }),
	"endswith":   f2(func(s, suffix string) any { return strings.HasSuffix(s, suffix) }),
	"indexof": f2(func(s, part string) any {
		before, _, found := strings.Cut(s, part)
		if !found {
			return -1
		}
		return utf8.RuneCountInString(before)
	}),
	"replace":        f3(func(s, old, by string) any { return strings.ReplaceAll(s, old, by) }),
	"regexp_matches": f2(func(s string, re *regexp.Regexp) any { return re.MatchString(s) }),
	"regexp_substr":  f2(func(s string, re *regexp.Regexp) any { return re.FindString(s) }),
	"regexp_replace": f3(func(s string, re *regexp.Regexp, by string) any {
		return re.ReplaceAllString(s, groupReference.ReplaceAllString(by, "$${$1}"))
	}),
	"lpad":      f2(func(s string, n int) any { return strings.Repeat(" ", max(0, min(n, maxPadding))) + s }),
	"rpad":      f2(func(s string, n int) any { return s + strings.Repeat(" ", max(0, min(n, maxPadding))) }),
	"substring": {2, 3, substring},
	"chr": f1(func(n int) any {
		if n < 0 || n > 127 {
			return undefined
		}
		return string(rune(n))
	}),
	"concat": {0, 255, concat},
	"get":    f2(get),
	"md5":    f1(func(s string) any { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }),
	"sha1":   f1(func(s string) any { return fmt.Sprintf("%x", sha1.Sum([]byte(s))) }),
	"sha224": f1(func(s string) any { return fmt.Sprintf("%x", sha256.Sum224([]byte(s))) }),
	"sha256": f1(func(s string) any { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }),
	"sha384": f1(func(s string) any { return fmt.Sprintf("%x", sha512.Sum384([]byte(s))) }),
	"sha512": f1(func(s string) any { return fmt.Sprintf("%x", sha512.Sum512([]byte(s))) }),

	"isnull":      f1(func(v any) any { return v == nil }),
	"isundefined": f1(func(v any) any { return v == undefined }),
	"encode": f2(func(s string, scheme any) any {
		if scheme != "base64" {
			return undefined
		}
		return base64.StdEncoding.EncodeToString([]byte(s))
	}),
	"decode": f2(func(v, scheme any) any {
		s, _ := v.(string)
		data, err := base64.StdEncoding.DecodeString(s)
		if s == "" || err != nil || scheme != "base64" {
			return nil
		}
		if v, ok := decode(data); ok {
			return v
		}
		return string(data)
	}),
	"transform": f3(transform),
}

// to converts an argument to the type of a parameter, by the rules of AWS. What
// it returns belongs to the function.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-data-types.html
func to[T any](v any) (out T, ok bool) {
	switch out := any(&out).(type) {
	case *any:
		*out = v
		ok = true
	case *string:
		*out, ok = toString(v)
	case **regexp.Regexp:
		if text, isText := toString(v); isText {
			re, err := regexp.Compile(text)
			*out, ok = re, err == nil
		}
	}
	r, isNumber := toNumber(v)
	if ok || !isNumber {
		return out, ok
	}
	ok = true
	switch out := any(&out).(type) {
	case **big.Rat:
		*out = new(big.Rat).Set(r)
	case *float64:
		*out, _ = r.Float64()
	case **big.Int:
		*out = floor(r)
	case *int: // limited, for positions and lengths
		n := floor(r)
		if *out = int(n.Int64()); !n.IsInt64() {
			*out = n.Sign() * math.MaxInt32
		}
	default:
		ok = false // a regular expression that is none
	}
	return out, ok
}

// result makes a value of what a function returns.
func result(v any) any {
	switch v := v.(type) {
	case int:
		return integer(int64(v))
	case float64:
		return fromFloat64(v)
	case *big.Int:
		return round(new(big.Rat).SetInt(v))
	case *big.Rat:
		return round(v)
	}
	return v
}

func f0(f func(*scope) any) function {
	return function{0, 0, func(s *scope, _ []any) any { return result(f(s)) }}
}

func f1[A any](f func(A) any) function {
	return function{1, 1, func(_ *scope, v []any) any {
		if a, ok := to[A](v[0]); ok {
			return result(f(a))
		}
		return undefined
	}}
}

func f2[A, B any](f func(A, B) any) function {
	return function{2, 2, func(_ *scope, v []any) any {
		a, okA := to[A](v[0])
		b, okB := to[B](v[1])
		if okA && okB {
			return result(f(a, b))
		}
		return undefined
	}}
}

func f3[A, B, C any](f func(A, B, C) any) function {
	return function{3, 3, func(_ *scope, v []any) any {
		if c, ok := to[C](v[2]); ok {
			return f2(func(a A, b B) any { return f(a, b, c) }).run(nil, v[:2])
		}
		return undefined
	}}
}

func double(f func(float64) float64) function { return f1(func(x float64) any { return f(x) }) }

// casts convert to the types of cast, by name in lower case.
var casts = map[string]func(any) any{
	"string": castString, "nvarchar": castString, "text": castString, "ntext": castString, "varchar": castString,
	"int": castInt, "integer": castInt, "double": castDecimal, "decimal": castDecimal,
	"bool": castBool, "boolean": castBool,
}

func castString(v any) any { return f1(func(s string) any { return s }).run(nil, []any{v}) }

func castDecimal(v any) any {
	if r, ok := toNumber(v); ok {
		return r
	}
	switch v {
	case true:
		return integer(1)
	case false:
		return integer(0)
	}
	return undefined
}

func castInt(v any) any {
	if r, ok := castDecimal(v).(*big.Rat); ok {
		return result(floor(r))
	}
	return undefined
}

func castBool(v any) any {
	if r, ok := v.(*big.Rat); ok {
		return r.Sign() != 0
	}
	if b, ok := toBool(v); ok {
		return b
	}
	return undefined
}

func orElse(s string, otherwise any) any {
	if s == "" {
		return otherwise
	}
	return s
}

// groupReference is a reference to a capture group in a replacement; Go reads
// $1x as a group named 1x.
var groupReference = regexp.MustCompile(`\$(\d+)`)

func topicLevel(s *scope, a []any) any {
	if len(a) == 0 {
		return s.message.Topic
	}
	n, ok := to[int](a[0])
	levels := strings.Split(s.message.Topic, "/")
	if !ok || n < 1 || n > len(levels) {
		return undefined
	}
	return levels[n-1]
}

// thingShadow takes the thing, the shadow unless it is the classic one, and a
// role, which is not evaluated.
func thingShadow(s *scope, a []any) any {
	thing, ok := a[0].(string)
	name, isText := "", true
	if len(a) == 3 {
		name, isText = a[1].(string)
	}
	if ok && isText && s.service.config.Shadow != nil {
		if document, found := s.service.config.Shadow(thing, name); found {
			v, _ := decode(document)
			return v
		}
	}
	return undefined
}

const maxPadding = 1000

func substring(_ *scope, a []any) any {
	text, ok := toString(a[0])
	runes := []rune(text)
	bounds := []int{0, len(runes)}
	for i, v := range a[1:] {
		n, isInt := to[int](v)
		bounds[i], ok = max(0, min(n, len(runes))), ok && isInt
	}
	if !ok {
		return undefined
	}
	return string(runes[bounds[0]:max(bounds[0], bounds[1])])
}

func concat(_ *scope, a []any) any {
	if len(a) == 1 {
		return a[0]
	}
	elements, anyArray, anyText := []any{}, false, false
	var text strings.Builder
	for _, v := range a {
		if array, ok := v.([]any); ok {
			elements, anyArray = append(elements, array...), true
			continue
		}
		_, isText := v.(string)
		s, _ := toString(v)
		elements, anyText = append(elements, v), anyText || isText
		text.WriteString(s)
	}
	switch {
	case anyArray:
		return elements
	case anyText:
		return text.String()
	}
	return undefined
}

func get(of, key any) any {
	if o, ok := of.(object); ok {
		name, isText := key.(string)
		if v, found := o[name]; isText && found {
			return v
		}
		return undefined
	}
	elements, _ := of.([]any)
	if text, ok := of.(string); ok {
		for _, r := range text {
			elements = append(elements, string(r))
		}
	}
	if i, ok := to[int](key); ok && i >= 0 && i < len(elements) {
		return elements[i]
	}
	return undefined
}

func transform(mode, with, array any) any {
	attributes, ok := with.(object)
	elements, isArray := array.([]any)
	if mode != "enrichArray" || !ok || !isArray {
		return undefined
	}
	out := []any{}
	for _, element := range elements {
		o, ok := element.(object)
		if !ok {
			return undefined
		}
		enriched := maps.Clone(attributes)
		maps.Copy(enriched, o)
		out = append(out, enriched)
	}
	return out
}
