package provisioning

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/hook/payload"
)

// invokeHook asks the template's hook, and returns the parameters with the hook's overrides over
// them. Whatever goes wrong is a denial, as AWS says; the device does not learn what it was.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
func (s *Service) invokeHook(ctx context.Context, r Request, stored registry.ProvisioningTemplate, pending registry.Certificate, parameters map[string]string) (map[string]string, error) {
	const message = "Access denied"
	if stored.Hook.TargetARN != s.config.HookARN {
		return nil, denied.because(message, "the template's hook "+stored.Hook.TargetARN+" does not run here; the hook that does: "+cmp.Or(s.config.HookARN, "none"))
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.HookTimeout)
	defer cancel()
	names := slices.Sorted(maps.Keys(parameters)) // not the values: a hook may take a secret
	s.record(r, event.Invoked, "parameters "+strings.Join(names, ", "))
	hook := s.config.Hook
	if hook == nil {
		hook = func(ctx context.Context, r payload.Request) (answer payload.Response, err error) {
			var overrides map[string]any
			err = s.invoke(ctx, s.config.HookARN, r, map[string]any{"allowProvisioning": &answer.AllowProvisioning, "parameterOverrides": &overrides})
			if err == nil {
				answer.ParameterOverrides, err = texts(overrides)
			}
			return answer, err
		}
	}
	answer, err := hook(ctx, payload.Request{
		ClaimCertificateID: r.CertificateID,
		CertificateID:      pending.ID,
		CertificatePEM:     pending.PEM,
		TemplateARN:        s.config.ARN("provisioningtemplate/" + stored.Name),
		ClientID:           r.ClientID,
		Parameters:         payload.ParametersOf(parameters),
	})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) { // whatever a hook that does not end with ctx answers
		err = fmt.Errorf("it did not answer within %v", s.config.HookTimeout)
	}
	if err != nil {
		s.record(r, event.Returned, "failed: "+err.Error())
		return nil, denied.because(message, "the pre-provisioning hook failed: "+err.Error())
	}
	if !answer.AllowProvisioning {
		s.record(r, event.Returned, "denied")
		return nil, denied.because(message, "the pre-provisioning hook denied (allowProvisioning was not true); its log says why")
	}
	s.record(r, event.Returned, "allowed")
	merged := maps.Clone(parameters)
	maps.Copy(merged, answer.ParameterOverrides)
	return merged, nil
}

// invoke invokes a function with what event becomes in JSON, and reads the members of its answer.
func (s *Service) invoke(ctx context.Context, functionARN string, event any, answer map[string]any) error {
	input, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encoding the event: %w", err)
	}
	output, err := s.config.Invoke(ctx, functionARN, input)
	if err != nil {
		return err
	}
	if err := decode(awsiot.JSON, output, answer); err != nil {
		return fmt.Errorf("reading its answer: %w", err)
	}
	return nil
}
