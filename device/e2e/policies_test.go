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
		"${TemplateName}", localcore.TemplateName,
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

// exchange is what both flows of provisioning do with a template, in every
// format: publish each request, subscribe to its two answers and receive them.
func exchange(template string) (used []access) {
	for _, operation := range []awsiot.Operation{awsiot.CreateKeysAndCertificate, awsiot.CreateCertificateFromCSR, awsiot.RegisterThing} {
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

// ownSpace is what a device may use as this thing: the topic of the birth
// message that package provision publishes, what is below it, and its shadows.
func ownSpace(thing string) []access {
	fleet, shadow := "fleet/"+thing, "$aws/things/"+thing+"/shadow/"
	used := []access{
		"Connect client/" + thing,
		"Subscribe topicfilter/" + fleet + "/#", // doctor's
		"Subscribe topicfilter/" + shadow + "#",
	}
	for _, topic := range []string{fleet, fleet + "/hello", shadow + "update", shadow + "update/accepted", shadow + "name/config/get"} {
		used = append(used, "Publish topic/"+topic, "Receive topic/"+topic, "Subscribe topicfilter/"+topic)
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
		"$aws/things/fleety_1/shadow/update", "$aws/things/fleety_2/shadow/update", "$aws/things/fleety_1/jobs/get",
		"$aws/events/presence/connected/fleety_1", "$aws/rules/rule", "$share/group/fleet/fleety_1",
	}
	for _, used := range [][]access{exchange(localcore.TemplateName), exchange("Other"), ownSpace("fleety_1"), ownSpace("fleety_2"), ownSpace("fleety_11")} {
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

// TestClaimPolicyIsExactlyTheExchange holds policy and code together: a topic
// that the exchange does not have is not allowed, and one that it has is.
func TestClaimPolicyIsExactlyTheExchange(t *testing.T) {
	want := append(exchange(localcore.TemplateName), "Connect client/claim-1", "Connect client/claim-")
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
		"device_policy.json": {"/fleet/${iot:Connection.Thing.ThingName}/", "/$aws/things/${iot:Connection.Thing.ThingName}/shadow/"},
		"claim_policy.json": {
			"client/claim-", "/$aws/certificates/create/", "/$aws/certificates/create-from-csr/",
			"/$aws/provisioning-templates/" + localcore.TemplateName + "/provision/",
		},
	}
	for file, endings := range fixed {
		for s := range shippedPolicy(t, file)[0].Document.Statements() {
			if s.Effect != policy.Allow || s.NotActions != nil || s.NotResources != nil || slices.ContainsFunc(s.Actions, func(a string) bool { return strings.ContainsAny(a, "*?") }) {
				t.Errorf("%s: %v allows more than it names", file, s)
			}
			for _, resource := range s.Resources {
				i := strings.IndexAny(resource, "*?")
				if i >= 0 && !slices.ContainsFunc(endings, func(ending string) bool { return strings.HasSuffix(resource[:i], ending) }) {
					t.Errorf("%s: %v: the wildcard in %s reaches beyond its role", file, s, resource)
				}
			}
		}
	}
}
