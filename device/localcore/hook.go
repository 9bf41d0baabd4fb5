package localcore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/hook/payload"
)

// hookFunction is the name of the hook's Lambda function.
const hookFunction = "fleet-provisioning-hook"

// A hookFunc asks the pre-provisioning hook whether a device may come in.
type hookFunc func(context.Context, payload.Request) (payload.Response, error)

// startHook starts the hook that the configuration names. Both results are nil
// when it names none. What the hook asks AWS goes to api, the URL of the
// control API.
func startHook(ctx context.Context, c *Config, api string) (hookFunc, *lambdahost.Host, error) {
	if c.HookFunc != nil {
		return c.HookFunc, nil, nil
	}
	f, ok := c.hookFunction(api)
	if !ok {
		return nil, nil, nil
	}
	host, err := lambdahost.Start(ctx, f)
	if e, ok := errors.AsType[*lambdahost.BinaryError](err); ok && c.assembled != nil {
		return nil, nil, fmt.Errorf("starting the hook: %s %s: synthesize the assembly anew, for this machine", e.Path, e.Problem)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("starting the hook: %w", err)
	}
	return func(ctx context.Context, r payload.Request) (payload.Response, error) {
		return invokeHook(ctx, host, r)
	}, host, nil
}

// hookFunction tells what to run as the hook, if anything. A hook that has no
// control API to ask is told to ask nothing, unless a stack says what it gets.
func (c *Config) hookFunction(api string) (f lambdahost.Config, ok bool) {
	f = lambdahost.Config{
		Path:        c.Hook,
		FunctionARN: c.hookARN(),
		Region:      c.Region,
		Timeout:     c.HookTimeout,
		Log:         c.Log.With("from", "hook"),
	}
	switch {
	case c.assembled != nil && c.assembled.hook != nil:
		hook := c.assembled.hook
		f.Path, f.Timeout, f.Env = hook.Path, hook.Timeout, slices.Clone(hook.Environment)
	case api == "":
		f.Env = []string{"EXISTING_THINGS=allow"}
	}
	if api != "" {
		f.Env = append(f.Env, "AWS_ENDPOINT_URL="+api) // of every service: nothing here may reach a real account
	}
	return f, f.Path != ""
}

// hookARN is the full name of the hook's function.
func (c *Config) hookARN() string {
	if c.assembled != nil && c.assembled.hook != nil {
		return c.assembled.hook.ARN
	}
	return "arn:" + c.Partition + ":lambda:" + c.Region + ":" + c.Account + ":function:" + hookFunction
}

func invokeHook(ctx context.Context, host *lambdahost.Host, r payload.Request) (answer payload.Response, err error) {
	event, err := json.Marshal(r)
	if err != nil {
		return answer, fmt.Errorf("encoding the event: %w", err)
	}
	result, err := host.Invoke(ctx, event)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal(result, &answer); err != nil {
		return answer, fmt.Errorf("reading the hook's answer: %w", err)
	}
	return answer, nil
}

// askHook returns the parameters with the hook's overrides over them. Whatever
// goes wrong is a denial, as AWS says; the device does not learn what it was.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
func (p *provisioner) askHook(ctx context.Context, r payload.Request, parameters map[string]string) (map[string]string, error) {
	const message = "Access denied"
	ctx, cancel := context.WithTimeout(ctx, p.config.HookTimeout)
	defer cancel()
	answer, err := p.hook(ctx, r)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, lambdahost.ErrTimeout):
		return nil, deniedByHook.because(message, fmt.Sprintf("the pre-provisioning hook did not answer within %v", p.config.HookTimeout))
	case err != nil:
		return nil, deniedByHook.because(message, "the pre-provisioning hook failed: "+err.Error())
	case !answer.AllowProvisioning:
		return nil, deniedByHook.because(message, "the pre-provisioning hook refused (allowProvisioning was not true); its log says why")
	}
	merged := make(map[string]string, len(parameters)+len(answer.ParameterOverrides))
	for _, set := range []map[string]string{parameters, answer.ParameterOverrides} {
		for name, value := range set {
			merged[name] = value
		}
	}
	return merged, nil
}
