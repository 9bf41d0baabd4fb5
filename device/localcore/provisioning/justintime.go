package provisioning

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
)

// subjectParameters are the parameters that just-in-time provisioning takes from
// the certificate's subject, by the last arc of their attribute type 2.5.4.x.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/jit-provisioning.html
var subjectParameters = map[int]string{
	3: "CommonName", 5: "SerialNumber", 6: "Country", 8: "StateName", 10: "Organization", 11: "OrganizationalUnit", 46: "DistinguishedNameQualifier",
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
	for _, attribute := range leaf.Subject.Names {
		for arc, name := range subjectParameters {
			value, ok := attribute.Value.(string)
			if _, given := parameters["AWS::IoT::Certificate::"+name]; ok && !given && attribute.Type.Equal(asn1.ObjectIdentifier{2, 5, 4, arc}) {
				parameters["AWS::IoT::Certificate::"+name] = value
			}
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
