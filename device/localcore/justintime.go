package localcore

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strconv"

	"example.com/fleety/device/localcore/broker"
	"example.com/fleety/device/localcore/registry"
)

// A registeredEvent is the payload of $aws/events/certificates/registered/CAID.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/auto-register-device-cert.html
type registeredEvent struct {
	CertificateID           string `json:"certificateId"`
	CACertificateID         string `json:"caCertificateId"`
	TimestampMS             int64  `json:"timestamp"`
	CertificateStatus       string `json:"certificateStatus"`
	AccountID               string `json:"awsAccountId"`
	RegistrationTimestampMS string `json:"certificateRegistrationTimestamp"`
}

// registerJustInTime does what AWS IoT does when a client presents a certificate
// of a registered CA that is not registered, or is PENDING_ACTIVATION: it registers
// it, publishes an event and, if the CA has a template, provisions the thing. It
// returns why the client cannot connect yet: it has to connect again in any case.
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
	payload, err := json.Marshal(registeredEvent{
		CertificateID: cert.ID, CACertificateID: cert.CAID, TimestampMS: s.config.Now().UnixMilli(), CertificateStatus: cert.Status.String(),
		AccountID: s.config.Account, RegistrationTimestampMS: strconv.FormatInt(cert.Created.UnixMilli(), 10),
	})
	if err != nil {
		return err
	}
	s.publish(&broker.Message{Topic: "$aws/events/certificates/registered/" + cert.CAID, Payload: payload, QoS: 1}, 0)
	e := Event{Type: Issued, CertificateID: cert.ID, Operation: "just-in-time registration", Reason: "certificate " + cert.ID + " is " + string(cert.Status) + ", by CA certificate " + cert.CAID}
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

// pendingOfCA reports whether a certificate waits after a just-in-time
// registration, not for RegisterThing.
func pendingOfCA(c registry.Certificate) bool {
	return c.Status == registry.PendingActivation && c.CAID != ""
}

// invokeFunction invokes a function that runs here.
func (s *Server) invokeFunction(ctx context.Context, arn string, event []byte) ([]byte, error) {
	f := s.function(arn)
	if f == nil {
		return nil, fmt.Errorf("function %s does not run here", arn)
	}
	return f.Invoke(ctx, event)
}
