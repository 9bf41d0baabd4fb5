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
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"example.com/fleety/device/awsiot"
)

// functions are those that are emulated, by their names in lower case; cast, which has a syntax of
// its own, is apart. The types of a function's parameters say how its arguments are converted, see
// argument.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-functions.html
var functions = map[string]any{
	"accountid": func(s *scope) any { return s.service.config.Account },
	"clientid":  func(s *scope) any { return orElse(s.message.ClientID, "n/a") },
	"principal": func(s *scope) any { return orElse(s.message.Principal, undefined) },
	"thingname": func(s *scope) any {
		return orElse(s.service.config.Thing(s.message.Principal, s.message.ClientID), undefined)
	},
	"traceid":     func(s *scope) any { return orElse(s.trace, undefined) },
	"sql_version": func(s *scope) any { return s.version },
	"timestamp":   func(s *scope) any { return int(s.service.config.Now().UnixMilli()) },
	"newuuid":     awsiot.NewUUID,
	"rand":        mathrand.Float64,
	"topic": func(s *scope, level ...int) any {
		levels := strings.Split(s.message.Topic, "/")
		switch {
		case len(level) == 0:
			return s.message.Topic
		case level[0] < 1 || level[0] > len(levels):
			return undefined
		}
		return levels[level[0]-1]
	},
	// A call with two arguments is of the classic shadow; the last one is a role, which is not
	// evaluated.
	"get_thing_shadow": func(s *scope, thing, name string, role ...string) any {
		if len(role) == 0 {
			name = ""
		}
		if document, found := s.service.config.Shadow(thing, name); found {
			return decode(document)
		}
		return undefined
	},

	"abs":   func(r *big.Rat) any { return r.Abs(r) },
	"sign":  (*big.Rat).Sign,
	"ceil":  func(r *big.Rat) any { return new(big.Int).Neg(floor(r.Neg(r))) },
	"floor": func(n *big.Int) any { return n },
	"round": func(r *big.Rat) any { return truncated(r.Add(r, big.NewRat(int64(r.Sign()), 2))) }, // halves away from zero
	"trunc": func(r *big.Rat, places int) any {
		scale := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(0, min(places, digits)))), nil))
		return r.Quo(truncated(r.Mul(r, scale)), scale)
	},
	"acos": math.Acos, "asin": math.Asin, "atan": math.Atan, "atan2": math.Atan2,
	"cos": math.Cos, "cosh": math.Cosh, "sin": math.Sin, "sinh": math.Sinh, "tan": math.Tan, "tanh": math.Tanh,
	"exp": math.Exp, "ln": math.Log, "log": math.Log10, "power": math.Pow, "sqrt": math.Sqrt,
	"mod": modulo, "remainder": modulo,
	"bitand": func(x, y *big.Int) any { return x.And(x, y) },
	"bitor":  func(x, y *big.Int) any { return x.Or(x, y) },
	"bitxor": func(x, y *big.Int) any { return x.Xor(x, y) },
	"bitnot": func(x *big.Int) any { return x.Not(x) },
	"nanvl": func(v, otherwise any) any {
		if v == nil || v == undefined {
			return otherwise
		}
		return v
	},

	"lower": strings.ToLower, "upper": strings.ToUpper, "trim": strings.TrimSpace,
	"ltrim":  func(s string) any { return strings.TrimLeft(s, " \t") },
	"rtrim":  func(s string) any { return strings.TrimRight(s, " \t") },
	"length": utf8.RuneCountInString, "numbytes": func(s string) any { return len(s) },
	"startswith": strings.HasPrefix, "endswith": strings.HasSuffix,
	"indexof": func(s, part string) any {
		before, _, found := strings.Cut(s, part)
		if !found {
			return -1
		}
		return utf8.RuneCountInString(before)
	},
	"replace": func(s, part, by string) any {
		checkSize(int64(len(s)) + int64(strings.Count(s, part))*int64(len(by)-len(part)))
		return strings.ReplaceAll(s, part, by)
	},
	"regexp_matches": func(s string, re *regexp.Regexp) any { return re.MatchString(s) },
	"regexp_substr":  func(s string, re *regexp.Regexp) any { return re.FindString(s) },
	"regexp_replace": func(s string, re *regexp.Regexp, by string) any {
		pieces := oneReference.FindAllString(groupReference.ReplaceAllString(by, "$${$1}"), -1)
		var out []byte
		end := 0
		for _, match := range re.FindAllStringSubmatchIndex(s, -1) {
			out = append(out, s[end:match[0]]...)
			for _, piece := range pieces {
				out = re.ExpandString(out, piece, s, match)
				checkSize(int64(len(out)))
			}
			end = match[1]
		}
		return string(append(out, s[end:]...))
	},
	"lpad": func(s string, n int) any { return strings.Repeat(" ", max(0, min(n, maxPadding))) + s },
	"rpad": func(s string, n int) any { return s + strings.Repeat(" ", max(0, min(n, maxPadding))) },
	"substring": func(s string, from int, to ...int) any {
		runes := []rune(s)
		from, end := max(0, min(from, len(runes))), len(runes)
		if len(to) > 0 {
			end = max(from, min(to[0], end))
		}
		return string(runes[from:end])
	},
	"chr": func(n int) any {
		if n < 0 || n > 127 {
			return undefined
		}
		return string(rune(n))
	},
	"concat": concat,
	"get":    get,
	"md5":    func(s string) any { return fmt.Sprintf("%x", md5.Sum([]byte(s))) },
	"sha1":   func(s string) any { return fmt.Sprintf("%x", sha1.Sum([]byte(s))) },
	"sha224": func(s string) any { return fmt.Sprintf("%x", sha256.Sum224([]byte(s))) },
	"sha256": func(s string) any { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) },
	"sha384": func(s string) any { return fmt.Sprintf("%x", sha512.Sum384([]byte(s))) },
	"sha512": func(s string) any { return fmt.Sprintf("%x", sha512.Sum512([]byte(s))) },

	"isnull":      func(v any) any { return v == nil },
	"isundefined": func(v any) any { return v == undefined },
	"encode": func(s string, scheme any) any {
		if scheme != "base64" {
			return undefined
		}
		return base64.StdEncoding.EncodeToString([]byte(s))
	},
	"decode": func(v, scheme any) any {
		s, _ := v.(string)
		data, err := base64.StdEncoding.DecodeString(s)
		if s == "" || err != nil || scheme != "base64" {
			return nil
		}
		if v := decode(data); v != undefined {
			return v
		}
		return string(data)
	},
	"transform": func(mode, with, array any) any {
		attributes, ok := with.(object)
		elements, isArray := array.([]any)
		if mode != "enrichArray" || !ok || !isArray {
			return undefined
		}
		out, size := []any{}, 0
		for _, element := range elements {
			o, ok := element.(object)
			if !ok {
				return undefined
			}
			enriched := maps.Clone(attributes)
			maps.Copy(enriched, o)
			size += len(encode(enriched))
			checkSize(int64(size))
			out = append(out, enriched)
		}
		return out
	},
}

// casts are functions that convert to the types of cast, by name in lower case.
var casts = map[string]any{
	"string": castString, "nvarchar": castString, "text": castString, "ntext": castString, "varchar": castString,
	"int": castInt, "integer": castInt, "double": castDecimal, "decimal": castDecimal,
	"bool": castBool, "boolean": castBool,
}

const maxArguments = 255 // how many arguments a function takes at most

// arity returns how many arguments a function takes. A variadic parameter is one optional argument
// or, of type any, all that follow. A scope is no argument.
func arity(f any) (least, most int) {
	t := reflect.TypeOf(f)
	most = t.NumIn()
	if most > 0 && t.In(0) == reflect.TypeFor[*scope]() {
		most--
	}
	switch {
	case !t.IsVariadic():
		return most, most
	case t.In(t.NumIn()-1) == reflect.TypeFor[[]any]():
		return most - 1, maxArguments
	}
	return most - 1, most
}

// call returns what a function gives for these arguments, which are as many as it takes, undefined
// when one of them cannot be converted.
func call(f any, s *scope, arguments []any) any {
	t := reflect.TypeOf(f)
	var in []reflect.Value
	if t.NumIn() > 0 && t.In(0) == reflect.TypeFor[*scope]() {
		in = append(in, reflect.ValueOf(s))
	}
	for _, a := range arguments {
		last := t.NumIn() - 1
		kind := t.In(min(len(in), last))
		if t.IsVariadic() && len(in) >= last {
			kind = kind.Elem()
		}
		converted, ok := argument(a, kind)
		if !ok {
			return undefined
		}
		value := reflect.New(kind).Elem()
		if converted != nil {
			value.Set(reflect.ValueOf(converted))
		}
		in = append(in, value)
	}
	out := reflect.ValueOf(f).Call(in)[0].Interface()
	switch v := out.(type) {
	case int:
		return integer(int64(v))
	case float64:
		return parseNumber(strconv.FormatFloat(v, 'g', -1, 64)) // the shortest text that is this number
	case *big.Int:
		return round(new(big.Rat).SetInt(v))
	case *big.Rat:
		return round(v)
	case string:
		checkSize(int64(len(v)))
	case []any, object:
		checkSize(int64(len(encode(v))))
	}
	return out
}

// argument converts a value to the type of a parameter, by the rules of AWS. What it returns
// belongs to the function.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-data-types.html
func argument(v any, kind reflect.Type) (out any, ok bool) {
	switch kind {
	case reflect.TypeFor[any]():
		return v, true
	case reflect.TypeFor[string]():
		return toString(v)
	case reflect.TypeFor[bool]():
		return toBool(v)
	case reflect.TypeFor[*regexp.Regexp]():
		text, ok := toString(v)
		re, err := regexp.Compile(text)
		return re, ok && err == nil
	}
	r, ok := toNumber(v)
	if !ok {
		return nil, false
	}
	switch kind {
	case reflect.TypeFor[*big.Rat]():
		return new(big.Rat).Set(r), true
	case reflect.TypeFor[*big.Int]():
		return floor(r), true
	case reflect.TypeFor[float64]():
		x, _ := r.Float64()
		return x, true
	}
	n := floor(r) // an int, limited, for positions and lengths
	if !n.IsInt64() {
		return n.Sign() * math.MaxInt32, true
	}
	return int(n.Int64()), true
}

func castString(s string) any { return s }

func castDecimal(v any) any {
	if r, ok := toNumber(v); ok {
		return r
	}
	switch v {
	case true:
		return 1
	case false:
		return 0
	}
	return undefined
}

func castInt(v any) any {
	v = castDecimal(v)
	if r, ok := v.(*big.Rat); ok {
		return floor(r)
	}
	return v // a boolean's is whole
}

func castBool(v any) any {
	if r, ok := v.(*big.Rat); ok {
		return r.Sign() != 0
	} else if b, ok := toBool(v); ok {
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

// groupReference is a reference to a capture group in a replacement; Go reads $1x as a group named
// 1x. oneReference is a part of a replacement with at most one.
var (
	groupReference = regexp.MustCompile(`\$(\d+)`)
	oneReference   = regexp.MustCompile(`\$\$|\$?[^$]+|\$`)
)

const maxPadding = 1000

func concat(values ...any) any {
	if len(values) == 1 {
		return values[0]
	}
	elements, anyArray, anyText := []any{}, false, false
	var text strings.Builder
	for _, v := range values {
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

// get returns a member of an object, an element of an array or a character of a string.
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
	if i, ok := argument(key, reflect.TypeFor[int]()); ok && i.(int) >= 0 && i.(int) < len(elements) {
		return elements[i.(int)]
	}
	return undefined
}
