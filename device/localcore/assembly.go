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
	"example.com/fleety/device/localcore/rules"
)

// lambdaArchitectures are Lambda's names of Go's architectures.
var lambdaArchitectures = map[string]string{"amd64": "x86_64", "arm64": "arm64"}

// withStack reads the stack of Assembly, and emulates the account and Region that
// it was synthesized for.
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

// check finds the hook and the claim policies of a stack, and what keeps it from
// being emulated.
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

// installRules brings the rules to what a stack holds. A rule that is not
// emulated is left out, with a warning.
func (s *Server) installRules() {
	for _, r := range s.config.deployment.Rules {
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
