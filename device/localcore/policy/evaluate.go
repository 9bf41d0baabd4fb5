package policy

import (
	"crypto/x509"
	"net/netip"
)

// A Thing is what the thing policy variables resolve to.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html
type Thing struct {
	Name string
	// Type is the name of the thing's type, empty when it has none.
	Type       string
	Attributes map[string]string
	// Attached says whether the thing is attached to the certificate of the session. No variable
	// but IsAttached resolves when it is not.
	Attached bool
}

// A Session is one connection, for its whole life. Build it once and do not change it while
// requests use it.
type Session struct {
	ClientID string
	// SourceIP is the client's address; the zero value does not resolve.
	SourceIP netip.Addr
	// DomainName is the server name that the client sent (SNI); empty does not resolve.
	DomainName string
	// Thing is the one that the variables are about: the exclusive thing of the certificate, else
	// the thing that the client id names. Nil means that there is none; then no thing variable
	// resolves, and IsAttached is false.
	Thing *Thing
	// Certificate is the client's; nil does not resolve.
	Certificate *x509.Certificate
}

// Values of the condition key iot:ConnectAttributes.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/connect-policy.html
const (
	PersistentConnect = "PersistentConnect"
	LastWill          = "LastWill"
)

// A Request is one action of a session.
type Request struct {
	// Action is in full, such as iot:Publish.
	Action string
	// Resource is the full ARN, such as arn:aws:iot:us-east-1:123456789012:topic/a/b.
	Resource string
	// Session must not be nil.
	Session *Session
	// ConnectAttributes is what an iot:Connect requests: PersistentConnect, LastWill, both, or
	// nothing.
	ConnectAttributes []string
	// LastWillTopic is the full ARN of the will's topic, for iot:Connect; empty when there is no
	// will.
	LastWillTopic string
}

// A Decision is the answer to a Request and the reason for it.
type Decision struct {
	Allowed bool
	// Policy and Statement name the first statement that decided. They are empty and nil for a
	// default deny.
	Policy    string
	Statement *Statement

	request  Request
	policies []Policy
}

// Evaluate decides whether the policies together allow the request: nothing is allowed by default,
// one matching Allow opens, and one matching Deny in any of the policies closes.
//
// A variable that does not resolve matches nothing: a resource with it is none of the statement's,
// and a statement with it in NotResource or under a negated operator does not match, be it Allow or
// Deny. AWS IoT documents only that such an Allow does not allow.
//
// Evaluate does not allocate, unless certificate variables, aws:SourceIp or a pattern with more
// than four variables are involved. It is safe for concurrent use. The decision refers to policies,
// which must not change while it is in use.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-authorization.html
func Evaluate(policies []Policy, r *Request) Decision {
	d := Decision{request: *r, policies: policies}
	for i := range policies {
		for _, s := range policies[i].Document.Statements {
			if d.Allowed && s.Effect == Allow || !s.matches(r) {
				continue
			}
			d.Policy, d.Statement = policies[i].Name, s
			if d.Allowed = s.Effect == Allow; !d.Allowed {
				return d
			}
		}
	}
	return d
}

func (s *Statement) matches(r *Request) bool {
	return s.matchesAction(r.Action) && s.matchesResource(r) && s.failing(r) == nil
}

// matchesAction compares without case, as IAM does.
func (s *Statement) matchesAction(action string) bool {
	for i := range s.Actions.patterns {
		if matches, _ := glob(s.Actions.patterns[i].parts, nil, action, true); matches {
			return !s.Actions.Not
		}
	}
	return s.Actions.Not
}

func (s *Statement) matchesResource(r *Request) bool {
	for i := range s.Resources.patterns {
		matches, resolved := s.Resources.patterns[i].match(r.Resource, r, false)
		if matches {
			return !s.Resources.Not
		}
		if !resolved && s.Resources.Not {
			return false
		}
	}
	return s.Resources.Not
}

// failing returns the first condition that does not hold, or nil.
func (s *Statement) failing(r *Request) *condition {
	for i := range s.conditions {
		if !s.conditions[i].holds(r) {
			return &s.conditions[i]
		}
	}
	return nil
}
