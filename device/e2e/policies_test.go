package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/policy"
)

const accountARN = "arn:aws:iot:us-east-1:123456789012:"

// shippedPolicy reads a policy of templates/ as it is deployed.
func shippedPolicy(t *testing.T, file string) []policy.Policy {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "templates", file))
	if err != nil {
		t.Fatal(err)
	}
	document, err := policy.Parse([]byte(strings.NewReplacer(
		"${AWS::Partition}", "aws", "${AWS::Region}", "us-east-1", "${AWS::AccountId}", "123456789012",
		"${TemplateName}", localcore.TemplateName, "${ThingPrefix}", "fleety_",
	).Replace(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	return []policy.Policy{{Name: file, Document: document}}
}

// An access is an action on a resource, written "Action resource".
type access = string

// allowed returns those of the accesses that the policy allows, sorted.
func allowed(policies []policy.Policy, session *policy.Session, universe []access) []access {
	var granted []access
	for _, a := range universe {
		action, resource, _ := strings.Cut(a, " ")
		if policy.Evaluate(policies, &policy.Request{Action: "iot:" + action, Resource: accountARN + resource, Session: session}).Allowed {
			granted = append(granted, a)
		}
	}
	slices.Sort(granted)
	return slices.Compact(granted)
}

// exchange is what provisioning does with a template by these operations, in
// every format: publish each request, subscribe to its two answers and receive
// them.
func exchange(template string, operations ...awsiot.Operation) (used []access) {
	for _, operation := range append(operations, awsiot.RegisterThing) {
		for _, format := range []awsiot.Format{awsiot.JSON, awsiot.CBOR} {
			topic := awsiot.Topic{Operation: operation, Format: format}
			if operation == awsiot.RegisterThing {
				topic.Template = template
			}
			used = append(used, "Publish topic/"+topic.String())
			for _, answer := range []string{topic.Accepted(), topic.Rejected()} {
				used = append(used, "Subscribe topicfilter/"+answer, "Receive topic/"+answer)
			}
		}
	}
	return used
}

// claimExchange is what both flows of provisioning by claim do.
func claimExchange(template string) []access {
	return exchange(template, awsiot.CreateKeysAndCertificate, awsiot.CreateCertificateFromCSR)
}

// ownSpace is what a device may use as this thing: it publishes its birth message
// and what its programs send, asks its shadows and jobs, and receives what is
// sent to it.
func ownSpace(thing string) []access {
	fleet, things := "fleet/"+thing, "$aws/things/"+thing
	used := []access{"Connect client/" + thing}
	for _, topic := range []string{
		fleet, fleet + "/up/temperature", fleet + "/up/a/b",
		things + "/shadow/get", things + "/shadow/update", things + "/shadow/name/config/get", things + "/shadow/name/config/update",
		things + "/jobs/get", things + "/jobs/start-next", things + "/jobs/1/get", things + "/jobs/$next/get", things + "/jobs/1/update",
	} {
		used = append(used, "Publish topic/"+topic)
	}
	for _, filter := range []string{fleet + "/down/#", things + "/shadow/#", things + "/jobs/#", things + "/jobs/+/update/accepted", things + "/shadow/name/+/update/delta"} {
		used = append(used, "Subscribe topicfilter/"+filter)
	}
	for _, topic := range []string{
		fleet + "/down/hello", things + "/shadow/update/delta", things + "/shadow/get/accepted", things + "/shadow/name/config/update/documents",
		things + "/jobs/notify", things + "/jobs/notify-next", things + "/jobs/1/update/rejected", things + "/tunnels/notify",
	} {
		used = append(used, "Receive topic/"+topic, "Subscribe topicfilter/"+topic)
	}
	// What is published to the own shadow and jobs can be received: AWS's filters
	// for the answers, such as shadow/#, cover it.
	for _, topic := range []string{"shadow/get", "shadow/update", "shadow/name/config/get", "shadow/name/config/update", "jobs/get", "jobs/start-next", "jobs/1/get", "jobs/$next/get", "jobs/1/update"} {
		used = append(used, "Receive topic/"+things+"/"+topic, "Subscribe topicfilter/"+things+"/"+topic)
	}
	return used
}

// universe is every action on everything that a device may think of: on the
// topics of both roles, of other things and templates, and on wildcards.
func universe() (all []access) {
	topics := []string{
		"#", "+", "+/+", "fleet", "fleet/#", "fleet/+", "fleet/+/hello", "*", "$aws/#", "$aws/certificates/#", "$aws/certificates/+/json",
		"$aws/certificates/create/#", "$aws/certificates/create/+",
		"$aws/provisioning-templates/+/provision/json/accepted", "$aws/provisioning-templates/#",
		"$aws/things/fleety_1/#", "$aws/things/fleety_1/+/update", "$aws/things/fleety_1/defender/metrics/json", "$aws/things/fleety_1/streams/1/get/json",
		"fleet/fleety_1/#", "fleet/fleety_1/hello", "fleet/fleety_1/up", "fleet/fleety_1/down", "fleet/fleety_1/up/#",
		"$aws/events/presence/connected/fleety_1", "$aws/rules/rule", "$share/group/fleet/fleety_1",
	}
	for _, used := range [][]access{claimExchange(localcore.TemplateName), claimExchange("Other"), ownSpace("fleety_1"), ownSpace("fleety_2"), ownSpace("fleety_11")} {
		for _, a := range used {
			_, resource, _ := strings.Cut(a, " ")
			_, topic, _ := strings.Cut(resource, "/")
			topics = append(topics, topic)
		}
	}
	for _, topic := range topics {
		if !strings.ContainsAny(topic, "#+") { // no message has such a topic
			all = append(all, "Publish topic/"+topic, "RetainPublish topic/"+topic, "Receive topic/"+topic)
		}
		all = append(all, "Subscribe topicfilter/"+topic, "Connect client/"+topic, "DeleteConnection client/"+topic)
	}
	for _, client := range []string{"claim-1", "claim-", "claim", "fleety_1", "*", ""} {
		all = append(all, "Connect client/"+client)
	}
	for _, thing := range []string{"fleety_1", "fleety_2"} {
		all = append(all, "GetThingShadow thing/"+thing, "UpdateThingShadow thing/"+thing, "DeleteThingShadow thing/"+thing)
	}
	return all
}

// TestClaimPolicyIsExactlyTheExchange compares policy and code: a topic that the
// exchange does not have is not allowed, and one that it has is.
func TestClaimPolicyIsExactlyTheExchange(t *testing.T) {
	want := append(claimExchange(localcore.TemplateName), "Connect client/claim-1", "Connect client/claim-")
	slices.Sort(want)
	session := &policy.Session{ClientID: "claim-1"}
	if diff := cmp.Diff(want, allowed(shippedPolicy(t, "claim_policy.json"), session, append(universe(), want...))); diff != "" {
		t.Errorf("claim_policy.json differs from the exchange (-exchange +policy):\n%s", diff)
	}
}

func TestDevicePolicyIsExactlyTheThingsOwnSpace(t *testing.T) {
	want := ownSpace("fleety_1")
	slices.Sort(want)
	session := &policy.Session{ClientID: "fleety_1", Thing: &policy.Thing{Name: "fleety_1", Attached: true}}
	if diff := cmp.Diff(want, allowed(shippedPolicy(t, "device_policy.json"), session, append(universe(), want...))); diff != "" {
		t.Errorf("device_policy.json differs from the thing's own space (-own +policy):\n%s", diff)
	}
}

// Every topic of AWS's that a device may receive on it may not publish to, but
// for its own requests: it would be taken for AWS.
func TestDeviceCannotPublishAsAWS(t *testing.T) {
	const things = "Publish topic/$aws/things/fleety_1/"
	var forged []access
	for _, shadow := range []string{"shadow", "shadow/name/config"} {
		for _, ending := range []string{"update/accepted", "update/rejected", "update/delta", "update/documents", "get/accepted", "get/rejected", "delete", "delete/accepted", "delete/rejected"} {
			forged = append(forged, things+shadow+"/"+ending)
		}
	}
	for _, topic := range []string{"jobs/notify", "jobs/notify-next", "jobs/get/accepted", "jobs/1/get/rejected", "jobs/1/update/accepted", "jobs/start-next/accepted", "tunnels/notify"} {
		forged = append(forged, things+topic)
	}
	session := &policy.Session{ClientID: "fleety_1", Thing: &policy.Thing{Name: "fleety_1", Attached: true}}
	if granted := allowed(append(shippedPolicy(t, "device_policy.json"), shippedPolicy(t, "rotation_policy.json")...), session, forged); granted != nil {
		t.Errorf("allowed: %v", granted)
	}
}

func TestRotationPolicyIsExactlyTheExchangeByCSR(t *testing.T) {
	want := exchange(localcore.TemplateName, awsiot.CreateCertificateFromCSR)
	slices.Sort(want)
	session := &policy.Session{ClientID: "fleety_1", Thing: &policy.Thing{Name: "fleety_1", Attached: true}}
	if diff := cmp.Diff(want, allowed(shippedPolicy(t, "rotation_policy.json"), session, append(universe(), want...))); diff != "" {
		t.Errorf("rotation_policy.json differs from the exchange (-exchange +policy):\n%s", diff)
	}
	stranger := &policy.Session{ClientID: "claim-1"}
	for _, a := range allowed(shippedPolicy(t, "rotation_policy.json"), stranger, universe()) {
		if strings.HasPrefix(a, "Publish ") || strings.HasPrefix(a, "Connect ") {
			t.Errorf("without a thing: %s", a)
		}
	}
}

// AWS counts a policy's characters without white space, after it was resolved.
//
// AWS page: https://docs.aws.amazon.com/general/latest/gr/iot-core.html#security-limits
func TestPoliciesFitAWSsLimitInEveryRegion(t *testing.T) {
	for _, file := range []string{"claim_policy.json", "device_policy.json", "rotation_policy.json"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "templates", file))
		if err != nil {
			t.Fatal(err)
		}
		longest := strings.NewReplacer("${AWS::Partition}", "aws-us-gov", "${AWS::Region}", "ap-southeast-2", "${AWS::AccountId}", "123456789012",
			"${TemplateName}", strings.Repeat("T", 36)).Replace(string(text))
		if n := len(strings.Join(strings.Fields(longest), "")); n > 2048 {
			t.Errorf("%s can have %d characters, AWS IoT takes 2048", file, n)
		}
	}
}

func TestDevicePolicyGivesNothingWithoutAThing(t *testing.T) {
	for name, session := range map[string]*policy.Session{
		"no thing":           {ClientID: "fleety_1"},
		"thing of another":   {ClientID: "fleety_1", Thing: &policy.Thing{Name: "fleety_1"}},
		"client id of claim": {ClientID: "claim-1"},
	} {
		t.Run(name, func(t *testing.T) {
			if granted := allowed(shippedPolicy(t, "device_policy.json"), session, universe()); granted != nil {
				t.Errorf("allowed: %v", granted)
			}
		})
	}
}

// TestWildcardsReachNoOtherThing looks at the policies as written, for what the
// universe above may not think of.
func TestWildcardsReachNoOtherThing(t *testing.T) {
	fixed := map[string][]string{ // what must stand before the first wildcard of a resource
		"device_policy.json": {
			"/fleet/${iot:Connection.Thing.ThingName}/up/", "/fleet/${iot:Connection.Thing.ThingName}/down/",
			"/$aws/things/${iot:Connection.Thing.ThingName}/", "/$aws/things/${iot:Connection.Thing.ThingName}/shadow/", "/$aws/things/${iot:Connection.Thing.ThingName}/jobs/",
		},
		"rotation_policy.json": {"/$aws/certificates/create-from-csr/", "/$aws/provisioning-templates/" + localcore.TemplateName + "/provision/"},
		"claim_policy.json": {
			"client/claim-", "/$aws/certificates/create/", "/$aws/certificates/create-from-csr/",
			"/$aws/provisioning-templates/" + localcore.TemplateName + "/provision/",
		},
	}
	for file, endings := range fixed {
		for _, s := range shippedPolicy(t, file)[0].Document.Statements {
			if s.Effect != policy.Allow || s.Actions.Not || s.Resources.Not || slices.ContainsFunc(s.Actions.Texts, func(a string) bool { return strings.ContainsAny(a, "*?") }) {
				t.Errorf("%s: %v allows more than it names", file, s)
			}
			for _, resource := range s.Resources.Texts {
				i := strings.IndexAny(resource, "*?")
				if i >= 0 && !slices.ContainsFunc(endings, func(ending string) bool { return strings.HasSuffix(resource[:i], ending) }) {
					t.Errorf("%s: %v: the wildcard in %s reaches beyond its role", file, s, resource)
				}
			}
		}
	}
}
