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

var providerNamePattern = regexp.MustCompile(`^[\w=,@-]{1,128}$`)

// CreateCertificateProvider makes the account's certificate provider; there can be
// one. It is idempotent for the same function.
func (r *Registry) CreateCertificateProvider(name, functionARN string) (CertificateProvider, error) {
	return mutate(r, func(tx *transaction) (p CertificateProvider, err error) {
		if !providerNamePattern.MatchString(name) {
			return p, invalid("certificate provider name %q must have 1 to 128 letters, digits and _=,@-", clip(name))
		}
		if err := checkFunctionARN(functionARN); err != nil {
			return p, err
		}
		for _, old := range tx.providers.all() {
			switch {
			case old.Name != name:
				return p, Reject(CodeLimitExceeded, "The account has a certificate provider already, %s; there can be one.", old.Name)
			case old.FunctionARN != functionARN:
				return p, tx.providers.differs(name)
			}
			return old, nil
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
	return r.committed.Load().providers.find(name)
}

// ListCertificateProviders returns the account's certificate provider, if there is
// one.
func (r *Registry) ListCertificateProviders() []CertificateProvider {
	return r.committed.Load().providers.all()
}

// UpdateCertificateProvider gives a certificate provider another function.
func (r *Registry) UpdateCertificateProvider(name, functionARN string) error {
	return r.update(func(tx *transaction) error {
		return tx.providers.edit(name, func(p *CertificateProvider) error {
			p.FunctionARN, p.Modified = functionARN, tx.now
			return checkFunctionARN(functionARN)
		})
	})
}

// DeleteCertificateProvider deletes a certificate provider: AWS IoT then signs by
// itself again.
func (r *Registry) DeleteCertificateProvider(name string) error {
	return r.update(func(tx *transaction) error { return remove(tx, tx.providers, name) })
}
