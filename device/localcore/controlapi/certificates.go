package controlapi

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"example.com/fleety/device/localcore/registry"
)

// maxCSR is the greatest length of a certificate signing request, in
// characters.
const maxCSR = 4096

type keyPair struct {
	PublicKey  string
	PrivateKey string
}

type certificateCreated struct {
	ARN     string   `json:"certificateArn"`
	ID      string   `json:"certificateId"`
	PEM     string   `json:"certificatePem,omitempty"`
	KeyPair *keyPair `json:"keyPair,omitempty"`
}

// statusOf returns the status that setAsActive asks for.
func statusOf(q *request) registry.CertificateStatus {
	if q.flag("setAsActive") {
		return registry.Active
	}
	return registry.Inactive
}

func (a *api) createKeysAndCertificate(q *request) (any, error) {
	if a.Issuer == nil {
		return nil, unavailable("certificate authority")
	}
	keys, err := a.Issuer.IssueKeys(q.Context())
	if err != nil {
		return nil, err
	}
	c, err := a.Registry.CreateCertificate(registry.NewCertificate{PEM: keys.CertificatePEM, Status: statusOf(q)})
	if err != nil {
		return nil, err
	}
	return certificateCreated{
		a.names.certificate(c.ID), c.ID, c.PEM, &keyPair{keys.PublicKeyPEM, keys.PrivateKeyPEM},
	}, nil
}

func (a *api) createCertificateFromCSR(q *request) (any, error) {
	var in struct {
		CSR string `json:"certificateSigningRequest"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if n := len(in.CSR); n == 0 || n > maxCSR {
		return nil, invalid("a certificate signing request of %d characters, it must have 1 to %d", n, maxCSR)
	}
	if a.Issuer == nil {
		return nil, unavailable("certificate authority")
	}
	issued, err := a.Issuer.IssueCSR(q.Context(), in.CSR)
	if err != nil {
		return nil, err
	}
	c, err := a.Registry.CreateCertificate(registry.NewCertificate{PEM: issued, Status: statusOf(q)})
	if err != nil {
		return nil, err
	}
	return certificateCreated{ARN: a.names.certificate(c.ID), ID: c.ID, PEM: c.PEM}, nil
}

func (a *api) registerCertificateWithoutCA(q *request) (any, error) {
	var in struct {
		PEM    string                     `json:"certificatePem"`
		Status registry.CertificateStatus `json:"status"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	switch in.Status {
	case "", registry.Active, registry.Inactive, registry.Revoked:
	default:
		return nil, invalid("status %q must be ACTIVE, INACTIVE or REVOKED", clip(string(in.Status)))
	}
	c, err := a.Registry.CreateCertificate(registry.NewCertificate{PEM: in.PEM, Status: in.Status, Mode: registry.SNIOnly})
	if err != nil {
		return nil, err
	}
	return certificateCreated{ARN: a.names.certificate(c.ID), ID: c.ID}, nil
}

type certificateSummary struct {
	ARN     string                     `json:"certificateArn"`
	ID      string                     `json:"certificateId"`
	Status  registry.CertificateStatus `json:"status"`
	Mode    registry.CertificateMode   `json:"certificateMode"`
	Created epoch                      `json:"creationDate"`
}

func (a *api) summary(c registry.Certificate) certificateSummary {
	return certificateSummary{a.names.certificate(c.ID), c.ID, c.Status, c.Mode, epoch(c.Created)}
}

type certificateDescription struct {
	certificateSummary
	PEM             string   `json:"certificatePem"`
	OwnedBy         string   `json:"ownedBy"`
	Modified        epoch    `json:"lastModifiedDate"`
	CustomerVersion int64    `json:"customerVersion"`
	Validity        validity `json:"validity"`
}

type validity struct {
	NotBefore epoch `json:"notBefore"`
	NotAfter  epoch `json:"notAfter"`
}

func (a *api) describeCertificate(q *request) (any, error) {
	id := q.path("certificateId")
	if err := checkCertificateID(id); err != nil {
		return nil, err
	}
	c, err := a.Registry.DescribeCertificate(id)
	if err != nil {
		return nil, err
	}
	return struct {
		Description certificateDescription `json:"certificateDescription"`
	}{certificateDescription{
		a.summary(c), c.PEM, a.Account, epoch(c.Modified), c.Version, validity{epoch(c.NotBefore), epoch(c.NotAfter)},
	}}, nil
}

func (a *api) updateCertificate(q *request) (any, error) {
	id := q.path("certificateId")
	if err := checkCertificateID(id); err != nil {
		return nil, err
	}
	return nil, a.Registry.UpdateCertificate(id, registry.CertificateStatus(q.query("newStatus")))
}

func (a *api) deleteCertificate(q *request) (any, error) {
	id := q.path("certificateId")
	if err := checkCertificateID(id); err != nil {
		return nil, err
	}
	return nil, a.Registry.DeleteCertificate(id, q.flag("forceDelete"))
}

func (a *api) listCertificates(q *request) (any, error) {
	some, next, err := pageByAge(q, a.Registry.ListCertificates(), func(c registry.Certificate) string { return ageKey(c.Created, c.ID) })
	if err != nil {
		return nil, err
	}
	return struct {
		Certificates []certificateSummary `json:"certificates"`
		NextMarker   string               `json:"nextMarker,omitempty"`
	}{convert(some, a.summary), next}, nil
}

// ageKey is the key of an item in the order of creation.
func ageKey(created time.Time, name string) string {
	return fmt.Sprintf("%020d %s", created.UnixNano(), name)
}

// pageByAge is page for what is listed by creation date: ascending if
// isAscendingOrder says so, else the newest first.
func pageByAge[T any](q *request, items []T, key func(T) string) (some []T, next string, err error) {
	slices.SortFunc(items, func(x, y T) int { return cmp.Compare(key(x), key(y)) })
	if q.flag("isAscendingOrder") {
		return page(q, items, key)
	}
	slices.Reverse(items)
	return pageDescending(q, items, key)
}
