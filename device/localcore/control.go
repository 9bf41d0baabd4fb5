package localcore

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"

	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/controlapi"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
)

// A control does for the control API what needs more than the registry.
type control struct{ *Server }

var (
	_ controlapi.Issuer     = control{}
	_ controlapi.Registrar  = control{}
	_ controlapi.Authorizer = control{}
	_ controlapi.Shadows    = control{}
)

// IssueKeys implements [controlapi.Issuer].
func (s control) IssueKeys(ctx context.Context) (controlapi.Keys, error) {
	key, err := s.keys.Take(ctx)
	if err != nil {
		return controlapi.Keys{}, err
	}
	cert, err := s.authority.IssueForKey(key, s.config.Now())
	if err != nil {
		return controlapi.Keys{}, err
	}
	return controlapi.Keys{
		CertificatePEM: string(cert.PEM),
		PublicKeyPEM:   string(cert.PublicKeyPEM),
		PrivateKeyPEM:  string(cert.PrivateKeyPEM),
	}, nil
}

// IssueCSR implements [controlapi.Issuer].
func (s control) IssueCSR(_ context.Context, csr string) (string, error) {
	cert, err := s.authority.IssueForCSR(csr, s.config.Now())
	if e, ok := errors.AsType[*ca.CSRError](err); ok {
		return "", registry.Reject(registry.CodeInvalidRequest, "The %v", e)
	}
	if err != nil {
		return "", err
	}
	return string(cert.PEM), nil
}

// RegisterThing implements [controlapi.Registrar].
func (s control) RegisterThing(ctx context.Context, body string, parameters map[string]string) (controlapi.Registration, error) {
	t, err := template.ParseBody([]byte(body))
	if err != nil {
		return controlapi.Registration{}, registry.Reject(registry.CodeInvalidRequest, "The template is not valid: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	plan, err := t.Resolve(template.Input{Parameters: parameters})
	if e, ok := errors.AsType[*template.Error](err); ok {
		return controlapi.Registration{}, registry.Reject(registry.CodeInvalidRequest, "%s", e.Message)
	}
	if err != nil {
		return controlapi.Registration{}, err
	}
	request := registry.Provisioning{Plan: plan}
	if c := plan.Certificate; c != nil {
		request.CertificateID = c.ID
		if c.ID == "" {
			if request.NewCertificate, err = s.newCertificate(ctx, c); err != nil {
				return controlapi.Registration{}, err
			}
		}
	}
	done, err := s.registry.Provision(request)
	if err != nil {
		return controlapi.Registration{}, err
	}
	return controlapi.Registration{
		CertificatePEM: done.Certificate.PEM,
		ResourceARNs:   s.resourceARNs(plan, done),
	}, nil
}

// newCertificate returns the certificate that a template gives by a signing
// request or in PEM form. Whether its authority is registered is not checked.
func (s control) newCertificate(ctx context.Context, c *template.Certificate) (*registry.NewCertificate, error) {
	switch {
	case c.CSR != "":
		pem, err := s.IssueCSR(ctx, c.CSR)
		return &registry.NewCertificate{PEM: pem}, err
	case c.PEM == "":
		return nil, registry.Reject(registry.CodeInvalidRequest, "The template's certificate resolves to nothing.")
	case c.CAPEM != "":
		certificate, err := parsePEM(c.PEM)
		authority, caErr := parsePEM(c.CAPEM)
		if err := errors.Join(err, caErr); err != nil {
			return nil, registry.Reject(registry.CodeCertificateInvalid, "The certificate or that of its authority cannot be read: %v", err)
		}
		if err := certificate.CheckSignatureFrom(authority); err != nil {
			return nil, registry.Reject(registry.CodeCertificateInvalid, "CACertificatePem did not sign CertificatePem: %v", err)
		}
	}
	return &registry.NewCertificate{PEM: c.PEM}, nil
}

// resourceARNs gives the ARNs of a plan by the logical names of its template.
func (s control) resourceARNs(plan *template.Plan, done registry.Provisioned) map[string]string {
	arns := map[string]string{}
	if t := plan.Thing; t != nil {
		arns[t.LogicalName] = s.ARN("thing/" + t.Name)
	}
	if c := plan.Certificate; c != nil {
		arns[c.LogicalName] = s.ARN("cert/" + done.Certificate.ID)
	}
	for _, p := range plan.Policies {
		arns[p.LogicalName] = s.ARN("policy/" + p.Name)
	}
	return arns
}

// Authorize implements [controlapi.Authorizer].
func (s control) Authorize(_ context.Context, q controlapi.AuthRequest) controlapi.AuthResult {
	d := policy.Evaluate(new(documentCache).parse(q.Policies), &policy.Request{
		Action: q.Action, Resource: q.Resource, Session: s.policySession(q.CertificateID, q.ClientID),
	})
	return controlapi.AuthResult{
		Allowed:  d.Allowed,
		Explicit: d.Statement != nil && d.Statement.Effect == policy.Deny,
		Policy:   d.Policy,
	}
}

// policySession returns the session that a client with this certificate would
// have.
func (s *Server) policySession(certificateID, clientID string) *policy.Session {
	session := &policy.Session{ClientID: clientID}
	if t, ok := s.registry.ThingFor(certificateID, clientID); ok {
		session.Thing = policyThing(t)
	}
	if cert, ok := s.registry.CertificateByID(certificateID); ok {
		session.Certificate, _ = parsePEM(cert.PEM) // the registry holds valid ones only
	}
	return session
}

func parsePEM(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("not in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}
