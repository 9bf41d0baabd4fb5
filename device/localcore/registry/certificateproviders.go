package registry

import (
	"regexp"
	"time"
)

// A CertificateProvider is a Lambda function that signs the requests of
// CreateCertificateFromCsr in fleet provisioning.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provisioning-cert-provider.html
type CertificateProvider struct {
	Name, FunctionARN string
	Created, Modified time.Time
}

// clone implements record.
func (p CertificateProvider) clone() CertificateProvider { return p }

var providerNamePattern = regexp.MustCompile(`^[\w=,@-]{1,128}$`)

// CreateCertificateProvider makes the account's certificate provider; there can be
// one. It is idempotent for the same function.
func (r *Registry) CreateCertificateProvider(name, functionARN string) (CertificateProvider, error) {
	return mutate(r, func(tx *transaction) (CertificateProvider, error) {
		if !providerNamePattern.MatchString(name) {
			return CertificateProvider{}, invalid("certificate provider name %q must have 1 to 128 letters, digits and _=,@-", clip(name))
		}
		if err := checkFunctionARN(functionARN); err != nil {
			return CertificateProvider{}, err
		}
		old, exists := tx.providers.get(name)
		switch {
		case exists && old.FunctionARN == functionARN:
			return old, nil
		case exists:
			return old, tx.providers.differs(name)
		case len(tx.providers.keys()) > 0:
			return old, Reject(CodeLimitExceeded, "The account has a certificate provider already, %s; there can be one.", tx.providers.keys()[0])
		}
		p := CertificateProvider{Name: name, FunctionARN: functionARN, Created: tx.now, Modified: tx.now}
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
	return describe(r, r.committed.providers, name)
}

// ListCertificateProviders returns the account's certificate provider, if there is
// one.
func (r *Registry) ListCertificateProviders() []CertificateProvider {
	return list(r, r.committed.providers, nil)
}

// UpdateCertificateProvider gives a certificate provider another function.
func (r *Registry) UpdateCertificateProvider(name, functionARN string) error {
	return r.update(func(tx *transaction) error {
		p, err := tx.providers.find(name)
		if err != nil {
			return err
		}
		if err := checkFunctionARN(functionARN); err != nil {
			return err
		}
		p.FunctionARN, p.Modified = functionARN, tx.now
		tx.providers.put(name, p)
		return nil
	})
}

// DeleteCertificateProvider deletes a certificate provider: AWS IoT then signs by
// itself again.
func (r *Registry) DeleteCertificateProvider(name string) error {
	return r.update(func(tx *transaction) error { return remove(tx, tx.providers, name) })
}
