package registry

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
)

// A CACertificate is the certificate of a customer's own certificate authority.
type CACertificate struct {
	// Certificate is the certificate itself. Its Status is Active or Inactive; its
	// Mode is that of the certificates that are registered by it.
	Certificate Certificate
	// AutoRegistration allows certificates that it has signed to be registered by
	// connecting, Registration says by which template things are then provisioned.
	AutoRegistration bool
	Registration     *RegistrationConfig // nil for none
}

// A RegistrationConfig is a template for just-in-time provisioning: TemplateBody
// with RoleARN, or TemplateName.
type RegistrationConfig struct {
	TemplateBody string `json:"templateBody,omitempty"`
	RoleARN      string `json:"roleArn,omitempty"`
	TemplateName string `json:"templateName,omitempty"`
}

// A CACertificateUpdate describes a change of a CA certificate. Nil and zero leave a part alone.
type CACertificateUpdate struct {
	ID               string
	Status           CertificateStatus
	AutoRegistration *bool
	Registration     *RegistrationConfig
	// RemoveAutoRegistration takes the template away and ends the registration by connecting.
	RemoveAutoRegistration bool
}

// RegistrationCode returns the code that proves the possession of a CA's key. It
// is made by the first call, and stays until [Registry.DeleteRegistrationCode].
func (r *Registry) RegistrationCode() (string, error) {
	return mutate(r, func(tx *transaction) (string, error) {
		if code, ok := tx.codes.get(codeKey); ok {
			return code, nil
		}
		var random [32]byte
		rand.Read(random[:]) // never fails
		code := hex.EncodeToString(random[:])
		tx.codes.put(codeKey, code)
		return code, nil
	})
}

// DeleteRegistrationCode deletes the registration code.
func (r *Registry) DeleteRegistrationCode() error {
	return r.update(func(tx *transaction) error {
		if !tx.codes.has(codeKey) {
			return Reject(CodeNotFound, "There is no registration code.")
		}
		tx.codes.remove(codeKey)
		return nil
	})
}

// RegisterCACertificate registers the certificate of a CA: of its Certificate PEM,
// Mode and Status count. verificationPEM is a certificate that the CA has signed
// for the registration code as its common name; in mode SNIOnly there must be none.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/register-CA-cert.html
func (r *Registry) RegisterCACertificate(c CACertificate, verificationPEM string) (CACertificate, error) {
	return mutate(r, func(tx *transaction) (CACertificate, error) {
		ca, err := parseCertificate(c.Certificate.PEM)
		if err != nil {
			return c, err
		}
		c.Certificate = tx.newCertificate(ca, c.Certificate)
		switch err := cmp.Or(tx.checkAuthority(ca, c.Certificate.Mode, verificationPEM), tx.checkRegistration(c.Registration)); {
		case err != nil:
			return c, err
		case tx.authorities.has(c.Certificate.ID):
			return c, rejectFor("cacert/"+c.Certificate.ID, CodeAlreadyExists, "The CA certificate is already registered.")
		case len(tx.authoritiesNamed(ca.RawSubject)) >= MaxCAsPerSubject:
			return c, Reject(CodeLimitExceeded, "There are %d CA certificates with this subject already, which is the limit.", MaxCAsPerSubject)
		}
		tx.authorities.put(c.Certificate.ID, c)
		return c, nil
	})
}

// checkAuthority checks a CA certificate, and the proof that its key is there.
func (tx *transaction) checkAuthority(ca *x509.Certificate, mode CertificateMode, verificationPEM string) error {
	switch {
	case mode != DefaultMode && mode != SNIOnly:
		return invalid("certificate mode %q must be %s or %s", awsiot.Clip(string(mode)), DefaultMode, SNIOnly)
	case !ca.BasicConstraintsValid || !ca.IsCA:
		return Reject(CodeCertificateInvalid, "The certificate is not that of a CA (basicConstraints CA:TRUE).")
	case tx.now.Before(ca.NotBefore) || tx.now.After(ca.NotAfter):
		return Reject(CodeCertificateInvalid, "The CA certificate is not valid now.")
	case mode == SNIOnly && verificationPEM != "":
		return invalid("In mode %s the verification certificate must be empty.", SNIOnly)
	case mode == SNIOnly:
		return nil
	case verificationPEM == "":
		return invalid("In mode %s a verification certificate is required.", DefaultMode)
	}
	verification, err := parseCertificate(verificationPEM)
	if err != nil {
		return err
	}
	if err := verification.CheckSignatureFrom(ca); err != nil {
		return Reject(CodeCertificateInvalid, "The CA certificate did not sign the verification certificate: %v", err)
	}
	if code, ok := tx.codes.get(codeKey); !ok || verification.Subject.CommonName != code {
		return Reject(CodeRegistrationCode, "The common name of the verification certificate is not the registration code of this account.")
	}
	return nil
}

func (tx *transaction) checkRegistration(c *RegistrationConfig) error {
	switch {
	case c == nil:
		return nil
	case c.TemplateName != "" && (c.TemplateBody != "" || c.RoleARN != ""):
		return invalid("A registration configuration has a template name, or a template body with a role.")
	case c.TemplateName != "":
		t, err := tx.templates.find(c.TemplateName)
		if err == nil && t.Type != JITP {
			return invalid("Provisioning template %s has the type %s, not %s.", t.Name, t.Type, JITP)
		}
		return err
	case c.RoleARN == "":
		return invalid("A registration configuration with a template body requires a role ARN.")
	}
	return tx.options.checkTemplate(c.TemplateBody)
}

// DescribeCACertificate returns the CA certificate.
func (r *Registry) DescribeCACertificate(id string) (CACertificate, error) {
	return r.state().authorities.find(id)
}

// ListCACertificates returns the CA certificates whose registration configuration
// names the template, all of them for an empty name.
func (r *Registry) ListCACertificates(template string) []CACertificate {
	return r.state().authorities.where(func(c CACertificate) bool {
		return template == "" || c.Registration != nil && c.Registration.TemplateName == template
	})
}

// UpdateCACertificate changes a CA certificate.
func (r *Registry) UpdateCACertificate(u CACertificateUpdate) error {
	return edit(r, u.ID, func(tx *transaction, c *CACertificate) error {
		if u.Status != "" && u.Status != Active && u.Status != Inactive {
			return invalid("status %q of a CA certificate must be ACTIVE or INACTIVE", awsiot.Clip(string(u.Status)))
		}
		c.Certificate.Status = cmp.Or(u.Status, c.Certificate.Status)
		c.AutoRegistration = *cmp.Or(u.AutoRegistration, &c.AutoRegistration)
		c.Registration = cmp.Or(u.Registration, c.Registration)
		if u.RemoveAutoRegistration && u.Registration != nil {
			return invalid("A registration configuration cannot be set and removed in one request.")
		} else if u.RemoveAutoRegistration {
			c.AutoRegistration, c.Registration = false, nil
		}
		c.Certificate.Modified = tx.now
		c.Certificate.Version++
		return tx.checkRegistration(u.Registration)
	})
}

// DeleteCACertificate deletes a CA certificate that is inactive. The certificates
// that were registered by it stay.
func (r *Registry) DeleteCACertificate(id string) error {
	return r.update(func(tx *transaction) error {
		if c, _ := tx.authorities.get(id); c.Certificate.Status == Active {
			return Reject(CodeCertificateState, "The CA certificate must be deactivated (not ACTIVE) before deletion.")
		}
		return remove(tx, tx.authorities, id)
	})
}

// RegisterCertificate registers a certificate that a registered, active CA has
// signed; PEM and Status count. caPEM, which may be empty, is the CA's certificate;
// it is required where several have the issuer's name.
func (r *Registry) RegisterCertificate(c Certificate, caPEM string) (Certificate, error) {
	return mutate(r, func(tx *transaction) (Certificate, error) {
		c.Status = cmp.Or(c.Status, Inactive)
		leaf, err := parseCertificate(c.PEM)
		if err = cmp.Or(checkStatus(c.Status, CodeCertificateState), err); err != nil {
			return c, err
		}
		signers := tx.authoritiesNamed(leaf.RawIssuer)
		if caPEM != "" {
			ca, err := parseCertificate(caPEM)
			if err != nil {
				return c, err
			}
			signers = slices.DeleteFunc(signers, func(s authority) bool { return !s.cert.Equal(ca) })
		}
		switch {
		case tx.certificates.has(awsiot.CertificateID(leaf)):
			return tx.createCertificate(c) // which rejects it, whatever CA signed it
		case len(signers) > 1:
			return c, Reject(CodeCertificateConflict, "%d registered CA certificates have the issuer's name; caCertificatePem must say which one signed the certificate.", len(signers))
		case len(signers) == 0 || leaf.CheckSignatureFrom(signers[0].cert) != nil:
			return c, Reject(CodeCertificateInvalid, "No registered CA certificate signed the certificate.")
		case signers[0].record.Certificate.Status != Active:
			return c, Reject(CodeCertificateState, "The CA certificate is INACTIVE.")
		}
		c.Mode, c.CAID = signers[0].record.Certificate.Mode, signers[0].record.Certificate.ID
		return tx.createCertificate(c)
	})
}

// ListCertificatesByCA returns the certificates that were registered by a CA certificate.
func (r *Registry) ListCertificatesByCA(id string) []Certificate {
	return slices.DeleteFunc(r.ListCertificates(), func(c Certificate) bool { return c.CAID != id })
}

// AuthorityOf returns the registered CA certificate that signed leaf, directly or through those that
// were presented with it. Of several, as after one of the same key was renewed, it is one by which
// leaf can be registered just in time. It changes nothing.
func (r *Registry) AuthorityOf(leaf *x509.Certificate, presented []*x509.Certificate) (found CACertificate, ok bool) {
	s, now := r.state(), r.options.Now()
	for _, c := range awsiot.Chain(leaf, presented) {
		for _, ca := range s.authoritiesNamed(c.RawIssuer) {
			by := ca.record.Certificate
			usable := ca.record.AutoRegistration && by.Status == Active && !now.Before(by.NotBefore) && !now.After(by.NotAfter)
			if (usable || !ok) && c.CheckSignatureFrom(ca.cert) == nil {
				found, ok = ca.record, true
			}
		}
		if ok {
			break
		}
	}
	return found, ok
}

// RegisterJustInTime registers a certificate by connecting, as PENDING_ACTIVATION, and returns it;
// also one that waits already. The CA certificate must be active and allow it.
func (r *Registry) RegisterJustInTime(leaf *x509.Certificate, caID string) (Certificate, error) {
	return mutate(r, func(tx *transaction) (Certificate, error) {
		c, ok := tx.certificates.get(awsiot.CertificateID(leaf))
		if ok {
			return c, nil
		}
		ca, err := tx.authorities.find(caID)
		switch by := ca.Certificate; {
		case err != nil:
			return c, err
		case by.Status != Active || tx.now.Before(by.NotBefore) || tx.now.After(by.NotAfter):
			return c, Reject(CodeCertificateState, "The CA certificate that signed it is INACTIVE or has expired.")
		case !ca.AutoRegistration:
			return c, Reject(CodeCertificateState, "The CA certificate that signed it does not allow automatic registration.")
		}
		return tx.register(leaf, Certificate{Status: PendingActivation, Mode: ca.Certificate.Mode, CAID: caID})
	})
}

// An authority is a CA certificate as it is stored, and read.
type authority struct {
	record CACertificate
	cert   *x509.Certificate
}

// authoritiesNamed returns the CA certificates with this subject.
func (s *state) authoritiesNamed(rawSubject []byte) (named []authority) {
	for _, record := range s.authorities.all() {
		if cert, err := parseCertificate(record.Certificate.PEM); err == nil && bytes.Equal(cert.RawSubject, rawSubject) {
			named = append(named, authority{record, cert})
		}
	}
	return named
}

// A CertificateProvider is a Lambda function that signs the requests of
// CreateCertificateFromCsr in fleet provisioning.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provisioning-cert-provider.html
type CertificateProvider struct {
	Name, FunctionARN string
	Created, Modified time.Time
}

// CreateCertificateProvider makes the account's certificate provider; there can be
// one. It is idempotent for the same function.
func (r *Registry) CreateCertificateProvider(name, functionARN string) (CertificateProvider, error) {
	return mutate(r, func(tx *transaction) (p CertificateProvider, err error) {
		err = cmp.Or(checkName(awsiot.RoleAliases, "certificate provider name", name), checkFunctionARN(functionARN)) // the rule of both
		if err != nil {
			return p, err
		}
		if all := tx.providers.all(); len(all) > 0 {
			switch old := all[0]; {
			case old.Name != name:
				return p, Reject(CodeLimitExceeded, "The account has a certificate provider already, %s; there can be one.", old.Name)
			case old.FunctionARN != functionARN:
				return p, tx.providers.differs(name)
			default:
				return old, nil
			}
		}
		p = CertificateProvider{Name: name, FunctionARN: functionARN, Created: tx.now, Modified: tx.now}
		tx.providers.put(name, p)
		return p, nil
	})
}

func checkFunctionARN(arn string) error {
	if arn == "" || len(arn) > 2048 {
		return invalid("The ARN of a Lambda function is required.")
	}
	return nil
}

// DescribeCertificateProvider returns the certificate provider.
func (r *Registry) DescribeCertificateProvider(name string) (CertificateProvider, error) {
	return r.state().providers.find(name)
}

// ListCertificateProviders returns the account's certificate provider, if there is one.
func (r *Registry) ListCertificateProviders() []CertificateProvider { return r.state().providers.all() }

// UpdateCertificateProvider gives a certificate provider another function, unless functionARN is empty.
func (r *Registry) UpdateCertificateProvider(name, functionARN string) error {
	return edit(r, name, func(tx *transaction, p *CertificateProvider) error {
		p.FunctionARN, p.Modified = cmp.Or(functionARN, p.FunctionARN), tx.now
		return checkFunctionARN(p.FunctionARN)
	})
}

// DeleteCertificateProvider deletes a certificate provider: AWS IoT then signs by itself again.
func (r *Registry) DeleteCertificateProvider(name string) error {
	return r.update(func(tx *transaction) error { return remove(tx, tx.providers, name) })
}
