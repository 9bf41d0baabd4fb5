package localcore

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/assembly"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/rules"
)

// A deployment is what Config.Assembly or Config.Templates would deploy to an account.
type deployment struct {
	*assembly.Resources
	hook          *assembly.Function // nil without one
	claimPolicies []string           // those of each claim

	// unchanged says that the last start with this state deployed the same. What is there is left
	// alone then, however it was changed since, as by CloudFormation.
	unchanged bool
}

// install brings the registry to what the configuration deploys.
func (s *Server) install() error {
	c, d, r := &s.config, s.config.deployment, s.registry
	if err := s.services.Bucket("deployed").Each(func(_ string, last []byte) error {
		d.unchanged = bytes.Equal(last, awsiot.EncodeJSON(d.Resources))
		return nil
	}); err != nil {
		return fmt.Errorf("reading the last deployment: %w", err)
	}
	if err := c.installProvider(r); err != nil {
		return fmt.Errorf("installing certificate provider %s: %w", providerName, err)
	}
	for _, p := range d.Policies {
		if err := d.installPolicy(r, p.Name, string(p.Document)); err != nil {
			return fmt.Errorf("installing policy %s: %w", p.Name, err)
		}
	}
	for _, t := range d.ThingTypes {
		_, err := r.CreateThingType(registry.ThingType{
			Name: t.Name, Description: t.Properties.Description, SearchableAttributes: t.Properties.SearchableAttributes,
		})
		if err != nil && !rejectedWith(err, registry.CodeAlreadyExists) {
			return fmt.Errorf("installing thing type %s: %w", t.Name, err)
		}
	}
	for _, g := range d.ThingGroups {
		_, err := r.CreateThingGroup(registry.ThingGroup{
			Name: g.Name, Parent: g.Parent, Description: g.Properties.Description, Attributes: g.Properties.AttributePayload.Attributes,
		})
		if err != nil && !rejectedWith(err, registry.CodeAlreadyExists) {
			return fmt.Errorf("installing thing group %s: %w", g.Name, err)
		}
	}
	for _, t := range d.Templates {
		if err := d.installTemplate(r, t); err != nil {
			return fmt.Errorf("installing provisioning template %s: %w", t.Name, err)
		}
	}
	return nil
}

// providerName is the name of Config.CertificateProvider, and of its function.
const providerName = "certificate-provider"

// installProvider makes Config.CertificateProvider the account's certificate provider, in the place
// of another, or removes it from an earlier start, whose account and Region may have been others.
func (c *Config) installProvider(r *registry.Registry) error {
	for _, p := range r.ListCertificateProviders() {
		if c.CertificateProvider == "" && !strings.HasSuffix(p.FunctionARN, ":function:"+providerName) {
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

// installPolicy creates the policy or, when its text has changed, gives it a new default version.
func (d *deployment) installPolicy(r *registry.Registry, name, text string) error {
	stored, err := r.GetPolicy(name)
	if rejectedWith(err, registry.CodeNotFound) {
		_, err = r.CreatePolicy(name, text)
		return err
	}
	if err != nil || d.unchanged || stored.Default().Document == text {
		return err
	}
	if err := makeRoom(stored.Versioned, registry.MaxPolicyVersions, name, r.DeletePolicyVersion); err != nil {
		return err
	}
	_, err = r.CreatePolicyVersion(name, text, true)
	return err
}

// installTemplate creates the provisioning template or brings it up to date; one that was disabled
// since stays so.
func (d *deployment) installTemplate(r *registry.Registry, t assembly.ProvisioningTemplate) error {
	var hook *registry.Hook
	if t.Hook != nil {
		hook = &registry.Hook{PayloadVersion: t.Hook.PayloadVersion, TargetARN: t.Hook.TargetARN}
	}
	stored, err := r.DescribeProvisioningTemplate(t.Name)
	if rejectedWith(err, registry.CodeNotFound) {
		_, err = r.CreateProvisioningTemplate(registry.ProvisioningTemplate{
			Name: t.Name, Description: t.Description, Type: registry.TemplateType(t.Type),
			RoleARN: t.RoleARN, Enabled: t.Enabled, Hook: hook,
		}, t.Body)
		return err
	}
	if err != nil || d.unchanged {
		return err
	}
	err = r.UpdateProvisioningTemplate(t.Name, registry.ProvisioningTemplateUpdate{
		Description: &t.Description, RoleARN: t.RoleARN, Hook: hook, RemoveHook: hook == nil,
	})
	if err != nil || stored.Default().Body == t.Body {
		return err
	}
	if err := makeRoom(stored.Versioned, registry.MaxTemplateVersions, t.Name, r.DeleteProvisioningTemplateVersion); err != nil {
		return err
	}
	_, err = r.CreateProvisioningTemplateVersion(t.Name, t.Body, true)
	return err
}

// makeRoom removes the oldest version that is not the default where there can be no more.
func makeRoom(v registry.Versioned, most int, name string, remove func(name string, version int) error) error {
	if len(v.Versions) < most {
		return nil
	}
	oldest := v.Versions[0].ID
	if oldest == v.DefaultVersion {
		oldest = v.Versions[1].ID
	}
	return remove(name, oldest)
}

func rejectedWith(err error, code string) bool {
	e, ok := errors.AsType[*registry.Error](err)
	return ok && e.Code == code
}

// lambdaArchitectures are Lambda's names of Go's architectures.
var lambdaArchitectures = map[string]string{"amd64": "x86_64", "arm64": "arm64"}

// withStack reads the stack of Assembly, and emulates the account and Region that it was
// synthesized for.
func (c Config) withStack() (Config, error) {
	if c.Templates != "" || c.Hook != "" {
		return c, fmt.Errorf("the assembly %s brings its own templates and hook: give none besides", c.Assembly)
	}
	stack, err := assembly.Open(c.Assembly, c.Stack)
	if err != nil {
		return c, err
	}
	for _, s := range []struct {
		what, synthesized string
		setting           *string
	}{{"account", stack.Account, &c.Account}, {"region", stack.Region, &c.Region}} {
		if *s.setting != "" && s.synthesized != "" && *s.setting != s.synthesized {
			return c, fmt.Errorf("%s %s: stack %s was synthesized for %s", s.what, *s.setting, stack.Name, s.synthesized)
		}
		*s.setting = cmp.Or(s.synthesized, *s.setting)
	}
	c = c.withDefaults()
	resources, err := stack.Resolve(assembly.Environment{Partition: c.Partition, Account: c.Account, Region: c.Region})
	if err != nil {
		return c, fmt.Errorf("resolving stack %s: %w", stack.Name, err)
	}
	c.deployment = &deployment{Resources: resources}
	if err := c.deployment.check(c.HookFunc == nil); err != nil {
		return c, fmt.Errorf("stack %s in %s: %w", stack.Name, c.Assembly, err)
	}
	c.Log.Info("loaded stack", slog.String("stack", stack.Name), slog.String("assembly", c.Assembly),
		slog.String("account", c.Account), slog.String("region", c.Region))
	return c, nil
}

// check finds the hook and the claim policies of a stack, and what keeps it from being emulated.
func (d *deployment) check(runsHook bool) error {
	if len(d.Templates) == 0 {
		return errors.New("it has no provisioning template")
	}
	for _, attached := range d.Attachments {
		if strings.Contains(attached.Principal, ":cert/") && !slices.Contains(d.claimPolicies, attached.PolicyName) {
			d.claimPolicies = append(d.claimPolicies, attached.PolicyName)
		}
	}
	if d.claimPolicies == nil {
		return errors.New("it attaches no policy to a certificate, so that no claim could connect")
	}
	for _, t := range d.Templates {
		switch {
		case t.Hook == nil:
		case d.hook != nil && d.hook.ARN != t.Hook.Function.ARN:
			return fmt.Errorf("its templates have different hooks, %s and %s; one can run here", d.hook.LogicalID, t.Hook.Function.LogicalID)
		default:
			d.hook = t.Hook.Function
		}
	}
	here := lambdaArchitectures[runtime.GOARCH]
	functions := slices.Clone(d.Functions)
	if d.hook != nil && runsHook {
		functions = append(functions, d.hook)
	}
	for _, f := range functions {
		if f.Architecture != here {
			return fmt.Errorf("its function %s is for %s, this machine is %s: synthesize it with -c hookArchitecture=%s", f.LogicalID, f.Architecture, here, here)
		}
	}
	return nil
}

// installRules brings the rules to what a stack holds, and remembers the deployment, which is
// complete then. A rule that is not emulated is left out, with a warning.
func (s *Server) installRules() error {
	deployed := s.config.deployment
	for _, r := range deployed.Rules {
		var d rules.Definition
		err := json.Unmarshal(r.Payload, &d)
		if err == nil {
			err = s.rules.CreateTopicRule(r.Name, d)
		}
		if e, ok := errors.AsType[*rules.Error](err); ok && e.Code == rules.AlreadyExists {
			if deployed.unchanged {
				continue
			}
			err = s.rules.ReplaceTopicRule(r.Name, d)
		}
		if err != nil {
			s.config.Log.Warn("a rule of the stack is not emulated", "rule", r.Name, "reason", err)
		}
	}
	return s.services.Bucket("deployed").Save(map[string][]byte{"resources": awsiot.EncodeJSON(deployed.Resources)})
}
