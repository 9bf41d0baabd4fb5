package provisioning_test

import (
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/ca"
	"example.com/fleety/device/localcore/event"
	"example.com/fleety/device/localcore/provisioning"
	"example.com/fleety/device/localcore/registry"
)

// https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html:
// provisioning proceeds only if the function returns an object with "allowProvisioning": true.
func TestHookAllowsByTheDocumentedAnswerOnly(t *testing.T) {
	t.Parallel()
	r, err := registry.Open("", registry.Options{ClaimPolicy: func(string) string { return "{}" }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateProvisioningTemplate(registry.ProvisioningTemplate{
		Name: "T", RoleARN: "role", Enabled: true, Hook: &registry.Hook{TargetARN: "hook"},
	}, `{"Parameters": {"name": {"Type": "String"}}, "Resources": {"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "name"}}},
		"certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}}}}`); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.Open("", true)
	if err != nil {
		t.Fatal(err)
	}
	csr := newCSR(t, pkix.Name{})
	for answer, want := range map[string]string{
		`{"allowProvisioning": true}`:                                                "one",
		`{"allowProvisioning": true, "parameterOverrides": null, "more": 1}`:         "one",
		`{"allowProvisioning": true, "parameterOverrides": {"name": "two"}}`:         "two",
		`{"allowProvisioning": true, "ParameterOverrides": {"name": "two"}}`:         "one",
		`{"allowProvisioning": true, "AllowProvisioning": false}`:                    "one",
		`{"AllowProvisioning": true}`:                                                "",
		`{"allowprovisioning": true, "allowProvisioning": false}`:                    "",
		`{"allowProvisioning": "yes"}`:                                               "",
		`{"allowProvisioning": true, "parameterOverrides": {"name": {"a": "b"}}}`:    "",
		`{"allowProvisioning": true, "parameterOverrides": {"name": null}}`:          "",
		`{"allowProvisioning": true, "parameterOverrides": {"name": 5}}`:             "",
		`{"allowProvisioning": true, "parameterOverrides": {"other": "` + "\xff\"}}": "",
		`{"allowProvisioning": true} {}`:                                             "",
		`[true]`:                                                                     "", `null`: "", `true`: "", ``: "",
	} {
		t.Run(answer, func(t *testing.T) {
			s := provisioning.New(provisioning.Config{
				Registry: r, Authority: authority, Now: time.Now, HookARN: "hook", HookTimeout: time.Minute,
				Invoke: func(context.Context, string, []byte) ([]byte, error) { return []byte(answer), nil },
				ARN:    func(resource string) string { return resource },
				Record: func(event.Event) {},
			})
			perform := func(operation awsiot.Operation, payload any) []byte {
				body, err := json.Marshal(payload)
				if err != nil {
					t.Fatal(err)
				}
				reply := s.Answer(t.Context(), provisioning.Request{
					Topic:   awsiot.Topic{Operation: operation, Format: awsiot.JSON, Template: "T"},
					Payload: body, CertificateID: "claim", Event: func(kind event.Type) event.Event { return event.Event{Type: kind} },
				})
				return reply.Payload
			}
			var made awsiot.CreateCertificateFromCSRResponse
			if err := json.Unmarshal(perform(awsiot.CreateCertificateFromCSR, csr), &made); err != nil {
				t.Fatal(err)
			}
			var done struct {
				ThingName  string
				StatusCode int
			}
			if err := json.Unmarshal(perform(awsiot.RegisterThing, awsiot.RegisterThingRequest{
				CertificateOwnershipToken: made.CertificateOwnershipToken, Parameters: map[string]string{"name": "one"},
			}), &done); err != nil {
				t.Fatal(err)
			}
			if done.ThingName != want || (want == "") != (done.StatusCode == 403) {
				t.Errorf("got %+v, want thing %q", done, want)
			}
		})
	}
}
