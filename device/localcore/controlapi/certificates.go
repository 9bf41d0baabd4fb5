package controlapi

import (
	"cmp"

	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/registry"
)

func statusOf(active bool) registry.CertificateStatus {
	if active {
		return registry.Active
	}
	return registry.Inactive
}

// created returns what the operations that make a certificate answer.
func (a *api) created(c registry.Certificate) object {
	return a.ref("cert", "certificateId", c.ID).with(object{"certificatePem": c.PEM})
}

func keyPair(c ca.Credential) object {
	return object{"PublicKey": string(c.PublicKeyPEM), "PrivateKey": string(c.PrivateKeyPEM)}
}

func (a *api) createKeysAndCertificate(active bool) (object, error) {
	keys, err := a.Provisioning.IssueKeys()
	if err != nil {
		return nil, err
	}
	c, err := a.Registry.CreateCertificate(registry.Certificate{PEM: string(keys.CertificatePEM), Status: statusOf(active)})
	return a.created(c).with(object{"keyPair": keyPair(keys)}), err
}

func (a *api) createCertificateFromCSR(active bool, csr string) (object, error) {
	issued, err := a.Provisioning.IssueCSR(csr)
	if err != nil {
		return nil, err
	}
	c, err := a.Registry.CreateCertificate(registry.Certificate{PEM: string(issued.CertificatePEM), Status: statusOf(active)})
	return a.created(c), err
}

func (a *api) registerCertificateWithoutCA(text string, status registry.CertificateStatus) (object, error) {
	c, err := a.Registry.CreateCertificate(registry.Certificate{PEM: text, Status: status, Mode: registry.SNIOnly})
	return a.ref("cert", "certificateId", c.ID), err
}

// certificateSummary returns what a description and a list have in common.
func (a *api) certificateSummary(c registry.Certificate) object {
	return a.ref("cert", "certificateId", c.ID).with(object{"status": c.Status, "certificateMode": c.Mode, "creationDate": epoch(c.Created)})
}

// description returns what the descriptions of certificates and of CA certificates have in common.
func (a *api) description(c registry.Certificate) object {
	return object{
		"certificatePem": c.PEM, "ownedBy": a.Account, "lastModifiedDate": epoch(c.Modified), "customerVersion": c.Version,
		"validity": object{"notBefore": epoch(c.NotBefore), "notAfter": epoch(c.NotAfter)},
	}.optional("generationId", c.GenerationID)
}

func (a *api) registerCACertificate(active, auto bool, text, verification string, c *registry.RegistrationConfig, mode registry.CertificateMode) (object, error) {
	ca, err := a.Registry.RegisterCACertificate(registry.CACertificate{
		Certificate: registry.Certificate{PEM: text, Mode: mode, Status: statusOf(active)}, AutoRegistration: auto, Registration: c,
	}, verification)
	return a.ref("cacert", "certificateId", ca.Certificate.ID), err
}

// caSummary returns what a description and a list have in common.
func (a *api) caSummary(c registry.CACertificate) object {
	return a.ref("cacert", "certificateId", c.Certificate.ID).with(object{"status": c.Certificate.Status, "creationDate": epoch(c.Certificate.Created)})
}

func (a *api) caDescription(c registry.CACertificate) object {
	auto := "DISABLE"
	if c.AutoRegistration {
		auto = "ENABLE"
	}
	out := a.caSummary(c).with(a.description(c.Certificate)).
		with(object{"certificateMode": c.Certificate.Mode, "autoRegistrationStatus": auto})
	return object{"certificateDescription": out}.optional("registrationConfig", c.Registration)
}

func (a *api) updateCACertificate(id string, status registry.CertificateStatus, auto string, c *registry.RegistrationConfig, remove bool) error {
	u := registry.CACertificateUpdate{ID: id, Status: status, Registration: c, RemoveAutoRegistration: remove}
	if auto != "" {
		u.AutoRegistration = new(auto == "ENABLE")
	}
	return a.Registry.UpdateCACertificate(u)
}

// registerCertificate takes the status, or active, its older form.
func (a *api) registerCertificate(active bool, text, ca string, status registry.CertificateStatus) (object, error) {
	c, err := a.Registry.RegisterCertificate(registry.Certificate{PEM: text, Status: cmp.Or(status, statusOf(active))}, ca)
	return a.ref("cert", "certificateId", c.ID), err
}

func (a *api) providerSummary(p registry.CertificateProvider) object {
	return a.ref("certificateprovider", "certificateProviderName", p.Name)
}

func (a *api) createCertificateProvider(name, function string, _ []string, _ string) (object, error) {
	p, err := a.Registry.CreateCertificateProvider(name, function)
	return a.providerSummary(p), err
}

func (a *api) provider(p registry.CertificateProvider) object {
	return a.providerSummary(p).with(object{
		"lambdaFunctionArn": p.FunctionARN, "accountDefaultForOperations": []string{"CreateCertificateFromCsr"}, // the one that it can take over
		"creationDate": epoch(p.Created), "lastModifiedDate": epoch(p.Modified),
	})
}
