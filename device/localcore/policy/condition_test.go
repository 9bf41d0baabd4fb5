package policy

import (
	"net/netip"
	"testing"
)

// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html:
// string, numeric, date, Boolean, binary, IP address, ARN and Null operators compare as IAM
// documents.
func TestConditionOperators(t *testing.T) {
	const id, attribute, ip = "iot:ClientId", "iot:Connection.Thing.Attributes[x]", "aws:SourceIp"
	type values = []string
	tests := map[string]struct {
		operator, key string
		operands      values
		met, unmet    values // of the key
	}{
		"StringEquals":                    {"StringEquals", id, values{"a", "b*"}, values{"a", "b*"}, values{"A", "bc", ""}},
		"StringEquals of a variable":      {"StringEquals", attribute, values{"${iot:ClientId}"}, values{"client"}, values{"Client"}},
		"StringNotEquals":                 {"StringNotEquals", id, values{"a", "b"}, values{"A", "c"}, values{"a", "b"}},
		"StringEqualsIgnoreCase":          {"StringEqualsIgnoreCase", id, values{"Ab"}, values{"aB"}, values{"a"}},
		"StringNotEqualsIgnoreCase":       {"StringNotEqualsIgnoreCase", id, values{"Ab"}, values{"a"}, values{"aB"}},
		"StringLike":                      {"StringLike", id, values{"a*", "?z"}, values{"a", "abc", "bz"}, values{"ba", "Abc"}},
		"StringNotLike":                   {"StringNotLike", id, values{"a*"}, values{"ba"}, values{"abc"}},
		"NumericEquals":                   {"NumericEquals", attribute, values{"10", "20"}, values{"10", "10.0", "2e1"}, values{"11", "ten", "0xA"}},
		"NumericNotEquals":                {"NumericNotEquals", attribute, values{"10"}, values{"11"}, values{"10.0"}},
		"NumericLessThan":                 {"NumericLessThan", attribute, values{"10"}, values{"9.99", "-3"}, values{"10", "11", "NaN"}},
		"NumericLessThanEquals":           {"NumericLessThanEquals", attribute, values{"10"}, values{"10", "9"}, values{"10.1"}},
		"NumericGreaterThan":              {"NumericGreaterThan", attribute, values{"10"}, values{"10.1"}, values{"10", "9", "inf"}},
		"NumericGreaterThanEquals":        {"NumericGreaterThanEquals", attribute, values{"10"}, values{"10", "11"}, values{"9"}},
		"DateEquals":                      {"DateEquals", attribute, values{"2026-01-31T12:00:00Z"}, values{"2026-01-31T12:00:00.0Z", "1769860800"}, values{"2026-01-31", "soon"}},
		"DateNotEquals":                   {"DateNotEquals", attribute, values{"2026-01-31"}, values{"2026-02-01"}, values{"2026-01-31T00:00Z"}},
		"DateLessThan":                    {"DateLessThan", attribute, values{"2026-01-31"}, values{"2026-01-30"}, values{"2026-01-31"}},
		"DateLessThanEquals":              {"DateLessThanEquals", attribute, values{"2026-01-31"}, values{"2026-01-31"}, values{"2026-01-31T00:00:01"}},
		"DateGreaterThan":                 {"DateGreaterThan", attribute, values{"1769860800"}, values{"2026-02-01"}, values{"2026-01-31T12:00:00Z"}},
		"DateGreaterThanEquals":           {"DateGreaterThanEquals", attribute, values{"2026-01-31"}, values{"2026-01-31"}, values{"2026-01-30"}},
		"Bool":                            {"Bool", attribute, values{"true"}, values{"true", "True"}, values{"false", "1"}},
		"BinaryEquals":                    {"BinaryEquals", id, values{"Y2xpZW50"}, values{"client"}, values{"Y2xpZW50"}},
		"IpAddress in a block":            {"IpAddress", ip, values{"10.1.0.0/16", "::1", "fe80::/10"}, values{"10.1.2.3", "::1", "::ffff:10.1.2.3", "fe80::1%eth0"}, values{"10.2.0.1", "::2"}},
		"NotIpAddress":                    {"NotIpAddress", ip, values{"10.1.0.0/16"}, values{"10.2.0.1"}, values{"10.1.2.3"}},
		"ArnEquals with wildcards":        {"ArnEquals", attribute, values{"arn:aws:iot:*:1?:topic/*"}, values{"arn:aws:iot:r:12:topic/a:b"}, values{"arn:aws:iot:r:1:topic/a", "topic/a"}},
		"ArnNotEquals":                    {"ArnNotEquals", attribute, values{"arn:aws:iot:*:*:topic/a"}, values{"arn:aws:iot:r:1:topic/b"}, values{"arn:aws:iot:r:1:topic/a"}},
		"ArnNotLike, a * within its part": {"ArnNotLike", attribute, values{"arn:aws:*:r:1:x"}, values{"arn:aws:a:b:r:1:x"}, values{"arn:aws:iot:r:1:x"}},
		"ArnLike of a variable":           {"ArnLike", attribute, values{"arn:aws:iot:r:1:topic/${iot:ClientId}"}, values{"arn:aws:iot:r:1:topic/client"}, values{"arn:aws:iot:r:1:topic/x"}},
		"Null true: the key has none":     {"Null", attribute, values{"true"}, values{""}, values{"x"}},
		"Null false: it has one":          {"Null", attribute, values{"false"}, values{"x"}, values{""}},
	}
	session := func(key, value string) *Session {
		s := &Session{ClientID: "client", Thing: &Thing{Name: "client", Attached: true}}
		switch key {
		case id:
			s.ClientID = value
		case attribute:
			s.Thing.Attributes = map[string]string{"x": value}
		case ip:
			s.SourceIP = netip.MustParseAddr(value)
		}
		return s
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := document(t, allow("*", "*").when(test.operator, test.key, test.operands...))
			for _, value := range test.met {
				runChecks(t, d, check{request(session(test.key, value), "iot:Publish", "topic/a"), true})
			}
			for _, value := range test.unmet {
				runChecks(t, d, check{request(session(test.key, value), "iot:Publish", "topic/a"), false})
			}
		})
	}
}

// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html:
// an absent key meets negated operators, IfExists and ForAllValues, and nothing else.
func TestConditionOnAbsentKey(t *testing.T) {
	tests := map[string]bool{
		"StringEquals":                       false,
		"StringNotEquals":                    true,
		"StringEqualsIfExists":               true,
		"NotIpAddress":                       true,
		"IpAddress":                          false,
		"ForAllValues:StringEquals":          true,
		"ForAllValues:StringNotEquals":       true,
		"ForAnyValue:StringEquals":           false,
		"ForAnyValue:StringNotEquals":        false,
		"ForAnyValue:StringEqualsIfExists":   true,
		"ForAllValues:StringNotLikeIfExists": true,
	}
	for operator, want := range tests {
		d := document(t, allow("*", "*").when(operator, "iot:DomainName", "10.0.0.0"))
		runChecks(t, d, check{request(stranger("me"), "iot:Connect", "client/me"), want})
	}
}

// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html:
// ForAnyValue wants one value of the request to match, ForAllValues wants all.
func TestConditionQuantifiers(t *testing.T) {
	tests := map[string]struct {
		operator string
		want     map[string]bool // by the values that the request has
	}{
		"one value is enough without a quantifier": {"StringEquals", map[string]bool{"a": true, "a b": true, "b": false}},
		"no value may equal under a negation":      {"StringNotEquals", map[string]bool{"a": false, "a b": false, "b": true}},
		"any":                                      {"ForAnyValue:StringEquals", map[string]bool{"a": true, "a b": true, "b": false}},
		"all":                                      {"ForAllValues:StringEquals", map[string]bool{"a": true, "a b": false, "b": false}},
		"any that does not equal":                  {"ForAnyValue:StringNotEquals", map[string]bool{"a": false, "a b": true, "b": true}},
		"none that equals":                         {"ForAllValues:StringNotEquals", map[string]bool{"a": false, "a b": false, "b": true}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d := document(t, allow("*", "*").when(test.operator, "iot:ConnectAttributes", "a"))
			for values, want := range test.want {
				r := request(stranger("me"), "iot:Connect", "client/me")
				for _, value := range values {
					if value != ' ' {
						r.ConnectAttributes = append(r.ConnectAttributes, string(value))
					}
				}
				runChecks(t, d, check{r, want})
			}
		})
	}
}

func TestConditionOfUnresolvedVariable(t *testing.T) {
	me := request(stranger("me"), "iot:Connect", "client/me")
	for operator, want := range map[string]bool{"StringEquals": true, "StringNotEquals": false, "StringLike": true} {
		// One operand resolves and is equal, which only helps an operator that is not negated; the
		// other does not resolve.
		d := document(t, allow("*", "*").when(operator, "iot:ClientId", "${iot:Connection.Thing.ThingName}", "me"))
		runChecks(t, d, check{me, want})
	}
	d := document(t, allow("*", "*").when("StringNotEquals", "iot:ClientId", "${iot:Connection.Thing.ThingName}"))
	runChecks(t, d, check{me, false})
}

// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html:
// all operators and keys of a condition must hold, one of the values of a key is enough.
func TestConditionsMustAllHold(t *testing.T) {
	d := document(t, allow("*", "*").
		when("StringLike", "iot:ClientId", "a*").
		when("StringNotLike", "iot:ClientId", "*z"))
	runChecks(t, d,
		check{request(stranger("ab"), "iot:Connect", "client/ab"), true},
		check{request(stranger("az"), "iot:Connect", "client/az"), false},
		check{request(stranger("b"), "iot:Connect", "client/b"), false})
}
