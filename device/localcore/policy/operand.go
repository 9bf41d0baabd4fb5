package policy

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"example.com/fleety/device/localcore/jsontree"
)

// An operand is one value of a condition, compiled for its comparison.
type operand struct {
	raw     string
	pattern pattern   // of strings and ARNs
	arn     []pattern // the same by part of the ARN
	number  float64
	date    time.Time
	flag    bool
	prefix  netip.Prefix
	binary  string // decoded
}

// conditions reads {OPERATOR: {KEY: VALUE or list}}. All of them must hold.
func (p *parser) conditions(n *jsontree.Node) ([]condition, error) {
	if n.Kind != jsontree.Object {
		return nil, p.fail(n, "must be an object, not %s", n.Kind)
	}
	var conditions []condition
	for _, m := range n.Items {
		template, err := parseOperator(m.Key)
		if err != nil {
			return nil, p.fail(m, "%v", err)
		}
		if m.Kind != jsontree.Object {
			return nil, p.fail(m, "must be an object, not %s", m.Kind)
		}
		for _, m := range m.Items {
			c, err := p.condition(template, m)
			if err != nil {
				return nil, err
			}
			conditions = append(conditions, c)
		}
	}
	return conditions, nil
}

// ifExists may follow the name of any operator but Null.
const ifExists = "IfExists"

// parseOperator reads the name of an operator, such as
// ForAnyValue:StringEqualsIfExists.
func parseOperator(written string) (condition, error) {
	c := condition{written: written}
	name := written
	if rest, ok := strings.CutPrefix(name, "ForAllValues:"); ok {
		c.quantifier, name = forAllValues, rest
	} else if rest, ok := strings.CutPrefix(name, "ForAnyValue:"); ok {
		c.quantifier, name = forAnyValue, rest
	}
	name, c.ifExists = strings.CutSuffix(name, ifExists)
	var known bool
	c.operator, known = operators[name]
	if known && !(c.comparison == isNull && c.ifExists) {
		return c, nil
	}
	for spelling := range operators {
		if strings.EqualFold(name, spelling) {
			return c, fmt.Errorf("unknown condition operator %q; it is spelled %s", written, spelling)
		}
	}
	return c, fmt.Errorf("unknown condition operator %q", written)
}

func (p *parser) condition(c condition, m *jsontree.Node) (condition, error) {
	if !strings.Contains(m.Key, ":") {
		return c, p.fail(m, "condition key %q has no prefix such as iot:", m.Key)
	}
	c.key = parseKey(m.Key)
	// An empty list is allowed: the page connect-policy uses one to accept
	// no attribute at all.
	for _, n := range listed(m) {
		o, err := c.compile(n)
		if err != nil {
			return c, p.fail(n, "%v", err)
		}
		c.operands = append(c.operands, o)
	}
	if c.comparison == isNull && len(c.operands) != 1 {
		return c, p.fail(m, "Null takes one value, true or false")
	}
	return c, nil
}

func (c *condition) compile(n *jsontree.Node) (operand, error) {
	o := operand{raw: n.Text}
	switch n.Kind {
	case jsontree.String, jsontree.Number, jsontree.Boolean:
	default:
		return o, fmt.Errorf("must be a string, not %s", n.Kind)
	}
	var err error
	switch c.comparison {
	case stringEquals, stringEqualsFold:
		o.pattern, err = compilePattern(o.raw, verbatim)
	case stringLike:
		o.pattern, err = compilePattern(o.raw, globbing)
	case arnLike:
		err = o.compileARN()
	case boolEquals, isNull:
		o.flag, err = parseBool(o.raw)
	case binaryEquals:
		var decoded []byte
		decoded, err = base64.StdEncoding.DecodeString(o.raw)
		o.binary = string(decoded)
	case ipWithin:
		o.prefix, err = parsePrefix(o.raw)
	case numberEquals, numberLess, numberLessOrEqual:
		o.number, err = parseNumber(o.raw)
	case dateEquals, dateLess, dateLessOrEqual:
		o.date, err = parseDate(o.raw)
	}
	return o, err
}

// compileARN compiles the parts one by one: a wildcard does not cross a
// colon, except in the last part.
func (o *operand) compileARN() error {
	if err := checkARN(o.raw); err != nil {
		return fmt.Errorf("%q is not in valid ARN format: %w", o.raw, err)
	}
	var err error
	if o.pattern, err = compilePattern(o.raw, globbing); err != nil {
		return err
	}
	for _, text := range splitARN(o.raw) {
		compiled, err := compilePattern(text, globbing)
		if err != nil {
			return err
		}
		o.arn = append(o.arn, compiled)
	}
	return nil
}

func (o *operand) matchARN(value string, r *Request) (matches, resolved bool) {
	matches = true
	for i := range o.arn {
		text, rest, more := value, "", false
		if i < arnParts-1 {
			text, rest, more = strings.Cut(value, ":")
			matches = matches && more
		}
		ok, resolved := o.arn[i].match(text, r)
		if !resolved {
			return false, false
		}
		matches = matches && ok
		value = rest
	}
	return matches, true
}

func parseBool(text string) (bool, error) {
	switch {
	case strings.EqualFold(text, "true"):
		return true, nil
	case strings.EqualFold(text, "false"):
		return false, nil
	}
	return false, fmt.Errorf("%q must be true or false", text)
}

func parseNumber(text string) (float64, error) {
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(number) || math.IsInf(number, 0) {
		return 0, fmt.Errorf("%q is not a number", text)
	}
	return number, nil
}

// parsePrefix reads a CIDR block, or an address as a block of one.
func parsePrefix(text string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.Masked(), nil
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an IP address nor a CIDR block", text)
	}
	return netip.PrefixFrom(address, address.BitLen()), nil
}

// dateLayouts are the ISO 8601 forms that IAM reads; it also reads seconds
// since 1970.
var dateLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02"}

var errDate = errors.New("the date is neither ISO 8601, such as 2026-01-31T12:00:00Z, nor seconds since 1970")

func parseDate(text string) (time.Time, error) {
	for _, layout := range dateLayouts {
		if date, err := time.Parse(layout, text); err == nil {
			return date, nil
		}
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	return time.Time{}, errDate
}
