package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	own := device("fleety_2974685")
	detached := &Session{ClientID: "fleety_1", Thing: &Thing{Name: "fleety_1"}}
	operational := Policy{"GoIoTDevicePolicy", shipped(t, "device_policy.json")}
	claim := Policy{"GoIoTFleetProvisioningPolicy", shipped(t, "claim_policy.json")}
	one := func(statements ...fields) []Policy { return []Policy{{"P", document(t, statements...)}} }
	const unattached = `client id "me" is not the name of a thing attached to the certificate`

	tests := map[string]struct {
		policies []Policy
		request  *Request
		want     string
	}{
		"an allow names its statement and resource": {
			[]Policy{operational}, request(own, "iot:Publish", "topic/fleet/fleety_2974685"),
			`"PublishToOwnTopics" of GoIoTDevicePolicy allows iot:Publish on topic/fleet/fleety_2974685: ` +
				`the resource matches topic/fleet/${iot:Connection.Thing.ThingName}`,
		},
		"an allow names its condition": {
			[]Policy{operational}, request(own, "iot:Connect", "client/fleety_2974685"),
			`"ConnectAsOwnThing" of GoIoTDevicePolicy allows iot:Connect on client/fleety_2974685: ` +
				`the resource matches client/${iot:Connection.Thing.ThingName} and its condition holds`,
		},
		"an explicit deny names its statement by place": {
			one(allow("*", "*"), deny("iot:*", "topic/a/*")), request(own, "iot:Publish", "topic/a/b"),
			`Statement[1] of P explicitly denies iot:Publish on topic/a/b: the resource matches topic/a/*`,
		},
		"a deny by NotResource": {
			one(fields{"Effect": "Deny", "Action": "*", "NotResource": arnHead + "topic/a"}), request(own, "iot:Publish", "topic/b"),
			`Statement[0] of P explicitly denies iot:Publish on topic/b: the resource is none of its NotResource`,
		},
		"no policy": {
			nil, request(own, "iot:Connect", "client/a"),
			`nothing allows iot:Connect on client/a: no policy is attached to the certificate or to a group of its thing`,
		},
		"nothing but denies": {
			one(deny("iot:Publish", "*")), request(own, "iot:Connect", "client/a"),
			`no statement of P allows iot:Connect on client/a: none allows anything`,
		},
		"an action that is nowhere": {
			[]Policy{operational}, request(own, "iot:DeleteConnection", "client/other"),
			`no statement of GoIoTDevicePolicy allows iot:DeleteConnection on client/other, nor that action on any other resource`,
		},
		"another action on the same resource": {
			[]Policy{operational}, request(own, "iot:RetainPublish", "topic/fleet/fleety_2974685"),
			`no statement of GoIoTDevicePolicy allows iot:RetainPublish on topic/fleet/fleety_2974685; ` +
				`nearest is "PublishToOwnTopics": its resource matches, but its action is iot:Publish`,
		},
		"a resource that differs": {
			[]Policy{operational}, request(own, "iot:Publish", "topic/fleet/other"),
			`no statement of GoIoTDevicePolicy allows iot:Publish on topic/fleet/other; ` +
				`nearest is "PublishToOwnTopics": its resource topic/fleet/fleety_2974685 differs after topic/fleet/`,
		},
		"the nearest of two policies": {
			[]Policy{operational, claim}, request(own, "iot:Publish", "topic/$aws/certificates/create-from-cs/json"),
			`no statement of GoIoTDevicePolicy, GoIoTFleetProvisioningPolicy allows iot:Publish on topic/$aws/certificates/create-from-cs/json; ` +
				`nearest is "UseProvisioningTopics" of GoIoTFleetProvisioningPolicy: its resource ` +
				`topic/$aws/certificates/create-from-csr/json differs after topic/$aws/certificates/create-from-cs`,
		},
		"another account": {
			one(fields{"Effect": "Allow", "Action": "*", "Resource": "arn:aws:iot:us-east-1:111111111111:topic/a"}),
			request(own, "iot:Publish", "topic/a"),
			`no statement of P allows iot:Publish on topic/a; nearest is Statement[0]: its resource ` +
				`arn:aws:iot:us-east-1:111111111111:topic/a differs after arn:aws:iot:us-east-1:1 from arn:aws:iot:us-east-1:123456789012:topic/a`,
		},
		"a topic where a filter belongs": {
			one(allow("iot:Subscribe", "topic/a")), request(own, "iot:Subscribe", "topicfilter/a"),
			`no statement of P allows iot:Subscribe on topicfilter/a; nearest is Statement[0]: ` +
				`its resource topic/a differs after topic (iot:Subscribe is matched against topicfilter/…)`,
		},
		"an MQTT wildcard in a policy": {
			one(allow("iot:Publish", "topic/a/#")), request(own, "iot:Publish", "topic/a/b"),
			`no statement of P allows iot:Publish on topic/a/b; nearest is Statement[0]: ` +
				`its resource topic/a/# differs after topic/a/ (+ and # are literal in a policy; use *)`,
		},
		"a variable of no thing": {
			[]Policy{operational}, request(stranger("me"), "iot:Connect", "client/me"),
			`no statement of GoIoTDevicePolicy allows iot:Connect on client/me; nearest is "ConnectAsOwnThing": ` +
				`variable ${iot:Connection.Thing.ThingName} in client/${iot:Connection.Thing.ThingName} does not resolve: ` + unattached,
		},
		"a variable of a thing that is not attached": {
			[]Policy{operational}, request(detached, "iot:Connect", "client/fleety_1"),
			`no statement of GoIoTDevicePolicy allows iot:Connect on client/fleety_1; nearest is "ConnectAsOwnThing": ` +
				`variable ${iot:Connection.Thing.ThingName} in client/${iot:Connection.Thing.ThingName} does not resolve: ` +
				`thing "fleety_1" is not attached to the certificate`,
		},
		"a condition on a thing": {
			one(allow("*", "*").when("Bool", "iot:Connection.Thing.IsAttached", "true")), request(stranger("me"), "iot:Connect", "client/me"),
			`no statement of P allows iot:Connect on client/me; nearest is Statement[0]: its condition Bool on ` +
				`iot:Connection.Thing.IsAttached with "true" does not hold: it is "false", because ` + unattached,
		},
		"a condition on an attribute that is not there": {
			one(allow("*", "*").when("StringEquals", "iot:Connection.Thing.Attributes[site]", "a", "b")), request(own, "iot:Connect", "client/me"),
			`no statement of P allows iot:Connect on client/me; nearest is Statement[0]: its condition StringEquals on ` +
				`iot:Connection.Thing.Attributes[site] with "a", "b" does not hold: it has no value, because ` +
				`thing "fleety_2974685" has no attribute "site"`,
		},
		"a condition with a variable": {
			one(allow("*", "*").when("StringEquals", "iot:ClientId", "x-${iot:Connection.Thing.ThingName}")), request(own, "iot:Connect", "client/me"),
			`no statement of P allows iot:Connect on client/me; nearest is Statement[0]: its condition StringEquals on ` +
				`iot:ClientId with "x-fleety_2974685" does not hold: it is "fleety_2974685"`,
		},
		"a condition with an unresolved variable": {
			one(allow("*", "*").when("StringEquals", "iot:ClientId", "${iot:Connection.Thing.ThingTypeName}")), request(own, "iot:Connect", "client/me"),
			`no statement of P allows iot:Connect on client/me; nearest is Statement[0]: its condition StringEquals on ` +
				`iot:ClientId does not hold: variable ${iot:Connection.Thing.ThingTypeName} in ${iot:Connection.Thing.ThingTypeName} ` +
				`does not resolve: thing "fleety_2974685" has no type`,
		},
		"a condition on nothing": {
			one(allow("*", "*").when("ForAnyValue:StringEquals", "iot:ConnectAttributes")), request(own, "iot:Connect", "client/me"),
			`no statement of P allows iot:Connect on client/me; nearest is Statement[0]: its condition ForAnyValue:StringEquals on ` +
				`iot:ConnectAttributes with no value does not hold: it has no value, because the connection requests no attribute`,
		},
		"NotAction": {
			one(fields{"Effect": "Allow", "NotAction": "iot:Connect", "Resource": "*"}), request(own, "iot:Connect", "client/a"),
			`no statement of P allows iot:Connect on client/a; nearest is Statement[0]: its resource matches, but its NotAction excludes iot:Connect`,
		},
		"NotResource": {
			one(fields{"Effect": "Allow", "Action": "*", "NotResource": arnHead + "client/*"}), request(own, "iot:Connect", "client/a"),
			`no statement of P allows iot:Connect on client/a; nearest is Statement[0]: its NotResource excludes the resource`,
		},
		"an unresolved variable in NotResource": {
			one(fields{"Effect": "Allow", "Action": "*", "NotResource": arnHead + "client/${iot:Connection.Thing.ThingName}"}),
			request(stranger("me"), "iot:Connect", "client/a"),
			`no statement of P allows iot:Connect on client/a; nearest is Statement[0]: ` +
				`variable ${iot:Connection.Thing.ThingName} in client/${iot:Connection.Thing.ThingName} does not resolve: ` + unattached,
		},
		"an allow in spite of an unresolved deny": {
			one(allow("*", "*"), deny("iot:Publish", "topic/${iot:Connection.Thing.ThingName}")), request(stranger("me"), "iot:Publish", "topic/a"),
			`Statement[0] of P allows iot:Publish on topic/a: the resource matches *; Statement[1] of P does not deny: ` +
				`variable ${iot:Connection.Thing.ThingName} in topic/${iot:Connection.Thing.ThingName} does not resolve: ` + unattached,
		},
		"a topic that would forge a line": {
			one(allow("*", "topic/a")), request(own, "iot:Publish", "topic/a\nallowed"),
			`no statement of P allows iot:Publish on "topic/a\nallowed"; nearest is Statement[0]: its resource topic/a differs after topic/a`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Evaluate(test.policies, test.request).Explain(); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestExplainAbsence: each key that has no value says why.
func TestExplainAbsence(t *testing.T) {
	tests := map[string]string{
		"aws:SourceIp":                         "address of the client is not known",
		"iot:DomainName":                       "named no server",
		"iot:ConnectAttributes":                "requests no attribute",
		"iot:LastWillTopic":                    "no last will",
		"iot:CertificateId":                    "no certificate",
		"iot:Certificate.Subject.Country":      "no certificate",
		"iot:Connection.Thing.ThingName":       "not the name of a thing",
		"iot:Connection.Thing.Attributes[a]":   "not the name of a thing",
		"iot:Connection.Thing.IsAttachedToAll": "documents no such variable",
	}
	for name, want := range tests {
		d := document(t, allow("*", "*").when("StringEquals", name, "x"))
		got := Evaluate([]Policy{{"P", d}}, request(stranger("me"), "iot:Connect", "client/me")).Explain()
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want one with %q", name, got, want)
		}
	}
}

func TestExplainZeroDecision(t *testing.T) {
	if got := (Decision{}).Explain(); got != "no decision" {
		t.Errorf("got %q", got)
	}
}

func ExampleEvaluate() {
	doc, err := Parse([]byte(`{
		"Version": "2012-10-17",
		"Statement": {
			"Sid": "OwnTopic",
			"Effect": "Allow",
			"Action": "iot:Publish",
			"Resource": "arn:aws:iot:us-east-1:123456789012:topic/${iot:Connection.Thing.ThingName}/*"
		}
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	session := &Session{ClientID: "lamp", Thing: &Thing{Name: "lamp", Attached: true}}
	decision := Evaluate([]Policy{{Name: "Lamps", Document: doc}}, &Request{
		Action:   "iot:Publish",
		Resource: "arn:aws:iot:us-east-1:123456789012:topic/lantern/state",
		Session:  session,
	})
	fmt.Println(decision.Allowed)
	fmt.Println(decision.Explain())
	// Output:
	// false
	// no statement of Lamps allows iot:Publish on topic/lantern/state; nearest is "OwnTopic": its resource topic/lamp/* differs after topic/la
}
