package provisioning

import (
	"context"
	"errors"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
)

// IssueKeys makes a key pair and a certificate for it, and registers neither.
func (s *Service) IssueKeys() (ca.Credential, error) {
	return s.config.Authority.IssueKeys(ca.NewKey, s.config.Now())
}

// IssueCSR makes a certificate for a signing request in PEM form, and does not register it. What
// AWS IoT would reject gives a [*registry.Error].
func (s *Service) IssueCSR(csr string) (ca.Credential, error) {
	cert, err := s.config.Authority.IssueForCSR(csr, s.config.Now())
	if e, ok := errors.AsType[*ca.CSRError](err); ok {
		err = registry.Reject(registry.CodeInvalidRequest, "The %v", e)
	}
	return cert, err
}

// RegisterThing is RegisterThing over HTTPS, with the template of the request. It returns the
// certificate, empty if the template names none, and the ARNs of what is registered by the logical
// names of the template. Its rejections are *[registry.Error] values.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_RegisterThing.html
func (s *Service) RegisterThing(ctx context.Context, body string, parameters map[string]string) (certificatePEM string, arns map[string]string, err error) {
	t, err := template.ParseBody([]byte(body))
	if err != nil {
		return "", nil, registry.Reject(registry.CodeInvalidRequest, "The template is not valid: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	plan, err := t.Resolve(template.Input{Parameters: parameters})
	if e, ok := errors.AsType[*template.Error](err); ok {
		return "", nil, registry.Reject(registry.CodeInvalidRequest, "%s", e.Message)
	} else if err != nil {
		return "", nil, err
	}
	request := registry.Provisioning{Plan: plan}
	if c := plan.Certificate; c != nil {
		if request.CertificateID = c.ID; c.ID == "" {
			text, err := s.certificateOf(c)
			if err != nil {
				return "", nil, err
			}
			request.NewCertificate = &registry.Certificate{PEM: text}
		}
	}
	done, err := s.config.Registry.Provision(request)
	if err != nil {
		return "", nil, err
	}
	arns = map[string]string{}
	if t := plan.Thing; t != nil {
		arns[t.LogicalName] = s.config.ARN("thing/" + t.Name)
	}
	if c := plan.Certificate; c != nil {
		arns[c.LogicalName] = s.config.ARN("cert/" + done.Certificate.ID)
	}
	for _, p := range plan.Policies {
		arns[p.LogicalName] = s.config.ARN("policy/" + p.Name)
	}
	return done.Certificate.PEM, arns, nil
}

// certificateOf returns the certificate that a template gives by a signing request or in PEM form.
// Whether its authority is registered is not checked.
func (s *Service) certificateOf(c *template.Certificate) (pem string, err error) {
	switch {
	case c.CSR != "":
		cert, err := s.IssueCSR(c.CSR)
		return string(cert.CertificatePEM), err
	case c.PEM == "":
		return "", registry.Reject(registry.CodeInvalidRequest, "The template's certificate resolves to nothing.")
	case c.CAPEM != "":
		certificate, err := awsiot.Certificates([]byte(c.PEM))
		authority, caErr := awsiot.Certificates([]byte(c.CAPEM))
		if err := errors.Join(err, caErr); err != nil {
			return "", registry.Reject(registry.CodeCertificateInvalid, "The certificate or that of its authority cannot be read: %v", err)
		}
		if err := certificate[0].CheckSignatureFrom(authority[0]); err != nil {
			return "", registry.Reject(registry.CodeCertificateInvalid, "CACertificatePem did not sign CertificatePem: %v", err)
		}
	}
	return c.PEM, nil
}
