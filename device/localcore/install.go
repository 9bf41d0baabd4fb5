package localcore

import (
	"errors"
	"fmt"
	"io/fs"

	"example.com/fleety/device/localcore/registry"
)

// Files of Config.Templates.
const (
	templateFile     = "fleet_template.json"
	claimPolicyFile  = "claim_policy.json"
	devicePolicyFile = "device_policy.json"
	rotationFile     = "rotation_policy.json" // need not be there
)

// openClaimPolicy is the claim policy with [NoTemplates]: the
// provisioning topics of every template, and nothing else.
const openClaimPolicy = `{
  "Version": "2012-10-17",
  "Statement": [
    {"Sid": "ConnectAsClaim", "Effect": "Allow", "Action": "iot:Connect",
     "Resource": "arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:client/claim-*"},
    {"Sid": "UseProvisioningTopics", "Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"],
     "Resource": ["arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:topic/$aws/certificates/*",
                  "arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:topic/$aws/provisioning-templates/*"]},
    {"Sid": "SubscribeToReplies", "Effect": "Allow", "Action": "iot:Subscribe",
     "Resource": ["arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:topicfilter/$aws/certificates/*",
                  "arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:topicfilter/$aws/provisioning-templates/*"]}
  ]
}`

// install brings the registry to what the configuration ships: policies, thing
// group and type, and the provisioning template.
func (c *Config) install(r *registry.Registry) error {
	if err := c.installProvider(r); err != nil {
		return err
	}
	if c.assembled != nil {
		return c.assembled.install(r)
	}
	if c.Templates == NoTemplates {
		return installPolicy(r, ClaimPolicyName, c.Expand(openClaimPolicy))
	}
	claim, claimErr := c.readPolicy(claimPolicyFile)
	device, deviceErr := c.readPolicy(devicePolicyFile)
	fleet, fleetErr := c.readTemplate(templateFile)
	if err := errors.Join(claimErr, deviceErr, fleetErr); err != nil {
		return err
	}
	if err := installPolicy(r, ClaimPolicyName, claim.text); err != nil {
		return err
	}
	if err := installPolicy(r, DevicePolicyName, device.text); err != nil {
		return err
	}
	rotation, err := c.readPolicy(rotationFile)
	if err == nil {
		err = installPolicy(r, RotationPolicyName, rotation.text)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := installType(r, registry.NewThingType{Name: ThingTypeName}); err != nil {
		return err
	}
	if err := installGroup(r, registry.NewThingGroup{Name: ThingGroupName}); err != nil {
		return err
	}
	return installTemplate(r, c.shippedTemplate(fleet.text))
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
			return fmt.Errorf("updating certificate provider %s: %w", p.Name, err)
		}
	}
	if c.CertificateProvider == "" {
		return nil
	}
	if _, err := r.CreateCertificateProvider(providerName, c.functionARN(providerName)); err != nil {
		return fmt.Errorf("creating certificate provider %s: %w", providerName, err)
	}
	return nil
}

// installPolicy creates the policy or, when its text has changed, gives it a
// new default version.
func installPolicy(r *registry.Registry, name, text string) error {
	stored, err := r.GetPolicy(name)
	if isNotFound(err) {
		if _, err := r.CreatePolicy(name, text); err != nil {
			return fmt.Errorf("creating policy %s: %w", name, err)
		}
		return nil
	}
	if err != nil || stored.Document() == text {
		return err
	}
	if oldest := stored.Versions[0]; len(stored.Versions) == registry.MaxPolicyVersions {
		if oldest.ID == stored.DefaultVersion {
			oldest = stored.Versions[1]
		}
		if err := r.DeletePolicyVersion(name, oldest.ID); err != nil {
			return fmt.Errorf("updating policy %s: %w", name, err)
		}
	}
	if _, err := r.CreatePolicyVersion(name, text, true); err != nil {
		return fmt.Errorf("updating policy %s: %w", name, err)
	}
	return nil
}

func installType(r *registry.Registry, n registry.NewThingType) error {
	if _, err := r.DescribeThingType(n.Name); !isNotFound(err) {
		return err
	}
	if _, err := r.CreateThingType(n); err != nil {
		return fmt.Errorf("creating thing type %s: %w", n.Name, err)
	}
	return nil
}

func installGroup(r *registry.Registry, n registry.NewThingGroup) error {
	if _, _, err := r.DescribeThingGroup(n.Name); !isNotFound(err) {
		return err
	}
	if _, err := r.CreateThingGroup(n); err != nil {
		return fmt.Errorf("creating thing group %s: %w", n.Name, err)
	}
	return nil
}

// shippedTemplate is the provisioning template of Config.Templates.
func (c *Config) shippedTemplate(body string) registry.NewProvisioningTemplate {
	n := registry.NewProvisioningTemplate{
		Name: TemplateName, Body: body, Enabled: true,
		RoleARN: "arn:" + c.Partition + ":iam::" + c.Account + ":role/" + TemplateName,
	}
	if c.Hook != "" || c.HookFunc != nil {
		n.Hook = &registry.Hook{TargetARN: c.hookARN()}
	}
	return n
}

// installTemplate creates the provisioning template or brings it up to date;
// one that was disabled since stays so.
func installTemplate(r *registry.Registry, n registry.NewProvisioningTemplate) error {
	stored, err := r.DescribeProvisioningTemplate(n.Name)
	if isNotFound(err) {
		if _, err := r.CreateProvisioningTemplate(n); err != nil {
			return fmt.Errorf("creating provisioning template %s: %w", n.Name, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.UpdateProvisioningTemplate(registry.ProvisioningTemplateUpdate{
		Name: n.Name, Description: &n.Description, RoleARN: n.RoleARN, Hook: n.Hook, RemoveHook: n.Hook == nil,
	}); err != nil {
		return fmt.Errorf("updating provisioning template %s: %w", n.Name, err)
	}
	if stored.Body() == n.Body {
		return nil
	}
	if oldest := stored.Versions[0]; len(stored.Versions) == registry.MaxTemplateVersions {
		if oldest.ID == stored.DefaultVersion {
			oldest = stored.Versions[1]
		}
		if err := r.DeleteProvisioningTemplateVersion(stored.Name, oldest.ID); err != nil {
			return fmt.Errorf("updating provisioning template %s: %w", stored.Name, err)
		}
	}
	if _, err := r.CreateProvisioningTemplateVersion(stored.Name, n.Body, true); err != nil {
		return fmt.Errorf("updating provisioning template %s: %w", stored.Name, err)
	}
	return nil
}

func isNotFound(err error) bool {
	e, ok := errors.AsType[*registry.Error](err)
	return ok && e.Code == registry.CodeNotFound
}
