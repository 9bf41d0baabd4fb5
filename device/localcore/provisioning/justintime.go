package provisioning

import (
	"crypto/x509"
	"fmt"
	"slices"

	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
)

// subjectParameters are the parameters that just-in-time provisioning takes from
// the certificate's subject, by their attribute type.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jit-provisioning.html
var subjectParameters = map[string]string{
	"2.5.4.3": "CommonName", "2.5.4.5": "SerialNumber", "2.5.4.6": "Country", "2.5.4.8": "StateName",
	"2.5.4.10": "Organization", "2.5.4.11": "OrganizationalUnit", "2.5.4.46": "DistinguishedNameQualifier",
}

// ProvisionJustInTime provisions the thing of a certificate that was registered by
// connecting, by the template of its CA. It returns the thing's name, empty if the
// template has none. An error leaves the certificate as it is.
func (s *Service) ProvisionJustInTime(leaf *x509.Certificate, id string, by registry.RegistrationConfig) (thing string, err error) {
	body := by.TemplateBody
	if by.TemplateName != "" {
		stored, err := s.config.Registry.DescribeProvisioningTemplate(by.TemplateName)
		if err != nil {
			return "", err
		}
		if !stored.Enabled {
			return "", fmt.Errorf("provisioning template %s is not enabled", stored.Name)
		}
		body = stored.Default().Body
	}
	t, err := s.templates.Parse(body, template.Parse)
	if err != nil {
		return "", fmt.Errorf("reading the template: %w", err)
	}
	parameters := map[string]string{}
	for _, attribute := range slices.Backward(leaf.Subject.Names) { // the first of a type counts
		name, known := subjectParameters[attribute.Type.String()]
		if value, ok := attribute.Value.(string); ok && known {
			parameters["AWS::IoT::Certificate::"+name] = value
		}
	}
	plan, err := t.Resolve(template.Input{Parameters: parameters, CertificateID: id})
	if err != nil {
		return "", err
	}
	done, err := s.config.Registry.Provision(registry.Provisioning{Plan: plan, CertificateID: id})
	if err != nil || done.Thing == nil {
		return "", err
	}
	return done.Thing.Name, nil
}
