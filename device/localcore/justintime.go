package localcore

import (
	"crypto/x509"
	"fmt"

	"example.com/fleety/device/awsiot"
)

// registerJustInTime does what AWS IoT does when a client presents a certificate
// of a registered CA that is not registered, or is PENDING_ACTIVATION: it registers
// it, publishes an event and, if the CA has a template, provisions the thing. It
// returns why the client cannot connect yet: it has to connect again in any case.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/auto-register-device-cert.html
func (s *Server) registerJustInTime(leaf *x509.Certificate, presented []*x509.Certificate) error {
	ca, ok := s.registry.AuthorityOf(leaf, presented)
	if !ok {
		return fmt.Errorf("the certificate is not registered here, and neither is a CA that signed it (was it issued by another server, or before the state was lost?)")
	}
	if err := s.checkValidity(leaf.NotBefore, leaf.NotAfter); err != nil {
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
