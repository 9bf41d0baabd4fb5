package policy

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/fleety/device/localcore/jsontree"
)

// operators compile what the policy gives, by the name that it uses; those with Not in it are
// negated. AWS IoT documents no list of its own; its examples use the operators of IAM.
//
// AWS page: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
var operators = map[string]func(*operand) error{
	"StringEquals": text(verbatim, false), "StringNotEquals": text(verbatim, false),
	"StringEqualsIgnoreCase": text(verbatim, true), "StringNotEqualsIgnoreCase": text(verbatim, true),
	"StringLike": text(globbing, false), "StringNotLike": text(globbing, false),
	"ArnEquals": (*operand).compileARN, "ArnNotEquals": (*operand).compileARN,
	"ArnLike": (*operand).compileARN, "ArnNotLike": (*operand).compileARN,
	"NumericEquals": number(0), "NumericNotEquals": number(0),
	"NumericLessThan": number(-1), "NumericLessThanEquals": number(-1, 0),
	"NumericGreaterThan": number(1), "NumericGreaterThanEquals": number(1, 0),
	"DateEquals": date(0), "DateNotEquals": date(0),
	"DateLessThan": date(-1), "DateLessThanEquals": date(-1, 0),
	"DateGreaterThan": date(1), "DateGreaterThanEquals": date(1, 0),
	"IpAddress": address, "NotIpAddress": address,
	"Bool": boolean, "Null": boolean,
	"BinaryEquals": against(base64.StdEncoding.DecodeString, func(want []byte, value string) bool { return value == string(want) }),
}

var (
	boolean = against(parseBool, func(want bool, value string) bool {
		got, err := parseBool(value)
		return err == nil && got == want
	})
	address = against(parsePrefix, func(want netip.Prefix, value string) bool {
		got, err := netip.ParseAddr(value)
		return err == nil && want.Contains(got)
	})
)

// text is for strings with the variables of policies, and with wildcards or without; fold compares
// without case.
func text(wildcards, fold bool) func(*operand) error {
	return func(o *operand) (err error) {
		o.fold = fold
		o.pattern, err = compilePattern(o.raw, wildcards)
		return err
	}
}

// number and date accept what has one of these orders to the value of the policy: less is -1, equal
// 0, greater 1.
func number(orders ...int) func(*operand) error {
	return against(parseNumber, func(want float64, value string) bool {
		got, err := parseNumber(value)
		return err == nil && slices.Contains(orders, cmp.Compare(got, want))
	})
}

func date(orders ...int) func(*operand) error {
	return against(parseDate, func(want time.Time, value string) bool {
		got, err := parseDate(value)
		return err == nil && slices.Contains(orders, got.Compare(want))
	})
}

// against reads what the policy gives with parse, to compare values of the request with it.
func against[T any](parse func(string) (T, error), accepts func(want T, value string) bool) func(*operand) error {
	return func(o *operand) error {
		want, err := parse(o.raw)
		o.accepts = func(value string) bool { return accepts(want, value) }
		return err
	}
}

// A condition is one key of one operator with the values to compare with.
type condition struct {
	compile        func(*operand) error
	written        string // the operator as the policy writes it
	forAll, forAny bool   // ForAllValues, ForAnyValue
	ifExists, null bool
	negated        bool
	key            key
	operands       []operand
}

// holds says whether the condition is met.
//
// When the key has no value, an operator with IfExists or ForAllValues and a negated one are met,
// others are not: IAM's rule. A list without a quantifier passes when one value does; for a negated
// operator none may equal.
func (c *condition) holds(r *Request) bool {
	var buf [inlineVariables]string
	values := c.key.values(buf[:0], r)
	if c.null {
		return c.operands[0].accepts(strconv.FormatBool(len(values) == 0))
	}
	all := c.forAll || c.negated && !c.forAny
	if len(values) == 0 {
		return c.ifExists || all
	}
	for _, value := range values {
		if c.accepts(value, r) != all {
			return !all
		}
	}
	return all
}

// accepts says whether one value passes: it equals one of the operands or, for a negated operator,
// none. An operand whose variable does not resolve equals nothing, and makes a negated operator
// fail.
func (c *condition) accepts(value string, r *Request) bool {
	equals := false
	for i := range c.operands {
		matches, resolved := c.operands[i].match(value, r)
		if !resolved && c.negated {
			return false
		}
		equals = equals || matches
	}
	return equals != c.negated
}

// An operand is one value of a condition, compiled for its operator.
type operand struct {
	raw     string
	pattern pattern                 // of strings and ARNs
	fold    bool                    // compare without case
	arn     []pattern               // the pattern by part of the ARN
	accepts func(value string) bool // of other types
}

func (o *operand) match(value string, r *Request) (matches, resolved bool) {
	switch {
	case o.accepts != nil:
		return o.accepts(value), true
	case o.arn == nil:
		return o.pattern.match(value, r, o.fold)
	}
	matches = true
	for i := range o.arn {
		text, rest, more := value, "", false
		if i < arnParts-1 {
			text, rest, more = strings.Cut(value, ":")
			matches = matches && more
		}
		ok, resolved := o.arn[i].match(text, r, false)
		if !resolved {
			return false, false
		}
		matches = matches && ok
		value = rest
	}
	return matches, true
}

// compileARN compiles the parts one by one: a wildcard does not cross a colon, except in the last
// part.
func (o *operand) compileARN() error {
	if err := checkARN(o.raw); err != nil {
		return fmt.Errorf("%q is not in valid ARN format: %w", o.raw, err)
	}
	for _, text := range splitARN(o.raw) {
		compiled, err := compilePattern(text, globbing)
		if err != nil {
			return err
		}
		o.arn = append(o.arn, compiled)
	}
	return text(globbing, false)(o)
}

// conditions reads {OPERATOR: {KEY: VALUE or list}}. All of them must hold.
func (p *parser) conditions(n *jsontree.Node) (conditions []condition) {
	p.expect(n, jsontree.Object)
	for _, m := range n.Items {
		template, err := parseOperator(m.Key)
		p.failed(m, err)
		p.expect(m, jsontree.Object)
		for _, m := range m.Items {
			conditions = append(conditions, p.condition(template, m))
		}
	}
	return conditions
}

// parseOperator reads the name of an operator, such as ForAnyValue:StringEqualsIfExists. IfExists
// may follow any operator but Null.
func parseOperator(written string) (condition, error) {
	c := condition{written: written}
	name, known := written, false
	if name, c.forAll = strings.CutPrefix(name, "ForAllValues:"); !c.forAll {
		name, c.forAny = strings.CutPrefix(name, "ForAnyValue:")
	}
	name, c.ifExists = strings.CutSuffix(name, "IfExists")
	c.null, c.negated = name == "Null", strings.Contains(name, "Not")
	if c.compile, known = operators[name]; known && !(c.null && c.ifExists) {
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
	// An empty list is allowed: the page connect-policy uses one to accept no attribute at all.
	for _, n := range listed(m) {
		o := operand{raw: n.Text}
		if n.Kind == jsontree.Object || n.Kind == jsontree.Array || n.Kind == jsontree.Null {
			p.expect(n, jsontree.String)
		} else if c.compile != nil {
			p.failed(n, c.compile(&o))
		}
		c.operands = append(c.operands, o)
	}
	if c.null && len(c.operands) != 1 {
		p.fail(m, "Null takes one value, true or false")
	}
	return c
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

// dateLayouts are the ISO 8601 forms that IAM reads; it also reads seconds since 1970.
var dateLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02"}

func parseDate(text string) (time.Time, error) {
	for _, layout := range dateLayouts {
		if date, err := time.Parse(layout, text); err == nil {
			return date, nil
		}
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	return time.Time{}, errors.New("the date is neither ISO 8601, such as 2026-01-31T12:00:00Z, nor seconds since 1970")
}
