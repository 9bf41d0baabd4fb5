package localcore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"example.com/fleety/device/localcore/assembly"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/provisioning"
)

// hookFunction is the name of the hook's Lambda function.
const hookFunction = "fleet-provisioning-hook"

// startFunctions starts the Lambda functions: the pre-provisioning hook, those of the
// configuration, and those that the rules of a stack invoke. What they ask AWS goes to the control
// API.
func (s *Server) startFunctions(ctx context.Context) error {
	c := &s.config
	if hook := c.deployment.hook; hook != nil && c.HookFunc == nil {
		f := functionConfig(hook)
		if s.api == nil && c.Assembly == "" { // there is nothing to call
			f.Env = []string{"EXISTING_THINGS=allow"}
		}
		if err := s.startFunction(ctx, "hook", f); err != nil {
			return err
		}
	}
	others := maps.Collect(maps.All(c.Functions))
	if c.CertificateProvider != "" {
		others[providerName] = lambdahost.Config{Path: c.CertificateProvider, Timeout: provisioning.ProviderTimeout}
	}
	for _, f := range c.deployment.Functions {
		others[f.LogicalID] = functionConfig(f)
	}
	for name, f := range others {
		if err := s.startFunction(ctx, name, f); err != nil {
			return err
		}
	}
	return nil
}

func functionConfig(f *assembly.Function) lambdahost.Config {
	return lambdahost.Config{FunctionARN: f.ARN, Path: f.Path, Timeout: f.Timeout, Env: f.Environment}
}

func (s *Server) startFunction(ctx context.Context, name string, f lambdahost.Config) error {
	c := &s.config
	f.FunctionARN = cmp.Or(f.FunctionARN, c.functionARN(name))
	if s.functions[f.FunctionARN] != nil {
		return nil // the hook
	}
	f.Region, f.Endpoint, f.Log = c.Region, s.APIURL(), c.Log.With("from", name)
	host, err := lambdahost.Start(ctx, f)
	if e, ok := errors.AsType[*lambdahost.BinaryError](err); ok && c.Assembly != "" {
		err = fmt.Errorf("%s %s: synthesize the assembly anew, for this machine", e.Path, e.Problem)
	}
	if err != nil {
		return fmt.Errorf("starting function %s: %w", name, err)
	}
	s.functions[f.FunctionARN] = host
	s.onClose(host.Close)
	return nil
}

// function returns the host of a function, nil without one. A version or alias at the end of the
// ARN stands for the function itself.
func (s *Server) function(arn string) *lambdahost.Host {
	if parts := strings.SplitN(arn, ":", 8); len(parts) == 8 {
		arn = strings.Join(parts[:7], ":")
	}
	return s.functions[arn]
}

// invoke invokes a function that runs here.
func (s *Server) invoke(ctx context.Context, arn string, event []byte) ([]byte, error) {
	f := s.function(arn)
	if f == nil {
		return nil, fmt.Errorf("function %s does not run here", arn)
	}
	return f.Invoke(ctx, event)
}

// hookARN is the full name of the hook's function, empty without a hook.
func (c *Config) hookARN() string {
	switch {
	case c.deployment.hook != nil:
		return c.deployment.hook.ARN
	case c.HookFunc != nil:
		return c.functionARN(hookFunction)
	}
	return ""
}

// functionARN is the full name of a Lambda function of this account.
func (c Config) functionARN(name string) string {
	return "arn:" + c.Partition + ":lambda:" + c.Region + ":" + c.Account + ":function:" + name
}
