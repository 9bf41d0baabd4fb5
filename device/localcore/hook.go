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

// A hookFunc asks the pre-provisioning hook whether a device may be provisioned.
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
	return func(ctx context.Context, r payload.Request) (answer payload.Response, err error) {
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
	}, host, nil
}

// hookFunction returns what to run as the hook, if anything. A hook without a
// control API to call is configured to call nothing, unless a stack says what
// it gets.
func (c *Config) hookFunction(api string) (f lambdahost.Config, ok bool) {
	f = lambdahost.Config{
		Path:        c.Hook,
		FunctionARN: c.hookARN(),
		Region:      c.Region,
		Endpoint:    api,
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
	return f, f.Path != ""
}

// hookARN is the full name of the hook's function.
func (c *Config) hookARN() string {
	if c.assembled != nil && c.assembled.hook != nil {
		return c.assembled.hook.ARN
	}
	return c.functionARN(hookFunction)
}

// functionARN is the full name of a Lambda function of this account.
func (c *Config) functionARN(name string) string {
	return "arn:" + c.Partition + ":lambda:" + c.Region + ":" + c.Account + ":function:" + name
}
