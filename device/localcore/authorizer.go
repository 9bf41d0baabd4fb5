package localcore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/registry"
)

// An authorizer answers the broker's questions from the registry. It implements
// [broker.Authorizer].
type authorizer struct {
	server    *Server
	config    *Config
	registry  *registry.Registry
	documents documentCache
}

// VerifyCertificate implements [broker.Authorizer]: a certificate must be
// registered, ACTIVE and within its validity. A handshake with one of a registered
// CA may register it. One that was registered without a CA's proof requires SNI,
// which says whose account it is.
func (a *authorizer) VerifyCertificate(p broker.Principal, presented []*x509.Certificate) error {
	cert, ok := a.registry.CertificateByID(awsiot.CertificateID(p.Certificate))
	switch {
	case presented != nil && (!ok || cert.Status == registry.PendingActivation && cert.CAID != ""): // of a CA, and not waiting for RegisterThing
		return a.server.registerJustInTime(p.Certificate, presented)
	case !ok:
		return errors.New("the certificate is not registered here (was it deleted?)")
	case cert.Mode == registry.SNIOnly && p.ServerName == "":
		return errors.New("the client named no server (SNI), which a certificate in mode SNI_ONLY requires")
	}
	switch cert.Status {
	case registry.Active:
	case registry.PendingActivation:
		return fmt.Errorf("the certificate is PENDING_ACTIVATION: RegisterThing has not succeeded for it yet")
	case registry.Inactive:
		return fmt.Errorf("the certificate is INACTIVE: activate it with UpdateCertificate")
	default:
		return fmt.Errorf("the certificate is %s", cert.Status)
	}
	if _, expires, isClaim := a.registry.ClaimTemplate(cert.ID); isClaim && !a.config.Now().Before(expires) {
		return fmt.Errorf("the provisioning claim expired at %s", expires.UTC().Format(time.RFC3339))
	}
	return a.server.checkValidity(cert.NotBefore, cert.NotAfter)
}

// checkValidity returns an error if a certificate is not valid now.
func (s *Server) checkValidity(from, to time.Time) error {
	if now := s.config.Now(); now.Before(from) || now.After(to) {
		return fmt.Errorf("the certificate is valid from %s to %s only", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	}
	return nil
}

// NewSession implements [broker.Authorizer]. The thing of a session is that of
// its beginning, the policies are those of each moment.
func (a *authorizer) NewSession(p broker.Principal) broker.AuthSession {
	if p.Certificate == nil {
		return iamSession{}
	}
	s := &authSession{authorizer: a, certificateID: p.CertificateID, session: policy.Session{
		ClientID:    p.ClientID,
		SourceIP:    p.Address.Addr(),
		DomainName:  p.ServerName,
		Certificate: p.Certificate,
	}}
	if t, ok := a.registry.ThingFor(p.CertificateID, p.ClientID); ok {
		s.session.Thing = policyThing(t)
	}
	_, s.exclusive = a.registry.ExclusiveThing(p.CertificateID)
	return s
}

// policyThing returns a thing that is attached to the session's certificate.
func policyThing(t registry.Thing) *policy.Thing {
	return &policy.Thing{Name: t.Name, Type: t.Type, Attributes: t.Attributes, Attached: true}
}

// An authSession is one connection before its policies. It implements
// [broker.AuthSession].
type authSession struct {
	authorizer    *authorizer
	certificateID string
	session       policy.Session
	exclusive     bool
	policies      atomic.Pointer[policySet] // those of the latest evaluation
}

// A policySet is what holds while the registry does not change.
type policySet struct {
	generation uint64
	policies   []policy.Policy
}

// Thing implements [broker.AuthSession].
func (s *authSession) Thing() (name string, exclusive bool) {
	if s.session.Thing == nil {
		return "", s.exclusive
	}
	return s.session.Thing.Name, s.exclusive
}

// Authorize implements [broker.AuthSession].
func (s *authSession) Authorize(r broker.AuthRequest) (allowed bool, reason string) {
	config := s.authorizer.config
	request := &policy.Request{Action: r.Action, Resource: config.arn(r.Resource), Session: &s.session}
	if r.Persistent {
		request.ConnectAttributes = append(request.ConnectAttributes, policy.PersistentConnect)
	}
	if r.HasWill {
		request.ConnectAttributes = append(request.ConnectAttributes, policy.LastWill)
		request.LastWillTopic = config.arn("topic/" + r.WillTopic)
	}
	d := policy.Evaluate(s.current(), request)
	if d.Allowed {
		return true, ""
	}
	return false, d.Explain()
}

// current returns the policies that hold now.
func (s *authSession) current() []policy.Policy {
	generation := s.authorizer.registry.Generation() // read first: what is read later is at least as new
	if set := s.policies.Load(); set != nil && set.generation == generation {
		return set.policies
	}
	policies := s.authorizer.documents.parse(s.authorizer.registry.PoliciesFor(s.certificateID, s.session.ClientID))
	s.policies.Store(&policySet{generation, policies})
	return policies
}

// maxDocuments is how many policies stay parsed.
const maxDocuments = 1000

// A documentCache parses each policy once for all sessions. The zero value is
// empty. It is safe for concurrent use.
type documentCache struct {
	mu     sync.Mutex
	byText map[string]*policy.Document // under mu
}

// parse returns the policies that can be read; the registry holds valid ones
// only.
func (c *documentCache) parse(documents []registry.PolicyDocument) []policy.Policy {
	c.mu.Lock()
	defer c.mu.Unlock()
	policies := make([]policy.Policy, 0, len(documents))
	for _, d := range documents {
		parsed := c.byText[d.Document]
		if parsed == nil {
			var err error
			if parsed, err = policy.Parse([]byte(d.Document)); err != nil {
				continue
			}
			if len(c.byText) >= maxDocuments || c.byText == nil {
				c.byText = map[string]*policy.Document{}
			}
			c.byText[d.Document] = parsed
		}
		policies = append(policies, policy.Policy{Name: d.Name, Document: parsed})
	}
	return policies
}
