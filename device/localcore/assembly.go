package localcore

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"

	"example.com/fleety/device/localcore/assembly"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/rules"
)

// An assembled is what the stack of Config.Assembly would deploy.
type assembled struct {
	*assembly.Resources
	hook *assembly.Function // nil without one
}

// lambdaArchitectures are Lambda's names of Go's architectures.
var lambdaArchitectures = map[string]string{"amd64": "x86_64", "arm64": "arm64"}

// withAssembly reads the stack, if one is configured, and emulates the account
// and Region that it was synthesized for.
func (c Config) withAssembly() (Config, error) {
	if c.Assembly == "" {
		return c, nil
	}
	if c.Templates != "" || c.Hook != "" {
		return c, fmt.Errorf("the assembly %s brings its own templates and hook: give none besides", c.Assembly)
	}
	stack, err := assembly.Open(c.Assembly, c.Stack)
	if err != nil {
		return c, err
	}
	if err := errors.Join(
		resolveSetting(&c.Account, stack.Account, "account", stack.Name),
		resolveSetting(&c.Region, stack.Region, "region", stack.Name),
	); err != nil {
		return c, err
	}
	c = c.withDefaults()
	resources, err := stack.Resolve(assembly.Environment{Partition: c.Partition, Account: c.Account, Region: c.Region})
	if err != nil {
		return c, fmt.Errorf("resolving stack %s: %w", stack.Name, err)
	}
	c.assembled = &assembled{Resources: resources}
	if err := c.assembled.check(c.HookFunc == nil); err != nil {
		return c, fmt.Errorf("stack %s in %s: %w", stack.Name, c.Assembly, err)
	}
	c.Log.Info("loaded stack", slog.String("stack", stack.Name), slog.String("assembly", c.Assembly),
		slog.String("account", c.Account), slog.String("region", c.Region))
	return c, nil
}

// resolveSetting makes a setting what the stack was synthesized for.
func resolveSetting(setting *string, synthesized, what, stack string) error {
	if synthesized == "" || *setting == "" || *setting == synthesized {
		*setting = cmp.Or(synthesized, *setting)
		return nil
	}
	return fmt.Errorf("%s %s: stack %s was synthesized for %s", what, *setting, stack, synthesized)
}

// check finds what keeps a stack from being emulated, and its hook.
func (a *assembled) check(runsHook bool) error {
	if len(a.Templates) == 0 {
		return errors.New("it has no provisioning template")
	}
	if len(a.claimPolicies()) == 0 {
		return errors.New("it attaches no policy to a certificate, so that no claim could connect")
	}
	for _, t := range a.Templates {
		switch {
		case t.Hook == nil:
		case a.hook != nil && a.hook.ARN != t.Hook.Function.ARN:
			return fmt.Errorf("its templates have different hooks, %s and %s; one can run here", a.hook.LogicalID, t.Hook.Function.LogicalID)
		default:
			a.hook = t.Hook.Function
		}
	}
	here := lambdaArchitectures[runtime.GOARCH]
	functions := slices.Clone(a.Functions)
	if a.hook != nil && runsHook {
		functions = append(functions, a.hook)
	}
	for _, f := range functions {
		if f.Architecture != here {
			return fmt.Errorf("its function %s is for %s, this machine is %s: synthesize it with -c hookArchitecture=%s", f.LogicalID, f.Architecture, here, here)
		}
	}
	return nil
}

// claimPolicies are the policies that the stack attaches to claims.
func (a *assembled) claimPolicies() (names []string) {
	for _, attached := range a.Attachments {
		if strings.Contains(attached.Principal, ":cert/") && !slices.Contains(names, attached.PolicyName) {
			names = append(names, attached.PolicyName)
		}
	}
	return names
}

// install brings the registry to what the stack holds.
func (a *assembled) install(r *registry.Registry) error {
	for _, p := range a.Policies {
		if err := installPolicy(r, p.Name, string(p.Document)); err != nil {
			return err
		}
	}
	for _, t := range a.ThingTypes {
		if err := installType(r, registry.NewThingType{
			Name: t.Name, Description: t.Properties.Description, SearchableAttributes: t.Properties.SearchableAttributes,
		}); err != nil {
			return err
		}
	}
	for _, g := range a.ThingGroups {
		if err := installGroup(r, registry.NewThingGroup{
			Name: g.Name, Parent: g.Parent, Description: g.Properties.Description,
			Attributes: g.Properties.AttributePayload.Attributes,
		}); err != nil {
			return err
		}
	}
	for _, t := range a.Templates {
		if err := installTemplate(r, newTemplate(t)); err != nil {
			return err
		}
	}
	return nil
}

// installRules brings the rules to what the stack holds. A rule that is not
// emulated is left out, with a warning.
func (s *Server) installRules() {
	if s.config.assembled == nil {
		return
	}
	for _, r := range s.config.assembled.Rules {
		var d rules.Definition
		err := json.Unmarshal(r.Payload, &d)
		if err == nil {
			err = s.rules.CreateTopicRule(r.Name, d)
		}
		if e, ok := errors.AsType[*rules.Error](err); ok && e.Code == rules.AlreadyExists {
			err = s.rules.ReplaceTopicRule(r.Name, d)
		}
		if err != nil {
			s.config.Log.Warn("a rule of the stack is not emulated", "rule", r.Name, "reason", err)
		}
	}
}

func newTemplate(t assembly.ProvisioningTemplate) registry.NewProvisioningTemplate {
	n := registry.NewProvisioningTemplate{
		Name: t.Name, Description: t.Description, Type: registry.TemplateType(t.Type),
		Body: t.Body, RoleARN: t.RoleARN, Enabled: t.Enabled,
	}
	if t.Hook != nil {
		n.Hook = &registry.Hook{PayloadVersion: t.Hook.PayloadVersion, TargetARN: t.Hook.TargetARN}
	}
	return n
}
