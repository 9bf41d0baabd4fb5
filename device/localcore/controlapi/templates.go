package controlapi

import (
	"errors"
	"fmt"
	"time"

	"example.com/fleety/device/localcore/registry"
)

// claimLife is how long a provisioning claim is valid.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html
const claimLife = 5 * time.Minute

// maxParameters bounds the parameters of RegisterThing.
const (
	maxParameterName  = 2048
	maxParameterValue = 4096
)

type provisioningHook struct {
	PayloadVersion string `json:"payloadVersion,omitempty"`
	TargetARN      string `json:"targetArn"`
}

func (h *provisioningHook) hook() *registry.Hook {
	if h == nil {
		return nil
	}
	return &registry.Hook{PayloadVersion: h.PayloadVersion, TargetARN: h.TargetARN}
}

func (a *api) createProvisioningTemplate(q *request) (any, error) {
	var in struct {
		Name        string                `json:"templateName"`
		Description string                `json:"description"`
		Body        string                `json:"templateBody"`
		Enabled     bool                  `json:"enabled"`
		RoleARN     string                `json:"provisioningRoleArn"`
		Hook        *provisioningHook     `json:"preProvisioningHook"`
		Type        registry.TemplateType `json:"type"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	t, err := a.Registry.CreateProvisioningTemplate(registry.NewProvisioningTemplate{
		Name: in.Name, Description: in.Description, Body: in.Body, Enabled: in.Enabled,
		RoleARN: in.RoleARN, Hook: in.Hook.hook(), Type: in.Type,
	})
	if err != nil {
		return nil, err
	}
	return struct {
		Name           string `json:"templateName"`
		ARN            string `json:"templateArn"`
		DefaultVersion int    `json:"defaultVersionId"`
	}{t.Name, a.names.template(t.Name), t.DefaultVersion}, nil
}

type templateSummary struct {
	Name        string                `json:"templateName"`
	ARN         string                `json:"templateArn"`
	Description string                `json:"description,omitempty"`
	Enabled     bool                  `json:"enabled"`
	Type        registry.TemplateType `json:"type"`
	Created     epoch                 `json:"creationDate"`
	Modified    epoch                 `json:"lastModifiedDate"`
}

func (a *api) templateSummary(t registry.ProvisioningTemplate) templateSummary {
	return templateSummary{
		t.Name, a.names.template(t.Name), t.Description, t.Enabled, t.Type, epoch(t.Created), epoch(t.Modified),
	}
}

type templateDescription struct {
	templateSummary
	Body           string            `json:"templateBody"`
	DefaultVersion int               `json:"defaultVersionId"`
	RoleARN        string            `json:"provisioningRoleArn"`
	Hook           *provisioningHook `json:"preProvisioningHook,omitempty"`
}

func (a *api) describeProvisioningTemplate(q *request) (any, error) {
	t, err := a.Registry.DescribeProvisioningTemplate(q.path("templateName"))
	if err != nil {
		return nil, err
	}
	out := templateDescription{
		templateSummary: a.templateSummary(t), Body: t.Body(), DefaultVersion: t.DefaultVersion, RoleARN: t.RoleARN,
	}
	if t.Hook != nil {
		out.Hook = &provisioningHook{t.Hook.PayloadVersion, t.Hook.TargetARN}
	}
	return out, nil
}

func (a *api) updateProvisioningTemplate(q *request) (any, error) {
	var in struct {
		Description    *string           `json:"description"`
		Enabled        *bool             `json:"enabled"`
		DefaultVersion int               `json:"defaultVersionId"`
		RoleARN        string            `json:"provisioningRoleArn"`
		Hook           *provisioningHook `json:"preProvisioningHook"`
		RemoveHook     bool              `json:"removePreProvisioningHook"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	return empty{}, a.Registry.UpdateProvisioningTemplate(registry.ProvisioningTemplateUpdate{
		Name: q.path("templateName"), Description: in.Description, Enabled: in.Enabled, RoleARN: in.RoleARN,
		DefaultVersion: in.DefaultVersion, Hook: in.Hook.hook(), RemoveHook: in.RemoveHook,
	})
}

func (a *api) deleteProvisioningTemplate(q *request) (any, error) {
	return empty{}, a.Registry.DeleteProvisioningTemplate(q.path("templateName"))
}

func (a *api) listProvisioningTemplates(q *request) (any, error) {
	all := a.Registry.ListProvisioningTemplates()
	some, next, err := page(q, all, func(t registry.ProvisioningTemplate) string { return t.Name })
	if err != nil {
		return nil, err
	}
	return struct {
		Templates []templateSummary `json:"templates"`
		NextToken string            `json:"nextToken,omitempty"`
	}{convert(some, a.templateSummary), next}, nil
}

func (a *api) createProvisioningTemplateVersion(q *request) (any, error) {
	var in struct {
		Body string `json:"templateBody"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	name := q.path("templateName")
	v, err := a.Registry.CreateProvisioningTemplateVersion(name, in.Body, q.flag("setAsDefault"))
	if err != nil {
		return nil, err
	}
	return struct {
		Name      string `json:"templateName"`
		ARN       string `json:"templateArn"`
		Version   int    `json:"versionId"`
		IsDefault bool   `json:"isDefaultVersion"`
	}{name, a.names.template(name), v.ID, q.flag("setAsDefault")}, nil
}

type templateVersion struct {
	Version   int    `json:"versionId"`
	IsDefault bool   `json:"isDefaultVersion"`
	Created   epoch  `json:"creationDate"`
	Body      string `json:"templateBody,omitempty"`
}

func (a *api) listProvisioningTemplateVersions(q *request) (any, error) {
	t, err := a.Registry.DescribeProvisioningTemplate(q.path("templateName"))
	if err != nil {
		return nil, err
	}
	some, next, err := page(q, t.Versions, func(v registry.TemplateVersion) string { return fmt.Sprintf("%09d", v.ID) })
	if err != nil {
		return nil, err
	}
	return struct {
		Versions  []templateVersion `json:"versions"`
		NextToken string            `json:"nextToken,omitempty"`
	}{convert(some, func(v registry.TemplateVersion) templateVersion {
		return templateVersion{Version: v.ID, IsDefault: v.ID == t.DefaultVersion, Created: epoch(v.Created)}
	}), next}, nil
}

func (a *api) describeProvisioningTemplateVersion(q *request) (any, error) {
	id, err := q.version("versionId")
	if err != nil {
		return nil, err
	}
	t, err := a.Registry.DescribeProvisioningTemplate(q.path("templateName"))
	if err != nil {
		return nil, err
	}
	v, ok := t.Version(id)
	if !ok {
		return nil, registry.Reject(registry.CodeNotFound, "Template %s has no version %d.", t.Name, id)
	}
	return templateVersion{v.ID, v.ID == t.DefaultVersion, epoch(v.Created), v.Body}, nil
}

func (a *api) deleteProvisioningTemplateVersion(q *request) (any, error) {
	id, err := q.version("versionId")
	if err != nil {
		return nil, err
	}
	return empty{}, a.Registry.DeleteProvisioningTemplateVersion(q.path("templateName"), id)
}

func (a *api) createProvisioningClaim(q *request) (any, error) {
	template := q.path("templateName")
	if _, err := a.Registry.DescribeProvisioningTemplate(template); err != nil {
		return nil, err
	}
	if a.Issuer == nil {
		return nil, unavailable("certificate authority")
	}
	keys, err := a.Issuer.IssueKeys(q.Context())
	if err != nil {
		return nil, err
	}
	c, expires, err := a.Registry.CreateClaimCertificate(keys.CertificatePEM, template, claimLife)
	if err != nil {
		return nil, err
	}
	return struct {
		ID      string  `json:"certificateId"`
		PEM     string  `json:"certificatePem"`
		KeyPair keyPair `json:"keyPair"`
		Expires epoch   `json:"expiration"`
	}{c.ID, c.PEM, keyPair{keys.PublicKeyPEM, keys.PrivateKeyPEM}, epoch(expires)}, nil
}

// registerThing is RegisterThing over HTTPS. What the registry refuses, a
// missing group for instance, is a ResourceRegistrationFailureException.
func (a *api) registerThing(q *request) (any, error) {
	var in struct {
		Body       string            `json:"templateBody"`
		Parameters map[string]string `json:"parameters"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if in.Body == "" {
		return nil, invalid("a template body is required")
	}
	for name, value := range in.Parameters {
		if len(name) > maxParameterName || len(value) > maxParameterValue {
			return nil, invalid("parameter %q: names have at most %d characters, values %d", clip(name), maxParameterName, maxParameterValue)
		}
	}
	if a.Registrar == nil {
		return nil, unavailable("provisioning")
	}
	done, err := a.Registrar.RegisterThing(q.Context(), in.Body, in.Parameters)
	refusal, refused := errors.AsType[*registry.Error](err)
	switch {
	case refused && refusal.Code != registry.CodeInvalidRequest && refusal.Status < 500:
		return nil, registry.Reject(registry.CodeRegistrationFailure, "%s: %s", refusal.Code, refusal.Message)
	case err != nil:
		return nil, err
	}
	return struct {
		PEM          string            `json:"certificatePem,omitempty"`
		ResourceARNs map[string]string `json:"resourceArns"`
	}{done.CertificatePEM, notNil(done.ResourceARNs)}, nil
}
