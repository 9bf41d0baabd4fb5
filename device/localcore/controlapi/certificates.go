package controlapi

import (
	"example.com/fleety/device/localcore/registry"
)

// maxCSR is the greatest length of a certificate signing request, in
// characters.
const maxCSR = 4096

// statusOf returns the status that setAsActive selects.
func statusOf(q *request) registry.CertificateStatus {
	if q.flag("setAsActive") {
		return registry.Active
	}
	return registry.Inactive
}

// created returns what the operations that make a certificate answer.
func (a *api) created(c registry.Certificate) object {
	return object{"certificateArn": a.arn("cert/" + c.ID), "certificateId": c.ID, "certificatePem": c.PEM}
}

func keyPair(k Keys) object {
	return object{"PublicKey": k.PublicKeyPEM, "PrivateKey": k.PrivateKeyPEM}
}

func (a *api) createKeysAndCertificate(q *request) (any, error) {
	keys, err := a.Issuer.IssueKeys(q.Context())
	if err != nil {
		return nil, err
	}
	c, err := a.Registry.CreateCertificate(registry.NewCertificate{PEM: keys.CertificatePEM, Status: statusOf(q)})
	out := a.created(c)
	out["keyPair"] = keyPair(keys)
	return out, err
}

func (a *api) createCertificateFromCSR(q *request, in struct {
	CSR string `json:"certificateSigningRequest"`
}) (any, error) {
	if n := len(in.CSR); n == 0 || n > maxCSR {
		return nil, invalid("a certificate signing request of %d characters, it must have 1 to %d", n, maxCSR)
	}
	issued, err := a.Issuer.IssueCSR(q.Context(), in.CSR)
	if err != nil {
		return nil, err
	}
	c, err := a.Registry.CreateCertificate(registry.NewCertificate{PEM: issued, Status: statusOf(q)})
	return a.created(c), err
}

func (a *api) registerCertificateWithoutCA(_ *request, in struct {
	PEM    string                     `json:"certificatePem"`
	Status registry.CertificateStatus `json:"status"`
}) (any, error) {
	if err := checkRegistered(in.Status); err != nil {
		return nil, err
	}
	c, err := a.Registry.CreateCertificate(registry.NewCertificate{PEM: in.PEM, Status: in.Status, Mode: registry.SNIOnly})
	return object{"certificateArn": a.arn("cert/" + c.ID), "certificateId": c.ID}, err
}

// checkRegistered checks the status that a certificate is to be registered with.
func checkRegistered(status registry.CertificateStatus) error {
	switch status {
	case "", registry.Active, registry.Inactive, registry.Revoked:
		return nil
	}
	return invalid("status %q must be ACTIVE, INACTIVE or REVOKED", clip(string(status)))
}

// certificateSummary returns what a description and a list have in common.
func (a *api) certificateSummary(c registry.Certificate) object {
	return object{
		"certificateArn": a.arn("cert/" + c.ID), "certificateId": c.ID,
		"status": c.Status, "certificateMode": c.Mode, "creationDate": epoch(c.Created),
	}
}

func (a *api) describeCertificate(q *request) (any, error) {
	c, err := a.Registry.DescribeCertificate(q.path("certificateId"))
	out := a.certificateSummary(c).optional("caCertificateId", c.CAID)
	a.describe(out, c)
	out["transferData"] = object{}
	return object{"certificateDescription": out}, err
}

// describe adds what the descriptions of certificates and of CA certificates have
// in common.
func (a *api) describe(out object, c registry.Certificate) {
	out.optional("generationId", c.GenerationID)
	out["certificatePem"], out["ownedBy"], out["lastModifiedDate"], out["customerVersion"] = c.PEM, a.Account, epoch(c.Modified), c.Version
	out["validity"] = object{"notBefore": epoch(c.NotBefore), "notAfter": epoch(c.NotAfter)}
}
