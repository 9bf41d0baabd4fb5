package rules

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"math/big"
	mathrand "math/rand/v2"
	"regexp"
	"strings"
	"unicode/utf8"
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
	"accountid": ofMessage(func(s *scope) any { return s.service.config.Account }),
	"clientid":  ofMessage(func(s *scope) any { return orElse(s.message.ClientID, "n/a") }),
	"principal": ofMessage(func(s *scope) any { return orElse(s.message.Principal, undefined) }),
	"thingname": ofMessage(func(s *scope) any {
		return orElse(s.service.config.Thing(s.message.Principal, s.message.ClientID), undefined)
	}),
	"traceid":     ofMessage(func(s *scope) any { return orElse(s.trace, undefined) }),
	"sql_version": ofMessage(func(s *scope) any { return s.version }),
	"timestamp":   ofMessage(func(s *scope) any { return integer(s.service.config.Now().UnixMilli()) }),
	"newuuid":     ofMessage(func(*scope) any { return newUUID() }),
	"rand":        ofMessage(func(*scope) any { return fromFloat64(mathrand.Float64()) }),
	"topic":       {0, 1, topicLevel},

	"get_thing_shadow": {2, 3, thingShadow},

	"abs":   numeric(func(r *big.Rat) any { return new(big.Rat).Abs(r) }),
	"sign":  numeric(func(r *big.Rat) any { return integer(int64(r.Sign())) }),
	"ceil":  numeric(func(r *big.Rat) any { return whole(new(big.Int).Neg(floor(new(big.Rat).Neg(r)))) }),
	"floor": numeric(func(r *big.Rat) any { return whole(floor(r)) }),
	"round": numeric(roundHalf),
	"trunc": {2, 2, truncate},
	"acos":  double(math.Acos), "asin": double(math.Asin), "atan": double(math.Atan),
	"cos": double(math.Cos), "cosh": double(math.Cosh), "sin": double(math.Sin), "sinh": double(math.Sinh),
	"tan": double(math.Tan), "tanh": double(math.Tanh),
	"exp": double(math.Exp), "ln": double(math.Log), "log": double(math.Log10), "sqrt": double(math.Sqrt),
	"atan2": double2(math.Atan2), "power": double2(math.Pow),
	"mod": {2, 2, remainder}, "remainder": {2, 2, remainder},
	"bitand": bits((*big.Int).And), "bitor": bits((*big.Int).Or), "bitxor": bits((*big.Int).Xor),
	"bitnot": {1, 1, func(_ *scope, a []any) any {
		if n, ok := toInt(a[0]); ok {
			return whole(new(big.Int).Not(n))
		}
		return undefined
	}},
	"nanvl": {2, 2, func(_ *scope, a []any) any {
		if a[0] == nil || a[0] == undefined {
			return a[1]
		}
		return a[0]
	}},

	"lower": textual(1, func(a []string) any { return strings.ToLower(a[0]) }),
	"upper": textual(1, func(a []string) any { return strings.ToUpper(a[0]) }),
	"trim":  textual(1, func(a []string) any { return strings.TrimSpace(a[0]) }),
	"ltrim": textual(1, func(a []string) any { return strings.TrimLeft(a[0], " \t") }),
	"rtrim": textual(1, func(a []string) any { return strings.TrimRight(a[0], " \t") }),
	"length": textual(1, func(a []string) any {
		return integer(int64(utf8.RuneCountInString(a[0])))
	}),
	"numbytes":   textual(1, func(a []string) any { return integer(int64(len(a[0]))) }),
	"startswith": textual(2, func(a []string) any { return strings.HasPrefix(a[0], a[1]) }),
	"endswith":   textual(2, func(a []string) any { return strings.HasSuffix(a[0], a[1]) }),
	"indexof":    textual(2, indexOf),
	"replace":    textual(3, func(a []string) any { return strings.ReplaceAll(a[0], a[1], a[2]) }),
	"regexp_matches": regular(2, func(re *regexp.Regexp, a []string) any {
		return re.MatchString(a[0])
	}),
	"regexp_substr": regular(2, func(re *regexp.Regexp, a []string) any { return re.FindString(a[0]) }),
	"regexp_replace": regular(3, func(re *regexp.Regexp, a []string) any {
		return re.ReplaceAllString(a[0], groupReference.ReplaceAllString(a[2], "$${$1}"))
	}),
	"lpad":      {2, 2, func(_ *scope, a []any) any { return pad(a, func(s, blanks string) string { return blanks + s }) }},
	"rpad":      {2, 2, func(_ *scope, a []any) any { return pad(a, func(s, blanks string) string { return s + blanks }) }},
	"substring": {2, 3, substring},
	"chr":       {1, 1, character},
	"concat":    {0, 255, concat},
	"get":       {2, 2, get},
	"md5":       hash(func(b []byte) []byte { h := md5.Sum(b); return h[:] }),
	"sha1":      hash(func(b []byte) []byte { h := sha1.Sum(b); return h[:] }),
	"sha224":    hash(func(b []byte) []byte { h := sha256.Sum224(b); return h[:] }),
	"sha256":    hash(func(b []byte) []byte { h := sha256.Sum256(b); return h[:] }),
	"sha384":    hash(func(b []byte) []byte { h := sha512.Sum384(b); return h[:] }),
	"sha512":    hash(func(b []byte) []byte { h := sha512.Sum512(b); return h[:] }),

	"isnull":      {1, 1, func(_ *scope, a []any) any { return a[0] == nil }},
	"isundefined": {1, 1, func(_ *scope, a []any) any { return a[0] == undefined }},
	"encode":      {2, 2, encodeBase64},
	"decode":      {2, 2, decodeBase64},
	"transform":   {3, 3, transform},
}

// casts convert to the types of cast, by name in lower case.
var casts = map[string]func(any) any{
	"string": castString, "nvarchar": castString, "text": castString, "ntext": castString, "varchar": castString,
	"int": castInt, "integer": castInt, "double": castDecimal, "decimal": castDecimal,
	"bool": castBool, "boolean": castBool,
}

func castString(v any) any {
	if s, ok := toString(v); ok {
		return s
	}
	return undefined
}

func castDecimal(v any) any {
	if b, ok := v.(bool); ok {
		if b {
			return integer(1)
		}
		return integer(0)
	}
	if r, ok := toNumber(v); ok {
		return r
	}
	return undefined
}

func castInt(v any) any {
	if r, ok := castDecimal(v).(*big.Rat); ok {
		return whole(floor(r))
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

func whole(n *big.Int) any { return round(new(big.Rat).SetInt(n)) }

func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func ofMessage(f func(*scope) any) function {
	return function{0, 0, func(s *scope, _ []any) any { return f(s) }}
}

func numeric(f func(*big.Rat) any) function {
	return function{1, 1, func(_ *scope, a []any) any {
		if r, ok := toNumber(a[0]); ok {
			return f(r)
		}
		return undefined
	}}
}

func double(f func(float64) float64) function {
	return numeric(func(r *big.Rat) any {
		x, _ := r.Float64()
		return fromFloat64(f(x))
	})
}

func double2(f func(x, y float64) float64) function {
	return function{2, 2, func(_ *scope, a []any) any {
		x, okX := toNumber(a[0])
		y, okY := toNumber(a[1])
		if !okX || !okY {
			return undefined
		}
		fx, _ := x.Float64()
		fy, _ := y.Float64()
		return fromFloat64(f(fx, fy))
	}}
}

func bits(f func(z, x, y *big.Int) *big.Int) function {
	return function{2, 2, func(_ *scope, a []any) any {
		x, okX := toInt(a[0])
		y, okY := toInt(a[1])
		if !okX || !okY {
			return undefined
		}
		return whole(f(new(big.Int), x, y))
	}}
}

func textual(n int, f func([]string) any) function {
	return function{n, n, func(_ *scope, a []any) any {
		texts := make([]string, n)
		for i := range a {
			var ok bool
			if texts[i], ok = toString(a[i]); !ok {
				return undefined
			}
		}
		return f(texts)
	}}
}

// groupReference is a reference to a capture group in a replacement; Go reads
// $1x as a group named 1x.
var groupReference = regexp.MustCompile(`\$(\d+)`)

func regular(n int, f func(*regexp.Regexp, []string) any) function {
	return textual(n, func(a []string) any {
		re, err := regexp.Compile(a[1])
		if err != nil {
			return undefined
		}
		return f(re, a)
	})
}

func hash(f func([]byte) []byte) function {
	return textual(1, func(a []string) any { return hex.EncodeToString(f([]byte(a[0]))) })
}

// roundHalf rounds halves away from zero, as in AWS's examples.
func roundHalf(r *big.Rat) any {
	half := big.NewRat(1, 2)
	if r.Sign() < 0 {
		return whole(new(big.Int).Neg(floor(half.Sub(half, r))))
	}
	return whole(floor(half.Add(half, r)))
}

func remainder(_ *scope, a []any) any {
	return arithmetic("%", a[0], a[1])
}

func truncate(_ *scope, a []any) any {
	r, ok := toNumber(a[0])
	places, okPlaces := toInt(a[1])
	if !ok || !okPlaces {
		return undefined
	}
	n := int64(0)
	if places.Sign() > 0 {
		n = digits
		if places.IsInt64() {
			n = min(places.Int64(), digits)
		}
	}
	scale := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil))
	scaled := new(big.Rat).Mul(r, scale)
	return round(scaled.Quo(new(big.Rat).SetInt(new(big.Int).Quo(scaled.Num(), scaled.Denom())), scale))
}

func topicLevel(s *scope, a []any) any {
	if len(a) == 0 {
		return s.message.Topic
	}
	n, ok := toInt(a[0])
	levels := strings.Split(s.message.Topic, "/")
	if !ok || !n.IsInt64() || n.Int64() < 1 || n.Int64() > int64(len(levels)) {
		return undefined
	}
	return levels[n.Int64()-1]
}

// thingShadow takes the thing, the shadow unless it is the classic one, and a
// role, which is not evaluated.
func thingShadow(s *scope, a []any) any {
	thing, ok := a[0].(string)
	name, okName := "", true
	if len(a) == 3 {
		name, okName = a[1].(string)
	}
	if !ok || !okName || s.service.config.Shadow == nil {
		return undefined
	}
	document, ok := s.service.config.Shadow(thing, name)
	if !ok {
		return undefined
	}
	v, _ := decode(document)
	return v
}

func indexOf(a []string) any {
	i := strings.Index(a[0], a[1])
	if i > 0 {
		i = utf8.RuneCountInString(a[0][:i])
	}
	return integer(int64(i))
}

// maxPadding is AWS's.
const maxPadding = 1000

func pad(a []any, f func(s, blanks string) string) any {
	s, ok := toString(a[0])
	n, okN := toInt(a[1])
	if !ok || !okN {
		return undefined
	}
	width := maxPadding
	if n.IsInt64() {
		width = int(max(0, min(n.Int64(), maxPadding)))
	}
	return f(s, strings.Repeat(" ", width))
}

func substring(_ *scope, a []any) any {
	text, ok := toString(a[0])
	if !ok {
		return undefined
	}
	runes := []rune(text)
	bounds := []int64{0, int64(len(runes))}
	for i, v := range a[1:] {
		n, ok := toInt(v)
		if !ok {
			return undefined
		}
		switch {
		case n.Sign() < 0:
			bounds[i] = 0
		case n.IsInt64():
			bounds[i] = min(n.Int64(), int64(len(runes)))
		default:
			bounds[i] = int64(len(runes))
		}
	}
	return string(runes[bounds[0]:max(bounds[0], bounds[1])])
}

func character(_ *scope, a []any) any {
	n, ok := toInt(a[0])
	if !ok || n.Sign() < 0 || n.Cmp(big.NewInt(127)) > 0 {
		return undefined
	}
	return string(rune(n.Int64()))
}

func concat(_ *scope, a []any) any {
	switch len(a) {
	case 0:
		return undefined
	case 1:
		return a[0]
	}
	elements, anyArray, anyText := []any{}, false, false
	var text strings.Builder
	for _, v := range a {
		switch v := v.(type) {
		case []any:
			elements, anyArray = append(elements, v...), true
			continue
		case string:
			anyText = true
		}
		elements = append(elements, v)
		s, _ := toString(v)
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

func get(_ *scope, a []any) any {
	if o, ok := a[0].(object); ok {
		key, ok := a[1].(string)
		if v, found := o[key]; ok && found {
			return v
		}
		return undefined
	}
	n, ok := toInt(a[1])
	if !ok || !n.IsInt64() || n.Sign() < 0 {
		return undefined
	}
	i := n.Int64()
	switch v := a[0].(type) {
	case []any:
		if i < int64(len(v)) {
			return v[i]
		}
	case string:
		if runes := []rune(v); i < int64(len(runes)) {
			return string(runes[i])
		}
	}
	return undefined
}

func encodeBase64(_ *scope, a []any) any {
	s, ok := toString(a[0])
	if !ok || a[1] != "base64" {
		return undefined
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}

func decodeBase64(_ *scope, a []any) any {
	s, ok := a[0].(string)
	if !ok || a[1] != "base64" {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	if v, ok := decode(data); ok {
		return v
	}
	return string(data)
}

func transform(_ *scope, a []any) any {
	with, ok := a[1].(object)
	elements, isArray := a[2].([]any)
	if a[0] != "enrichArray" || !ok || !isArray {
		return undefined
	}
	out := []any{}
	for _, element := range elements {
		o, ok := element.(object)
		if !ok {
			return undefined
		}
		enriched := maps.Clone(with)
		maps.Copy(enriched, o)
		out = append(out, enriched)
	}
	return out
}
