package policy

import (
	"crypto/x509"
	"net/netip"
)

// A Thing is what the thing policy variables resolve to.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html
type Thing struct {
	Name       string
	Type       string // the name of the thing's type, empty when it has none
	Attributes map[string]string
	Attached   bool // whether the thing is attached to the certificate of the session; no variable but IsAttached resolves when it is not
}

// A Session is one connection, for its whole life. Build it once and do not change it while
// requests use it.
type Session struct {
	ClientID   string
	SourceIP   netip.Addr // the client's address; the zero value does not resolve
	DomainName string     // the server name that the client sent (SNI); empty does not resolve
	// Thing is the one that the variables are about: the exclusive thing of the certificate, else
	// the thing that the client id names. Nil means that there is none; then no thing variable
	// resolves, and IsAttached is false.
	Thing       *Thing
	Certificate *x509.Certificate // the client's; nil does not resolve
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
	Action            string   // in full, such as iot:Publish
	Resource          string   // the full ARN, such as arn:aws:iot:us-east-1:123456789012:topic/a/b
	Session           *Session // must not be nil
	ConnectAttributes []string // what an iot:Connect requests: PersistentConnect, LastWill, both, or nothing
	LastWillTopic     string   // the full ARN of the will's topic, for iot:Connect; empty when there is no will
}

// A Decision is the answer to a Request and the reason for it.
type Decision struct {
	Allowed   bool
	Policy    string     // that of the first statement that decided; empty for a default deny
	Statement *Statement // the first that decided; nil for a default deny

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
	return s.matchesAction(r) && s.matchesResource(r) && s.failing(r) == nil
}

// matchesAction compares without case, as IAM does.
func (s *Statement) matchesAction(r *Request) bool { return s.Actions.matches(r.Action, r, true) }

func (s *Statement) matchesResource(r *Request) bool {
	return s.Resources.matches(r.Resource, r, false)
}

func (c *Clause) matches(text string, r *Request, fold bool) bool {
	for i := range c.patterns {
		matches, resolved := c.patterns[i].match(text, r, fold)
		if matches {
			return !c.Not
		}
		if !resolved && c.Not {
			return false
		}
	}
	return c.Not
}

func (s *Statement) failing(r *Request) *condition {
	for i := range s.conditions {
		if !s.conditions[i].holds(r) {
			return &s.conditions[i]
		}
	}
	return nil
}
