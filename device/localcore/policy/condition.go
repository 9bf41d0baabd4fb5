package policy

import (
	"cmp"
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

// A comparison is how an operator compares a value of the request with one of
// the policy.
type comparison uint8

const (
	stringEquals comparison = iota
	stringEqualsFold
	stringLike
	arnLike
	numberEquals
	numberLess
	numberLessOrEqual
	dateEquals
	dateLess
	dateLessOrEqual
	boolEquals
	binaryEquals
	ipWithin
	isNull
)

// An operator is a comparison or its opposite.
type operator struct {
	comparison comparison
	negated    bool
	// reversed swaps the two sides, which makes Greater of Less.
	reversed bool
}

// operators by the name that a policy uses. AWS IoT documents no list of its
// own; its examples use the operators of IAM.
//
// AWS page: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
var operators = map[string]operator{
	"StringEquals":              {comparison: stringEquals},
	"StringNotEquals":           {comparison: stringEquals, negated: true},
	"StringEqualsIgnoreCase":    {comparison: stringEqualsFold},
	"StringNotEqualsIgnoreCase": {comparison: stringEqualsFold, negated: true},
	"StringLike":                {comparison: stringLike},
	"StringNotLike":             {comparison: stringLike, negated: true},
	"ArnEquals":                 {comparison: arnLike},
	"ArnNotEquals":              {comparison: arnLike, negated: true},
	"ArnLike":                   {comparison: arnLike},
	"ArnNotLike":                {comparison: arnLike, negated: true},
	"NumericEquals":             {comparison: numberEquals},
	"NumericNotEquals":          {comparison: numberEquals, negated: true},
	"NumericLessThan":           {comparison: numberLess},
	"NumericLessThanEquals":     {comparison: numberLessOrEqual},
	"NumericGreaterThan":        {comparison: numberLess, reversed: true},
	"NumericGreaterThanEquals":  {comparison: numberLessOrEqual, reversed: true},
	"DateEquals":                {comparison: dateEquals},
	"DateNotEquals":             {comparison: dateEquals, negated: true},
	"DateLessThan":              {comparison: dateLess},
	"DateLessThanEquals":        {comparison: dateLessOrEqual},
	"DateGreaterThan":           {comparison: dateLess, reversed: true},
	"DateGreaterThanEquals":     {comparison: dateLessOrEqual, reversed: true},
	"Bool":                      {comparison: boolEquals},
	"BinaryEquals":              {comparison: binaryEquals},
	"IpAddress":                 {comparison: ipWithin},
	"NotIpAddress":              {comparison: ipWithin, negated: true},
	"Null":                      {comparison: isNull},
}

// A quantifier says how many of a key's values must pass.
type quantifier uint8

const (
	single quantifier = iota
	forAllValues
	forAnyValue
)

// A condition is one key of one operator with the values to compare with.
type condition struct {
	operator
	written    string // the operator as the policy writes it
	quantifier quantifier
	ifExists   bool
	key        key
	operands   []operand
}

// holds says whether the condition is met.
//
// When the key has no value, an operator with IfExists or ForAllValues and a
// negated one are met, others are not: IAM's rule.
func (c *condition) holds(r *Request) bool {
	var buf [inlineVariables]string
	values := c.key.values(buf[:0], r)
	if c.comparison == isNull {
		return c.operands[0].flag == (len(values) == 0)
	}
	if len(values) == 0 {
		return c.ifExists || c.quantifier == forAllValues || c.quantifier == single && c.negated
	}
	// A list without a quantifier passes when one value does; for a negated
	// operator none may equal.
	all := c.quantifier == forAllValues || c.quantifier == single && c.negated
	for _, value := range values {
		if c.accepts(value, r) != all {
			return !all
		}
	}
	return all
}

// accepts says whether one value passes: it equals one of the operands or,
// for a negated operator, none. An operand whose variable does not resolve
// equals nothing, and makes a negated operator fail.
func (c *condition) accepts(value string, r *Request) bool {
	equals := false
	for i := range c.operands {
		matches, resolved := c.compare(value, &c.operands[i], r)
		if !resolved && c.negated {
			return false
		}
		equals = equals || matches
	}
	return equals != c.negated
}

func (c *condition) compare(value string, o *operand, r *Request) (matches, resolved bool) {
	switch c.comparison {
	case stringEquals, stringLike:
		return o.pattern.match(value, r)
	case stringEqualsFold:
		return o.pattern.matchFold(value, r, true)
	case arnLike:
		return o.matchARN(value, r)
	case boolEquals:
		flag, err := parseBool(value)
		return err == nil && flag == o.flag, true
	case binaryEquals:
		return value == string(o.binary), true
	case ipWithin:
		address, err := netip.ParseAddr(value)
		return err == nil && o.prefix.Contains(address), true
	case numberEquals, numberLess, numberLessOrEqual:
		number, err := parseNumber(value)
		return err == nil && c.ordered(cmp.Compare(number, o.number)), true
	}
	date, err := parseDate(value)
	return err == nil && c.ordered(date.Compare(o.date)), true
}

// ordered says whether an order of the request's value to the policy's is
// what the operator requires.
func (c *condition) ordered(order int) bool {
	if c.reversed {
		order = -order
	}
	switch c.comparison {
	case numberEquals, dateEquals:
		return order == 0
	case numberLess, dateLess:
		return order < 0
	}
	return order <= 0
}

// An operand is one value of a condition, compiled for its comparison.
type operand struct {
	raw     string
	pattern pattern   // of strings and ARNs
	arn     []pattern // the same by part of the ARN
	number  float64
	date    time.Time
	flag    bool
	prefix  netip.Prefix
	binary  []byte // decoded
}

// conditions reads {OPERATOR: {KEY: VALUE or list}}. All of them must hold.
func (p *parser) conditions(n *jsontree.Node) (conditions []condition) {
	if n.Kind != jsontree.Object {
		p.fail(n, "must be an object, not %s", n.Kind)
	}
	for _, m := range n.Items {
		template, err := parseOperator(m.Key)
		p.failed(m, err)
		if m.Kind != jsontree.Object {
			p.fail(m, "must be an object, not %s", m.Kind)
		}
		for _, m := range m.Items {
			conditions = append(conditions, p.condition(template, m))
		}
	}
	return conditions
}

// parseOperator reads the name of an operator, such as
// ForAnyValue:StringEqualsIfExists. IfExists may follow any operator but Null.
func parseOperator(written string) (condition, error) {
	c := condition{written: written}
	name := written
	if rest, ok := strings.CutPrefix(name, "ForAllValues:"); ok {
		c.quantifier, name = forAllValues, rest
	} else if rest, ok := strings.CutPrefix(name, "ForAnyValue:"); ok {
		c.quantifier, name = forAnyValue, rest
	}
	name, c.ifExists = strings.CutSuffix(name, "IfExists")
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

func (p *parser) condition(c condition, m *jsontree.Node) condition {
	if !strings.Contains(m.Key, ":") {
		p.fail(m, "condition key %q has no prefix such as iot:", m.Key)
	}
	c.key = parseKey(m.Key)
	// An empty list is allowed: the page connect-policy uses one to accept
	// no attribute at all.
	for _, n := range listed(m) {
		o, err := c.compile(n)
		p.failed(n, err)
		c.operands = append(c.operands, o)
	}
	if c.comparison == isNull && len(c.operands) != 1 {
		p.fail(m, "Null takes one value, true or false")
	}
	return c
}

func (c *condition) compile(n *jsontree.Node) (o operand, err error) {
	o.raw = n.Text
	switch n.Kind {
	case jsontree.String, jsontree.Number, jsontree.Boolean:
	default:
		return o, fmt.Errorf("must be a string, not %s", n.Kind)
	}
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
		o.binary, err = base64.StdEncoding.DecodeString(o.raw)
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
