package localcore

import (
	"context"
	"errors"
	"strings"

	"example.com/fleety/device/awsiot"
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
		CertificatePEM: string(cert.PEM), PublicKeyPEM: string(cert.PublicKeyPEM), PrivateKeyPEM: string(cert.PrivateKeyPEM),
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
func (s control) RegisterThing(ctx context.Context, body string, parameters map[string]string) (out controlapi.Registration, err error) {
	t, err := template.ParseBody([]byte(body))
	if err != nil {
		return out, registry.Reject(registry.CodeInvalidRequest, "The template is not valid: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	plan, err := t.Resolve(template.Input{Parameters: parameters})
	if e, ok := errors.AsType[*template.Error](err); ok {
		return out, registry.Reject(registry.CodeInvalidRequest, "%s", e.Message)
	}
	if err != nil {
		return out, err
	}
	request := registry.Provisioning{Plan: plan}
	if c := plan.Certificate; c != nil {
		if request.CertificateID = c.ID; c.ID == "" {
			if request.NewCertificate, err = s.newCertificate(ctx, c); err != nil {
				return out, err
			}
		}
	}
	done, err := s.registry.Provision(request)
	if err != nil {
		return out, err
	}
	out = controlapi.Registration{CertificatePEM: done.Certificate.PEM, ResourceARNs: map[string]string{}}
	if t := plan.Thing; t != nil {
		out.ResourceARNs[t.LogicalName] = s.ARN("thing/" + t.Name)
	}
	if c := plan.Certificate; c != nil {
		out.ResourceARNs[c.LogicalName] = s.ARN("cert/" + done.Certificate.ID)
	}
	for _, p := range plan.Policies {
		out.ResourceARNs[p.LogicalName] = s.ARN("policy/" + p.Name)
	}
	return out, nil
}

// newCertificate returns the certificate that a template gives by a signing
// request or in PEM form. Whether its authority is registered is not checked.
func (s control) newCertificate(ctx context.Context, c *template.Certificate) (*registry.Certificate, error) {
	switch {
	case c.CSR != "":
		pem, err := s.IssueCSR(ctx, c.CSR)
		return &registry.Certificate{PEM: pem}, err
	case c.PEM == "":
		return nil, registry.Reject(registry.CodeInvalidRequest, "The template's certificate resolves to nothing.")
	case c.CAPEM != "":
		certificate, err := awsiot.Certificates([]byte(c.PEM))
		authority, caErr := awsiot.Certificates([]byte(c.CAPEM))
		if err := errors.Join(err, caErr); err != nil {
			return nil, registry.Reject(registry.CodeCertificateInvalid, "The certificate or that of its authority cannot be read: %v", err)
		}
		if err := certificate[0].CheckSignatureFrom(authority[0]); err != nil {
			return nil, registry.Reject(registry.CodeCertificateInvalid, "CACertificatePem did not sign CertificatePem: %v", err)
		}
	}
	return &registry.Certificate{PEM: c.PEM}, nil
}

// Authorize implements [controlapi.Authorizer].
func (s control) Authorize(_ context.Context, q controlapi.AuthRequest) controlapi.AuthResult {
	d := s.evaluate(q.Policies, q.Action, q.Resource, s.policySession(q.CertificateID, q.ClientID, nil))
	return controlapi.AuthResult{Allowed: d.Allowed, Explicit: d.Statement != nil && d.Statement.Effect == policy.Deny, Policy: d.Policy}
}
