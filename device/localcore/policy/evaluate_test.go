package policy

import (
	"testing"
)

func TestEvaluateShippedPolicies(t *testing.T) {
	own, claim := device("fleety_2974685"), stranger("claim-2974685")
	imposter := &Session{ClientID: "fleety_1", Thing: &Thing{Name: "fleety_1"}}
	tests := map[string]struct {
		file   string
		checks []check
	}{
		"a device uses what is its own": {"device_policy.json", []check{
			{request(own, "iot:Connect", "client/fleety_2974685"), true},
			{request(own, "iot:Publish", "topic/fleet/fleety_2974685"), true},
			{request(own, "iot:Publish", "topic/fleet/fleety_2974685/up/temperature"), true},
			{request(own, "iot:Receive", "topic/fleet/fleety_2974685/down/hello"), true},
			{request(own, "iot:Subscribe", "topicfilter/fleet/fleety_2974685/down/#"), true},
		}},
		"a device uses nothing else": {"device_policy.json", []check{
			{request(own, "iot:Connect", "client/fleety_1"), false},
			{request(own, "iot:Publish", "topic/fleet/fleety_29746850"), false},
			{request(own, "iot:Subscribe", "topicfilter/fleet/#"), false},
			{request(own, "iot:Publish", "topic/fleet/fleety_29746850/birth"), false},
			{request(own, "iot:RetainPublish", "topic/fleet/fleety_2974685"), false},
			{request(imposter, "iot:Connect", "client/fleety_1"), false},
			{request(imposter, "iot:Publish", "topic/fleet/fleety_1"), false},
		}},
		"a claim provisions": {"claim_policy.json", []check{
			{request(claim, "iot:Connect", "client/claim-2974685"), true},
			{request(claim, "iot:Publish", "topic/$aws/certificates/create/json"), true},
			{request(claim, "iot:Publish", "topic/$aws/certificates/create-from-csr/cbor"), true},
			{request(claim, "iot:Subscribe", "topicfilter/$aws/provisioning-templates/GoFleetProvisioningTemplate/provision/json/+"), true},
			{request(claim, "iot:Receive", "topic/$aws/provisioning-templates/GoFleetProvisioningTemplate/provision/json/accepted"), true},
		}},
		"a claim does nothing else": {"claim_policy.json", []check{
			{request(claim, "iot:Connect", "client/fleety_2974685"), false},
			{request(claim, "iot:Publish", "topic/fleet/claim-2974685"), false},
			{request(claim, "iot:Publish", "topic/$aws/provisioning-templates/Other/provision/json"), false},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			runChecks(t, shipped(t, test.file), test.checks...)
		})
	}
}

func TestEvaluate(t *testing.T) {
	me := stranger("me")
	publish := request(me, "iot:Publish", "topic/a")
	tests := map[string]struct {
		statements []fields
		checks     []check
	}{
		"a deny wins before an allow": {
			[]fields{deny("iot:*", "topic/a"), allow("iot:*", "*")},
			[]check{{publish, false}, {request(me, "iot:Publish", "topic/b"), true}},
		},
		"a deny wins after an allow": {
			[]fields{allow("iot:*", "*"), deny("iot:*", "topic/a")},
			[]check{{publish, false}},
		},
		"a deny that does not match denies nothing": {
			[]fields{allow("iot:*", "*"), deny("iot:Connect", "*")},
			[]check{{publish, true}},
		},
		"actions compare without case": {
			[]fields{allow("IOT:publish", "*")},
			[]check{{publish, true}},
		},
		"a ? in an action is one character": {
			[]fields{allow("iot:Publis?", "*")},
			[]check{{publish, true}, {request(me, "iot:Publis", "topic/a"), false}},
		},
		"NotAction is any other action": {
			[]fields{{"Effect": "Allow", "NotAction": "iot:Connect", "Resource": "*"}},
			[]check{{publish, true}, {request(me, "iot:Connect", "client/me"), false}},
		},
		"NotResource is any other resource": {
			[]fields{{"Effect": "Allow", "Action": "*", "NotResource": arnHead + "topic/b*"}},
			[]check{{publish, true}, {request(me, "iot:Publish", "topic/bc"), false}},
		},
		"an unresolved variable in NotResource matches nothing": {
			[]fields{{"Effect": "Allow", "Action": "*", "NotResource": arnHead + "topic/${iot:Connection.Thing.ThingName}"}},
			[]check{{publish, false}},
		},
		"an unresolved resource leaves the others": {
			[]fields{allow("*", "topic/${iot:Connection.Thing.ThingName}", "topic/a")},
			[]check{{publish, true}},
		},
		"an unresolved deny does not match": {
			[]fields{allow("*", "*"), deny("*", "topic/${iot:Connection.Thing.ThingName}")},
			[]check{{publish, true}},
		},
		"a resource of another account does not match": {
			[]fields{{"Effect": "Allow", "Action": "*", "Resource": "arn:aws:iot:us-east-1:210987654321:topic/a"}},
			[]check{{publish, false}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			runChecks(t, document(t, test.statements...), test.checks...)
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-policies.html: all
// policies count together, and an explicit deny wins over any allow.
func TestEvaluateJoinsPolicies(t *testing.T) {
	opens := Policy{"Opens", document(t, allow("iot:Publish", "*"))}
	closes := Policy{"Closes", document(t, allow("iot:Connect", "*"), deny("iot:Publish", "topic/a"))}

	d := Evaluate([]Policy{opens, closes}, request(stranger("me"), "iot:Publish", "topic/a"))
	if d.Allowed || d.Policy != "Closes" || d.Statement == nil || d.Statement.Index != 1 {
		t.Errorf("got %t by %s of %q, want a deny by Statement[1] of Closes", d.Allowed, d.Statement, d.Policy)
	}
	d = Evaluate([]Policy{opens, closes}, request(stranger("me"), "iot:Publish", "topic/b"))
	if !d.Allowed || d.Policy != "Opens" {
		t.Errorf("got %t by %q, want an allow by Opens", d.Allowed, d.Policy)
	}
	d = Evaluate([]Policy{opens, closes}, request(stranger("me"), "iot:Subscribe", "topicfilter/b"))
	if d.Allowed || d.Policy != "" || d.Statement != nil {
		t.Errorf("got %t by %q, want a default deny", d.Allowed, d.Policy)
	}
}

// shippedRequests are what one device does, most of it again and again, and what it is denied.
func shippedRequests(t testing.TB) map[string]struct {
	policies []Policy
	request  *Request
} {
	operational := []Policy{{"GoIoTDevicePolicy", shipped(t, "device_policy.json")}}
	claim := []Policy{{"GoIoTFleetProvisioningPolicy", shipped(t, "claim_policy.json")}}
	own, claims := device("fleety_2974685"), stranger("claim-2974685")
	return map[string]struct {
		policies []Policy
		request  *Request
	}{
		"device-connect":   {operational, request(own, "iot:Connect", "client/fleety_2974685")},
		"device-publish":   {operational, request(own, "iot:Publish", "topic/fleet/fleety_2974685/birth")},
		"device-subscribe": {operational, request(own, "iot:Subscribe", "topicfilter/fleet/fleety_2974685/+")},
		"device-denied":    {operational, request(own, "iot:Publish", "topic/fleet/fleety_1/birth")},
		"claim-connect":    {claim, request(claims, "iot:Connect", "client/claim-2974685")},
		"claim-publish":    {claim, request(claims, "iot:Publish", "topic/$aws/provisioning-templates/GoFleetProvisioningTemplate/provision/json")},
		"claim-denied":     {claim, request(claims, "iot:Connect", "client/fleety_2974685")},
	}
}

// sink keeps the compiler from leaving the evaluation out.
var sink bool

func TestEvaluateDoesNotAllocate(t *testing.T) {
	for name, c := range shippedRequests(t) {
		// The request is made anew, as a broker does for each packet.
		if n := testing.AllocsPerRun(100, func() {
			r := *c.request
			sink = Evaluate(c.policies, &r).Allowed
		}); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	for name, c := range shippedRequests(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sink = Evaluate(c.policies, c.request).Allowed
			}
		})
	}
}

func BenchmarkExplain(b *testing.B) {
	c := shippedRequests(b)["device-denied"]
	d := Evaluate(c.policies, c.request)
	for b.Loop() {
		sink = d.Explain() == ""
	}
}
