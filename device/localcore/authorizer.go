package localcore

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
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
type authorizer struct{ *Server }

// VerifyCertificate implements [broker.Authorizer]: a certificate must be registered, ACTIVE and
// within its validity. A handshake with one of a registered CA may register it. One that was
// registered without a CA's proof requires SNI, which says whose account it is.
func (a authorizer) VerifyCertificate(p broker.Principal, presented []*x509.Certificate, proved bool) error {
	cert, ok := a.registry.CertificateByID(awsiot.CertificateID(p.Certificate))
	switch {
	case presented != nil && (!ok || cert.Status == registry.PendingActivation && cert.CAID != ""): // of a CA
		return a.registerJustInTime(p.Certificate, presented, proved)
	case !ok:
		return errors.New("the certificate is not registered here (was it deleted?)")
	case cert.Mode == registry.SNIOnly && p.ServerName == "":
		return errors.New("the client named no server (SNI), which a certificate in mode SNI_ONLY requires")
	case cert.Status == registry.PendingActivation:
		return errors.New("the certificate is PENDING_ACTIVATION: RegisterThing has not succeeded for it yet")
	case cert.Status == registry.Inactive:
		return errors.New("the certificate is INACTIVE: activate it with UpdateCertificate")
	case cert.Status != registry.Active:
		return fmt.Errorf("the certificate is %s", cert.Status)
	}
	if cert.ClaimTemplate != "" && !a.config.Now().Before(cert.ClaimExpires) {
		return fmt.Errorf("the provisioning claim expired at %s", cert.ClaimExpires.UTC().Format(time.RFC3339))
	}
	return a.checkValidity(cert.NotBefore, cert.NotAfter)
}

// checkValidity returns an error if a certificate is not valid now.
func (s *Server) checkValidity(from, to time.Time) error {
	if now := s.config.Now(); now.Before(from) || now.After(to) {
		return fmt.Errorf("the certificate is valid from %s to %s only", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	}
	return nil
}

// NewSession implements [broker.Authorizer]. The thing of a session is that of its beginning, the
// policies are those of each moment.
func (a authorizer) NewSession(p broker.Principal) broker.AuthSession {
	if p.Certificate == nil {
		return iamSession{}
	}
	s := &authSession{server: a.Server, certificateID: p.CertificateID, session: a.policySession(p.CertificateID, p.ClientID, p.Certificate)}
	s.session.SourceIP, s.session.DomainName = p.Address.Addr(), p.ServerName
	_, s.exclusive = a.registry.ThingFor(p.CertificateID, "")
	return s
}

// policySession returns the session that a client with this certificate would have. A nil
// certificate is read from the registry.
func (s *Server) policySession(certificateID, clientID string, certificate *x509.Certificate) *policy.Session {
	session := &policy.Session{ClientID: clientID, Certificate: certificate}
	if t, ok := s.registry.ThingFor(certificateID, clientID); ok {
		session.Thing = &policy.Thing{Name: t.Name, Type: t.Type, Attributes: t.Attributes, Attached: true}
	}
	if cert, ok := s.registry.CertificateByID(certificateID); ok && certificate == nil {
		if certificates, err := awsiot.Certificates([]byte(cert.PEM)); err == nil { // the registry holds valid ones only
			session.Certificate = certificates[0]
		}
	}
	return session
}

// An authSession is one connection before its policies. It implements [broker.AuthSession].
type authSession struct {
	server        *Server
	certificateID string
	session       *policy.Session
	exclusive     bool
	policies      atomic.Pointer[policySet] // those of the latest evaluation
}

// A policySet is what holds while the registry does not change.
type policySet struct {
	generation uint64
	policies   []policy.Policy

	mu      sync.Mutex
	allowed map[broker.AuthRequest]bool // of the latest messages, maxAllowed at most; under mu
}

// maxAllowed is for how many topics and actions a session's policies are not evaluated again.
const maxAllowed = 128

// Thing implements [broker.AuthSession].
func (s *authSession) Thing() (name string, exclusive bool) {
	if s.session.Thing != nil {
		name = s.session.Thing.Name
	}
	return name, s.exclusive
}

// Authorize implements [broker.AuthSession].
func (s *authSession) Authorize(r broker.AuthRequest) (allowed bool, reason string) {
	set := s.current()
	set.mu.Lock()
	defer set.mu.Unlock()
	if set.allowed[r] {
		return true, ""
	}
	request := &policy.Request{Action: r.Action, Resource: s.server.ARN(r.Resource), Session: s.session}
	if r.Persistent {
		request.ConnectAttributes = append(request.ConnectAttributes, policy.PersistentConnect)
	}
	if r.HasWill {
		request.ConnectAttributes = append(request.ConnectAttributes, policy.LastWill)
		request.LastWillTopic = s.server.ARN("topic/" + r.WillTopic)
	}
	d := policy.Evaluate(set.policies, request)
	if !d.Allowed {
		return false, d.Explain()
	}
	if strings.HasPrefix(r.Resource, "topic/") { // of each message
		if set.allowed == nil || len(set.allowed) == maxAllowed {
			set.allowed = map[broker.AuthRequest]bool{}
		}
		set.allowed[r] = true
	}
	return true, ""
}

// current returns the policies that hold now.
func (s *authSession) current() *policySet {
	generation := s.server.registry.Generation() // read first: what is read later is at least as new
	set := s.policies.Load()
	if set == nil || set.generation != generation {
		policies := s.server.registry.PoliciesFor(s.certificateID, s.session.ClientID)
		set = &policySet{generation: generation, policies: s.server.parse(policies)}
		s.policies.Store(set)
	}
	return set
}

// evaluate evaluates policies for what needs no attributes of CONNECT.
func (s *Server) evaluate(documents []registry.PolicyDocument, action, resource string, session *policy.Session) policy.Decision {
	return policy.Evaluate(s.parse(documents), &policy.Request{Action: action, Resource: resource, Session: session})
}

// parse returns the policies that can be read; the registry holds valid ones only.
func (s *Server) parse(documents []registry.PolicyDocument) []policy.Policy {
	policies := make([]policy.Policy, 0, len(documents))
	for _, d := range documents {
		if parsed, err := s.documents.Parse(d.Document, policy.Parse); err == nil {
			policies = append(policies, policy.Policy{Name: d.Name, Document: parsed})
		}
	}
	return policies
}

// registerJustInTime does what AWS IoT does when a client that has proved that it holds the key
// presents a certificate of a registered CA that is not registered, or is PENDING_ACTIVATION: it
// registers it, publishes an event and, if the CA has a template, provisions the thing. It returns
// why the client cannot connect yet: it has to connect again in any case.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/auto-register-device-cert.html
func (s *Server) registerJustInTime(leaf *x509.Certificate, presented []*x509.Certificate, proved bool) error {
	ca, ok := s.registry.AuthorityOf(leaf, presented)
	if !ok {
		return fmt.Errorf("the certificate is not registered here, and neither is a CA that signed it (was it issued by another server, or before the state was lost?)")
	}
	if err := s.checkValidity(leaf.NotBefore, leaf.NotAfter); err != nil || !proved {
		return err
	}
	cert, err := s.registry.RegisterJustInTime(leaf, ca.Certificate.ID)
	if err != nil {
		return fmt.Errorf("the certificate is not registered here: %w", err)
	}
	s.publish("$aws/events/certificates/registered/"+cert.CAID, awsiot.EncodeJSON(map[string]any{
		"certificateId": cert.ID, "caCertificateId": cert.CAID, "timestamp": s.config.Now().UnixMilli(), "certificateStatus": cert.Status,
		"awsAccountId": s.config.Account, "certificateRegistrationTimestamp": fmt.Sprint(cert.Created.UnixMilli()),
	}))
	e := Event{Type: Issued, CertificateID: cert.ID, Operation: "just-in-time registration"}
	e.Reason = "certificate " + cert.ID + " is " + string(cert.Status) + ", by CA certificate " + cert.CAID
	s.history.Record(e)
	if ca.Registration == nil {
		return fmt.Errorf("the certificate is PENDING_ACTIVATION: its CA registered it just now; it has to be activated, and the client to connect again")
	}
	e.Operation, e.Type = "just-in-time provisioning", Provisioned
	if e.ThingName, err = s.provisioning.ProvisionJustInTime(leaf, cert.ID, *ca.Registration); err != nil {
		return fmt.Errorf("the certificate is PENDING_ACTIVATION: just-in-time provisioning failed: %w", err)
	}
	if cert, ok = s.registry.CertificateByID(cert.ID); ok {
		e.Reason = "certificate " + cert.ID + " is " + string(cert.Status)
	}
	s.history.Record(e)
	return fmt.Errorf("thing %q was provisioned just in time; the client has to connect again", e.ThingName)
}
