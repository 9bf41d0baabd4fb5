package provisioning

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/registry"
)

// ProviderTimeout is how long a certificate provider may take.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provisioning-cert-provider.html
const ProviderTimeout = 5 * time.Second

// sign issues the certificate for a signing request: by the account's certificate provider, or by
// AWS IoT itself. text is the certificate with the chain that the provider gave.
func (s *Service) sign(ctx context.Context, r Request, csr string) (cert ca.Credential, text string, err error) {
	providers := s.config.Registry.ListCertificateProviders()
	if len(providers) == 0 {
		cert, err = s.IssueCSR(csr)
		return cert, string(cert.CertificatePEM), err
	}
	parsed, err := ca.ParseCSR(csr)
	if err != nil {
		return cert, "", err
	}
	s.record(r, event.Invoked, "certificate provider "+providers[0].Name)
	certificates, err := s.askProvider(ctx, r, providers[0], csr, parsed)
	if err != nil {
		s.record(r, event.Returned, "failed: "+err.Error())
		return cert, "", internalFailure.because("The certificate provider failed.", "certificate provider "+providers[0].Name+": "+err.Error())
	}
	for _, c := range certificates {
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		if text == "" {
			cert = ca.Credential{CertificateID: awsiot.CertificateID(c), CertificatePEM: block}
		}
		text += string(block)
	}
	s.record(r, event.Returned, cert.String())
	return cert, text, nil
}

// askProvider invokes the provider's function and checks what it answers: the
// first certificate must have the subject and the public key of the request.
func (s *Service) askProvider(ctx context.Context, r Request, p registry.CertificateProvider, csrPEM string, csr *x509.CertificateRequest) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, ProviderTimeout, fmt.Errorf("no answer within %s", ProviderTimeout))
	defer cancel()
	var answer string
	err := s.invoke(ctx, p.FunctionARN, map[string]string{
		"certificateSigningRequest": csrPEM, "principalId": r.CertificateID, "clientId": r.ClientID,
	}, map[string]any{"certificatePem": &answer})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	certificates, err := awsiot.Certificates([]byte(answer))
	if err != nil {
		return nil, fmt.Errorf("certificatePem: %w", err)
	}
	leaf := certificates[0]
	switch {
	case leaf.Subject.String() != csr.Subject.String():
		return nil, fmt.Errorf("the certificate has the subject %q, the request %q", leaf.Subject, csr.Subject)
	case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, csr.RawSubjectPublicKeyInfo):
		return nil, errors.New("the certificate has another public key than the request")
	}
	return certificates, nil
}
