package broker

import (
	"crypto/x509"
	"net/netip"
)

// An Authorizer knows which certificates may connect, and what the policies of a client allow.
type Authorizer interface {
	// VerifyCertificate returns an error that says why a client with the principal's certificate
	// cannot connect now. During the handshake presented are the certificates that came with it,
	// and the principal has no client id yet; at CONNECT presented is nil. Until proved, at the end
	// of the handshake, the client may be anyone who has seen the certificate: nothing is changed.
	VerifyCertificate(p Principal, presented []*x509.Certificate, proved bool) error
	// NewSession returns what policies say of one connection.
	NewSession(Principal) AuthSession
}

// A Principal is who a connection belongs to.
type Principal struct {
	ClientID string
	// CertificateID is that of Certificate. A client over WebSocket has neither: AccessKeyID names
	// the AWS credentials that signed its request.
	CertificateID string
	Certificate   *x509.Certificate
	AccessKeyID   string
	ServerName    string // that the client asked for (SNI)
	Address       netip.AddrPort
}

// An AuthSession evaluates the policies that hold for one connection at the moment of each call. It
// is safe for concurrent use.
type AuthSession interface {
	// Authorize reports whether the request is allowed and, if it is not, which statement decided
	// and what would allow it.
	Authorize(AuthRequest) (allowed bool, reason string)
	// Thing returns the name of the thing that policies see, empty without one, and whether the
	// certificate is attached to it exclusively.
	Thing() (name string, exclusive bool)
}

// An AuthRequest is one action that a client wants to do.
type AuthRequest struct {
	Action   string // such as iot:Publish
	Resource string // the last part of its ARN, such as topic/a/b
	// Of iot:Connect:
	Persistent bool
	HasWill    bool
	WillTopic  string
}

// authorizePublish asks for iot:Publish and, for a retained message, for iot:RetainPublish besides.
func (c *Conn) authorizePublish(topic string, retain bool) (allowed bool, reason string) {
	allowed, reason = c.auth.Authorize(AuthRequest{Action: "iot:Publish", Resource: "topic/" + topic})
	if allowed && retain {
		return c.auth.Authorize(AuthRequest{Action: "iot:RetainPublish", Resource: "topic/" + topic})
	}
	return allowed, reason
}
