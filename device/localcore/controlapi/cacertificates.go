package controlapi

import (
	"crypto/x509"
	"encoding/pem"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/registry"
)

func (a *api) registrationCode(*request) (any, error) {
	code, err := a.Registry.RegistrationCode()
	return object{"registrationCode": code}, err
}

func (a *api) registerCACertificate(q *request, in struct {
	PEM          string                       `json:"caCertificate"`
	Verification string                       `json:"verificationCertificate"`
	Registration *registry.RegistrationConfig `json:"registrationConfig"`
	Tags         tags                         `json:"tags"`
	Mode         registry.CertificateMode     `json:"certificateMode"`
}) (any, error) {
	id := ""
	if block, _ := pem.Decode([]byte(in.PEM)); block != nil {
		id = awsiot.CertificateID(&x509.Certificate{Raw: block.Bytes})
	}
	_, err := tagged(a, in.Tags, "cacert/"+id, func() (registry.CACertificate, error) {
		return a.Registry.RegisterCACertificate(registry.NewCACertificate{
			PEM: in.PEM, VerificationPEM: in.Verification, Mode: in.Mode, Active: q.flag("setAsActive"),
			AutoRegistration: q.flag("allowAutoRegistration"), Registration: in.Registration,
		})
	})
	return object{"certificateArn": a.arn("cacert/" + id), "certificateId": id}, err
}

// caSummary returns what a description and a list have in common.
func (a *api) caSummary(c registry.CACertificate) object {
	return object{
		"certificateArn": a.arn("cacert/" + c.Certificate.ID), "certificateId": c.Certificate.ID,
		"status": c.Certificate.Status, "creationDate": epoch(c.Certificate.Created),
	}
}

func (a *api) describeCACertificate(q *request) (any, error) {
	c, err := a.Registry.DescribeCACertificate(q.path("certificateId"))
	out := a.caSummary(c)
	a.describe(out, c.Certificate)
	out["certificateMode"], out["autoRegistrationStatus"] = c.Certificate.Mode, "DISABLE"
	if c.AutoRegistration {
		out["autoRegistrationStatus"] = "ENABLE"
	}
	return object{"certificateDescription": out}.optional("registrationConfig", c.Registration), err
}

func (a *api) updateCACertificate(q *request, in struct {
	Registration *registry.RegistrationConfig `json:"registrationConfig"`
	Remove       bool                         `json:"removeAutoRegistration"`
}) (any, error) {
	u := registry.CACertificateUpdate{
		ID: q.path("certificateId"), Status: registry.CertificateStatus(q.query("newStatus")),
		Registration: in.Registration, RemoveAutoRegistration: in.Remove,
	}
	if status := q.query("newAutoRegistrationStatus"); status != "" {
		if status != "ENABLE" && status != "DISABLE" {
			return nil, invalid("newAutoRegistrationStatus %q must be ENABLE or DISABLE", clip(status))
		}
		enable := status == "ENABLE"
		u.AutoRegistration = &enable
	}
	return nil, a.Registry.UpdateCACertificate(u)
}

func (a *api) registerCertificate(q *request, in struct {
	PEM    string                     `json:"certificatePem"`
	CAPEM  string                     `json:"caCertificatePem"`
	Status registry.CertificateStatus `json:"status"`
}) (any, error) {
	if in.Status == "" {
		in.Status = statusOf(q) // setAsActive is the older form
	}
	if err := checkRegistered(in.Status); err != nil {
		return nil, err
	}
	c, err := a.Registry.RegisterCertificate(registry.NewCertificate{PEM: in.PEM, Status: in.Status}, in.CAPEM)
	return object{"certificateArn": a.arn("cert/" + c.ID), "certificateId": c.ID}, err
}

func certificateAge(c registry.Certificate) string { return ageKey(c.Created, c.ID) }

// providerOperation is the one operation that a certificate provider can take over.
const providerOperation = "CreateCertificateFromCsr"

type certificateProvider struct {
	FunctionARN string   `json:"lambdaFunctionArn"`
	Operations  []string `json:"accountDefaultForOperations"`
	ClientToken string   `json:"clientToken"` // creation is idempotent without
	Tags        tags     `json:"tags"`
}

func (p certificateProvider) check() error {
	if len(p.Operations) != 1 || p.Operations[0] != providerOperation {
		return invalid("accountDefaultForOperations must be [%q]", providerOperation)
	}
	return nil
}

func (a *api) providerSummary(name string) object {
	return object{"certificateProviderName": name, "certificateProviderArn": a.arn("certificateprovider/" + name)}
}

func (a *api) createCertificateProvider(q *request, in certificateProvider) (any, error) {
	name := q.path("certificateProviderName")
	if err := in.check(); err != nil {
		return nil, err
	}
	_, err := tagged(a, in.Tags, "certificateprovider/"+name, func() (registry.CertificateProvider, error) {
		return a.Registry.CreateCertificateProvider(name, in.FunctionARN)
	})
	return a.providerSummary(name), err
}

func (a *api) describeCertificateProvider(q *request) (any, error) {
	p, err := a.Registry.DescribeCertificateProvider(q.path("certificateProviderName"))
	out := a.providerSummary(p.Name)
	out["lambdaFunctionArn"], out["accountDefaultForOperations"] = p.FunctionARN, []string{providerOperation}
	out["creationDate"], out["lastModifiedDate"] = epoch(p.Created), epoch(p.Modified)
	return out, err
}

func (a *api) updateCertificateProvider(q *request, in struct {
	FunctionARN string   `json:"lambdaFunctionArn"`
	Operations  []string `json:"accountDefaultForOperations"`
}) (any, error) {
	name := q.path("certificateProviderName")
	if in.Operations != nil {
		if err := (certificateProvider{Operations: in.Operations}).check(); err != nil {
			return nil, err
		}
	}
	if in.FunctionARN == "" {
		_, err := a.Registry.DescribeCertificateProvider(name)
		return a.providerSummary(name), err
	}
	return a.providerSummary(name), a.Registry.UpdateCertificateProvider(name, in.FunctionARN)
}
