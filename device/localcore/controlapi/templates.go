package controlapi

import (
	"cmp"
	"fmt"
	"time"

	"example.com/fleety/device/localcore/registry"
)

// claimLife is how long a provisioning claim is valid.
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html
const claimLife = 5 * time.Minute

func (a *api) templateName(name string) object {
	return a.ref("provisioningtemplate", "templateName", name)
}

func (a *api) createProvisioningTemplate(
	name, description, body string, enabled bool, role string, hook *registry.Hook, kind registry.TemplateType,
) (object, error) {
	t, err := a.Registry.CreateProvisioningTemplate(registry.ProvisioningTemplate{
		Name: name, Description: description, Enabled: enabled, RoleARN: role, Hook: hook, Type: kind,
	}, body)
	return a.templateName(t.Name).with(object{"defaultVersionId": t.DefaultVersion}), err
}

// templateSummary returns what a description and a list have in common.
func (a *api) templateSummary(t registry.ProvisioningTemplate) object {
	return a.templateName(t.Name).with(object{
		"enabled": t.Enabled, "type": t.Type, "creationDate": epoch(t.Created), "lastModifiedDate": epoch(t.Modified),
	}).optional("description", t.Description)
}

func (a *api) template(t registry.ProvisioningTemplate) object {
	out := a.templateSummary(t).with(object{"templateBody": t.Default().Body, "defaultVersionId": t.DefaultVersion, "provisioningRoleArn": t.RoleARN})
	if t.Hook != nil {
		out["preProvisioningHook"] = object{"targetArn": t.Hook.TargetARN}.optional("payloadVersion", t.Hook.PayloadVersion)
	}
	return out
}

func (a *api) createProvisioningTemplateVersion(name string, setAsDefault bool, body string) (object, error) {
	v, err := a.Registry.CreateProvisioningTemplateVersion(name, body, setAsDefault)
	return a.templateName(name).with(object{"versionId": v.ID, "isDefaultVersion": setAsDefault}), err
}

func templateVersion(t registry.ProvisioningTemplate, v registry.Version) object {
	return object{"versionId": v.ID, "isDefaultVersion": v.ID == t.DefaultVersion, "creationDate": epoch(v.Created)}
}

func listTemplateVersions(q *request, t registry.ProvisioningTemplate) (object, error) {
	key := func(v registry.Version) string { return fmt.Sprintf("%09d", v.ID) }
	return page("versions", key, func(v registry.Version) object { return templateVersion(t, v) })(q, t.Versions)
}

func (a *api) describeTemplateVersion(name string, id int) (object, error) {
	t, err := a.Registry.DescribeProvisioningTemplate(name)
	v, versionErr := t.Find("Template "+name, id)
	return templateVersion(t, v).with(object{"templateBody": v.Body}), cmp.Or(err, versionErr)
}

func (a *api) createProvisioningClaim(template string) (object, error) {
	keys, err := a.Provisioning.IssueKeys()
	if err != nil {
		return nil, err
	}
	c, err := a.Registry.CreateClaimCertificate(string(keys.CertificatePEM), template, claimLife)
	return object{"certificateId": c.ID, "certificatePem": c.PEM, "keyPair": keyPair(keys), "expiration": epoch(c.ClaimExpires)}, err
}
