package localcore

import (
	"errors"
	"fmt"

	"example.com/fleety/device/localcore/assembly"
	"example.com/fleety/device/localcore/registry"
)

// A deployment is what Config.Assembly or Config.Templates would deploy to an
// account.
type deployment struct {
	*assembly.Resources
	hook          *assembly.Function // nil without one
	claimPolicies []string           // those of each claim
}

// install brings the registry to what the configuration deploys.
func (c *Config) install(r *registry.Registry) error {
	if err := c.installProvider(r); err != nil {
		return fmt.Errorf("installing certificate provider %s: %w", providerName, err)
	}
	for _, p := range c.deployment.Policies {
		if err := installPolicy(r, p.Name, string(p.Document)); err != nil {
			return fmt.Errorf("installing policy %s: %w", p.Name, err)
		}
	}
	for _, t := range c.deployment.ThingTypes {
		_, err := r.DescribeThingType(t.Name)
		if isNotFound(err) {
			_, err = r.CreateThingType(registry.ThingType{
				Name: t.Name, Description: t.Properties.Description, SearchableAttributes: t.Properties.SearchableAttributes,
			})
		}
		if err != nil {
			return fmt.Errorf("installing thing type %s: %w", t.Name, err)
		}
	}
	for _, g := range c.deployment.ThingGroups {
		_, _, err := r.DescribeThingGroup(g.Name)
		if isNotFound(err) {
			_, err = r.CreateThingGroup(registry.ThingGroup{
				Name: g.Name, Parent: g.Parent, Description: g.Properties.Description,
				Attributes: g.Properties.AttributePayload.Attributes,
			})
		}
		if err != nil {
			return fmt.Errorf("installing thing group %s: %w", g.Name, err)
		}
	}
	for _, t := range c.deployment.Templates {
		if err := installTemplate(r, t); err != nil {
			return fmt.Errorf("installing provisioning template %s: %w", t.Name, err)
		}
	}
	return nil
}

// providerName is the name of Config.CertificateProvider, and of its function.
const providerName = "certificate-provider"

// installProvider makes Config.CertificateProvider the account's certificate
// provider, in the place of another, or removes it from an earlier start.
func (c *Config) installProvider(r *registry.Registry) error {
	for _, p := range r.ListCertificateProviders() {
		if c.CertificateProvider == "" && p.FunctionARN != c.functionARN(providerName) {
			continue
		}
		if err := r.DeleteCertificateProvider(p.Name); err != nil {
			return err
		}
	}
	if c.CertificateProvider == "" {
		return nil
	}
	_, err := r.CreateCertificateProvider(providerName, c.functionARN(providerName))
	return err
}

// installPolicy creates the policy or, when its text has changed, gives it a
// new default version.
func installPolicy(r *registry.Registry, name, text string) error {
	stored, err := r.GetPolicy(name)
	if isNotFound(err) {
		_, err = r.CreatePolicy(name, text)
		return err
	}
	if err != nil || stored.Default().Document == text {
		return err
	}
	if oldest := stored.Versions[0]; len(stored.Versions) == registry.MaxPolicyVersions {
		if oldest.ID == stored.DefaultVersion {
			oldest = stored.Versions[1]
		}
		if err := r.DeletePolicyVersion(name, oldest.ID); err != nil {
			return err
		}
	}
	_, err = r.CreatePolicyVersion(name, text, true)
	return err
}

// installTemplate creates the provisioning template or brings it up to date;
// one that was disabled since stays so.
func installTemplate(r *registry.Registry, t assembly.ProvisioningTemplate) error {
	var hook *registry.Hook
	if t.Hook != nil {
		hook = &registry.Hook{PayloadVersion: t.Hook.PayloadVersion, TargetARN: t.Hook.TargetARN}
	}
	stored, err := r.DescribeProvisioningTemplate(t.Name)
	if isNotFound(err) {
		_, err = r.CreateProvisioningTemplate(registry.ProvisioningTemplate{
			Name: t.Name, Description: t.Description, Type: registry.TemplateType(t.Type),
			RoleARN: t.RoleARN, Enabled: t.Enabled, Hook: hook,
		}, t.Body)
		return err
	}
	if err == nil {
		err = r.UpdateProvisioningTemplate(registry.ProvisioningTemplateUpdate{
			Name: t.Name, Description: &t.Description, RoleARN: t.RoleARN, Hook: hook, RemoveHook: hook == nil,
		})
	}
	if err != nil || stored.Default().Body == t.Body {
		return err
	}
	if oldest := stored.Versions[0]; len(stored.Versions) == registry.MaxTemplateVersions {
		if oldest.ID == stored.DefaultVersion {
			oldest = stored.Versions[1]
		}
		if err := r.DeleteProvisioningTemplateVersion(t.Name, oldest.ID); err != nil {
			return err
		}
	}
	_, err = r.CreateProvisioningTemplateVersion(t.Name, t.Body, true)
	return err
}

func isNotFound(err error) bool {
	e, ok := errors.AsType[*registry.Error](err)
	return ok && e.Code == registry.CodeNotFound
}
