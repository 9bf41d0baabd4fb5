package controlapi

import (
	"fmt"
	"time"

	"example.com/fleety/device/localcore/registry"
)

// claimLife is how long a provisioning claim is valid.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html
const claimLife = 5 * time.Minute

type provisioningHook struct {
	PayloadVersion string `json:"payloadVersion,omitempty"`
	TargetARN      string `json:"targetArn"`
}

func (a *api) createProvisioningTemplate(_ *request, in struct {
	Name        string                `json:"templateName"`
	Description string                `json:"description"`
	Body        string                `json:"templateBody"`
	Enabled     bool                  `json:"enabled"`
	RoleARN     string                `json:"provisioningRoleArn"`
	Hook        *provisioningHook     `json:"preProvisioningHook"`
	Type        registry.TemplateType `json:"type"`
	Tags        tags                  `json:"tags"`
}) (any, error) {
	t, err := tagged(a, in.Tags, "provisioningtemplate/"+in.Name, func() (registry.ProvisioningTemplate, error) {
		return a.Registry.CreateProvisioningTemplate(registry.NewProvisioningTemplate{
			Name: in.Name, Description: in.Description, Body: in.Body, Enabled: in.Enabled,
			RoleARN: in.RoleARN, Hook: (*registry.Hook)(in.Hook), Type: in.Type,
		})
	})
	return object{"templateName": t.Name, "templateArn": a.arn("provisioningtemplate/" + t.Name), "defaultVersionId": t.DefaultVersion}, err
}

// templateSummary returns what a description and a list have in common.
func (a *api) templateSummary(t registry.ProvisioningTemplate) object {
	return object{
		"templateName": t.Name, "templateArn": a.arn("provisioningtemplate/" + t.Name), "enabled": t.Enabled, "type": t.Type,
		"creationDate": epoch(t.Created), "lastModifiedDate": epoch(t.Modified),
	}.optional("description", t.Description)
}

func (a *api) describeProvisioningTemplate(q *request) (any, error) {
	t, err := a.Registry.DescribeProvisioningTemplate(q.path("templateName"))
	out := a.templateSummary(t)
	out["templateBody"], out["defaultVersionId"], out["provisioningRoleArn"] = t.Body(), t.DefaultVersion, t.RoleARN
	if t.Hook != nil {
		out["preProvisioningHook"] = provisioningHook(*t.Hook)
	}
	return out, err
}

func (a *api) updateProvisioningTemplate(q *request, in struct {
	Description    *string           `json:"description"`
	Enabled        *bool             `json:"enabled"`
	DefaultVersion int               `json:"defaultVersionId"`
	RoleARN        string            `json:"provisioningRoleArn"`
	Hook           *provisioningHook `json:"preProvisioningHook"`
	RemoveHook     bool              `json:"removePreProvisioningHook"`
}) (any, error) {
	return object{}, a.Registry.UpdateProvisioningTemplate(registry.ProvisioningTemplateUpdate{
		Name: q.path("templateName"), Description: in.Description, Enabled: in.Enabled, RoleARN: in.RoleARN,
		DefaultVersion: in.DefaultVersion, Hook: (*registry.Hook)(in.Hook), RemoveHook: in.RemoveHook,
	})
}

func (a *api) createProvisioningTemplateVersion(q *request, in struct {
	Body string `json:"templateBody"`
}) (any, error) {
	name := q.path("templateName")
	v, err := a.Registry.CreateProvisioningTemplateVersion(name, in.Body, q.flag("setAsDefault"))
	return object{
		"templateName": name, "templateArn": a.arn("provisioningtemplate/" + name),
		"versionId": v.ID, "isDefaultVersion": q.flag("setAsDefault"),
	}, err
}

func templateVersion(t registry.ProvisioningTemplate, v registry.TemplateVersion) object {
	return object{"versionId": v.ID, "isDefaultVersion": v.ID == t.DefaultVersion, "creationDate": epoch(v.Created)}
}

func (a *api) listProvisioningTemplateVersions(q *request) (any, error) {
	t, err := a.Registry.DescribeProvisioningTemplate(q.path("templateName"))
	if err != nil {
		return nil, err
	}
	return list(q, "versions", t.Versions, func(v registry.TemplateVersion) string { return fmt.Sprintf("%09d", v.ID) },
		func(v registry.TemplateVersion) object { return templateVersion(t, v) })
}

func (a *api) describeProvisioningTemplateVersion(q *request) (any, error) {
	t, err := a.Registry.DescribeProvisioningTemplate(q.path("templateName"))
	if err != nil {
		return nil, err
	}
	v, ok := t.Version(q.version())
	if !ok {
		return nil, registry.Reject(registry.CodeNotFound, "Template %s has no version %d.", t.Name, q.version())
	}
	out := templateVersion(t, v)
	out["templateBody"] = v.Body
	return out, nil
}

func (a *api) createProvisioningClaim(q *request) (any, error) {
	template := q.path("templateName")
	if _, err := a.Registry.DescribeProvisioningTemplate(template); err != nil {
		return nil, err
	}
	keys, err := a.Issuer.IssueKeys(q.Context())
	if err != nil {
		return nil, err
	}
	c, expires, err := a.Registry.CreateClaimCertificate(keys.CertificatePEM, template, claimLife)
	return object{"certificateId": c.ID, "certificatePem": c.PEM, "keyPair": keyPair(keys), "expiration": epoch(expires)}, err
}
