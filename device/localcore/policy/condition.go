package policy

import (
	"cmp"
	"net/netip"
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
		return value == o.binary, true
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
