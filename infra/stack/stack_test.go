package stack_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"example.com/fleety/hook/admit"
)

var update = flag.Bool("update", false, "write the golden template anew")

// assetKey is the name of an uploaded file, which changes with its bytes.
var assetKey = regexp.MustCompile(`"[0-9a-f]{64}\.zip"`)

// masked replaces the names of the assets: the first is the hook's.
func masked(text []byte) []byte {
	names := [][]byte{[]byte(`"HOOK.zip"`), []byte(`"RETIRE.zip"`)}
	return assetKey.ReplaceAllFunc(text, func([]byte) []byte {
		name := names[0]
		names = names[1:]
		return name
	})
}

func TestTemplateIsTheGoldenOne(t *testing.T) {
	golden := filepath.Join("testdata", "template.golden.json")
	got := masked(synthesized(t, byDefault).Text)
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("template differs; if that is meant, run go test ./stack -update (-golden +got):\n%s", diff)
	}
}

func TestSynthesisIsRepeatable(t *testing.T) {
	first := synthesized(t, byDefault)
	second, err := synth(map[string]any{"certificateArn": arnA})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(first.Text), string(second.Text)); diff != "" {
		t.Errorf("two syntheses differ (-first +second):\n%s", diff)
	}
}

func TestClaimPolicyAllowsNothingButProvisioning(t *testing.T) {
	_, policy := synthesized(t, byDefault).named(t, "AWS::IoT::Policy", "ClaimPolicy")
	const arn = "arn:aws:iot:us-east-1:123456789012:"
	on := func(kind string, endings ...string) (resources []any) {
		for _, topic := range []string{"certificates/create/", "certificates/create-from-csr/", "provisioning-templates/GoFleetProvisioningTemplate/provision/"} {
			for _, ending := range endings {
				resources = append(resources, arn+kind+"/$aws/"+topic+ending)
			}
		}
		return resources
	}
	statement := func(sid, action string, resource any) any {
		return map[string]any{"Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource}
	}
	want := map[string]any{
		"Tags":       []any{map[string]any{"Key": "fleety:stack", "Value": "GoFleetProvisioning"}},
		"PolicyName": "GoIoTFleetProvisioningPolicy",
		"PolicyDocument": map[string]any{
			"Version": "2012-10-17",
			"Statement": []any{
				map[string]any{"Sid": "ConnectAsClaim", "Effect": "Allow", "Action": "iot:Connect", "Resource": arn + "client/claim-*",
					"Condition": map[string]any{"ForAllValues:StringNotEquals": map[string]any{"iot:ConnectAttributes": []any{"PersistentConnect", "LastWill"}}}},
				statement("UseProvisioningTopics", "iot:Publish", on("topic", "json", "cbor")),
				statement("ReceiveAnswers", "iot:Receive", on("topic", "*/*")),
				statement("SubscribeToAnswers", "iot:Subscribe", on("topicfilter", "*/*")),
			},
		},
	}
	if diff := cmp.Diff(want, resolved(policy.Properties)); diff != "" {
		t.Errorf("claim policy differs (-want +got):\n%s", diff)
	}
}

func TestClaimPolicyHasTheClientIDsAndAddressesOfTheOptions(t *testing.T) {
	_, policy := synthesized(t, withOptions).named(t, "AWS::IoT::Policy", "ClaimPolicy")
	document := resolved(policy.Properties["PolicyDocument"]).(map[string]any)
	const client = "arn:aws:iot:us-east-1:123456789012:client/"
	want := map[string]any{
		"Sid": "ConnectAsClaim", "Effect": "Allow", "Action": "iot:Connect", "Resource": []any{client + "claim-*", client + "gg-?"},
		"Condition": map[string]any{
			"ForAllValues:StringNotEquals": map[string]any{"iot:ConnectAttributes": []any{"PersistentConnect", "LastWill"}},
			"IpAddress":                    map[string]any{"aws:SourceIp": []any{"203.0.113.0/24"}},
		},
	}
	if diff := cmp.Diff(want, document["Statement"].([]any)[0]); diff != "" {
		t.Errorf("statement differs (-want +got):\n%s", diff)
	}
}

func TestDevicePolicyIsTheDocumentWithItsVariables(t *testing.T) {
	_, policy := synthesized(t, byDefault).named(t, "AWS::IoT::Policy", "DevicePolicy")
	source, err := os.ReadFile(filepath.Join("..", "..", "templates", "device_policy.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want any
	filled := strings.NewReplacer("${AWS::Partition}", "aws", "${AWS::Region}", "us-east-1", "${AWS::AccountId}", "123456789012").Replace(string(source))
	if err := json.Unmarshal([]byte(filled), &want); err != nil {
		t.Fatal(err)
	}
	properties := resolved(policy.Properties).(map[string]any)
	if diff := cmp.Diff(want, properties["PolicyDocument"]); diff != "" {
		t.Errorf("device policy differs (-document +got):\n%s", diff)
	}
	if got := properties["PolicyName"]; got != "GoIoTDevicePolicy" {
		t.Errorf("device policy is named %v", got)
	}
}

func TestDeviceResourcesOutliveTheStack(t *testing.T) {
	tmpl := synthesized(t, byDefault)
	_, policy := tmpl.named(t, "AWS::IoT::Policy", "DevicePolicy")
	_, kind := tmpl.named(t, "AWS::IoT::ThingType", "")
	_, rotation := tmpl.named(t, "AWS::IoT::Policy", "RotationPolicy")
	// What devices have when rotation is turned off is there when it comes back.
	_, off := synthesized(t, withOptions).named(t, "AWS::IoT::Policy", "RotationPolicy")
	_, log := tmpl.named(t, "AWS::Logs::LogGroup", "HookLog")
	for _, r := range []resource{policy, rotation, off, kind, log} {
		if r.DeletionPolicy != "RetainExceptOnCreate" {
			t.Errorf("%s has DeletionPolicy %q: its removal fails while devices hold it", r.Type, r.DeletionPolicy)
		}
	}
}

func TestEveryClaimCertificateGetsTheClaimPolicy(t *testing.T) {
	for name, test := range map[string]struct {
		synth func() (template, error)
		want  map[string]any // by logical id
	}{
		"one":     {byDefault, map[string]any{"Claim" + idA: arnA}},
		"several": {withOptions, map[string]any{"Claim" + idA: arnA, "Claim" + idB: arnB}},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			policy, _ := tmpl.named(t, "AWS::IoT::Policy", "ClaimPolicy")
			got := map[string]any{}
			for id, r := range tmpl.ofType("AWS::IoT::PolicyPrincipalAttachment") {
				if attached := resolved(r.Properties["PolicyName"]); attached != "ref("+policy+")" {
					t.Errorf("%s attaches %v", id, attached)
				}
				got[id] = r.Properties["Principal"]
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("attachments differ (-want +got):\n%s", diff)
			}
		})
	}
}

const provisioningTemplateARN = "arn:aws:iot:us-east-1:123456789012:provisioningtemplate/GoFleetProvisioningTemplate"

func TestHookPermissionIsBoundToTemplateAndAccount(t *testing.T) {
	tmpl := synthesized(t, byDefault)
	function, _ := tmpl.named(t, "AWS::Lambda::Function", "Hook")
	_, permission := tmpl.named(t, "AWS::Lambda::Permission", "Hook")
	want := map[string]any{
		"Action":        "lambda:InvokeFunction",
		"FunctionName":  "att(" + function + ".Arn)",
		"Principal":     "iot.amazonaws.com",
		"SourceAccount": "123456789012",
		"SourceArn":     provisioningTemplateARN,
	}
	if diff := cmp.Diff(want, resolved(permission.Properties)); diff != "" {
		t.Errorf("permission differs (-want +got):\n%s", diff)
	}
}

func TestProvisioningRoleTrustsThisTemplateOnly(t *testing.T) {
	_, role := synthesized(t, byDefault).named(t, "AWS::IAM::Role", "ProvisioningRole")
	want := map[string]any{
		"Version": "2012-10-17",
		"Statement": []any{map[string]any{
			"Effect":    "Allow",
			"Action":    "sts:AssumeRole",
			"Principal": map[string]any{"Service": "iot.amazonaws.com"},
			"Condition": map[string]any{
				"StringEquals": map[string]any{"aws:SourceAccount": "123456789012"},
				"ArnLike":      map[string]any{"aws:SourceArn": provisioningTemplateARN},
			},
		}},
	}
	if diff := cmp.Diff(want, resolved(role.Properties["AssumeRolePolicyDocument"])); diff != "" {
		t.Errorf("trust differs (-want +got):\n%s", diff)
	}
}

func TestProvisioningRoleHasItsManagedPolicies(t *testing.T) {
	for name, test := range map[string]struct {
		synth func() (template, error)
		want  []any
	}{
		"as documented": {byDefault, []any{
			"arn:aws:iam::aws:policy/service-role/AWSIoTThingsRegistration",
			"arn:aws:iam::aws:policy/service-role/AWSIoTLogging",
			"arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess",
			"arn:aws:iam::aws:policy/service-role/AWSIoTRuleActions",
		}},
		"minimal": {withOptions, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			id, role := tmpl.named(t, "AWS::IAM::Role", "ProvisioningRole")
			got, _ := resolved(role.Properties["ManagedPolicyArns"]).([]any)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("managed policies differ (-want +got):\n%s", diff)
			}
			for policy, r := range tmpl.ofType("AWS::IAM::Policy") {
				if test.want != nil && slices.Contains(resolved(r.Properties["Roles"]).([]any), any("ref("+id+")")) {
					t.Errorf("%s gives the provisioning role further rights", policy)
				}
			}
		})
	}
}

// The minimal role acts on this fleet's names; AWS offers no resource types for the rest.
func TestMinimalRoleActsOnThisFleet(t *testing.T) {
	_, policy := synthesized(t, withOptions).named(t, "AWS::IAM::Policy", "ProvisioningRole")
	document := resolved(policy.Properties["PolicyDocument"]).(map[string]any)
	const arn = "arn:aws:iot:us-east-1:123456789012:"
	for _, s := range document["Statement"].([]any) {
		statement := s.(map[string]any)
		resources, several := statement["Resource"].([]any)
		if !several {
			resources = []any{statement["Resource"]}
		}
		for _, r := range resources {
			switch r {
			case arn + "thing/acme-ACME-*", arn + "thinggroup/acme", arn + "thingtype/acme-sensor", arn + "cert/*", arn + "policy/SecondDevicePolicy", arn + "policy/SecondExtraPolicy":
			case "*":
				if diff := cmp.Diff([]any{"iot:AttachThingPrincipal", "iot:RegisterThing"}, statement["Action"]); diff != "" {
					t.Errorf("actions on everything differ (-want +got):\n%s", diff)
				}
			default:
				t.Errorf("%v on %v", statement["Action"], r)
			}
		}
	}
}

func TestTemplateCallsTheHook(t *testing.T) {
	tmpl := synthesized(t, byDefault)
	function, _ := tmpl.named(t, "AWS::Lambda::Function", "Hook")
	role, _ := tmpl.named(t, "AWS::IAM::Role", "ProvisioningRole")
	_, r := tmpl.named(t, "AWS::IoT::ProvisioningTemplate", "")
	got := resolved(r.Properties).(map[string]any)

	var body, document any
	if err := json.Unmarshal([]byte(got["TemplateBody"].(string)), &body); err != nil {
		t.Fatalf("template body: %v", err)
	}
	source, err := os.ReadFile(filepath.Join("..", "..", "templates", "fleet_template.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(bytes.ReplaceAll(source, []byte("${ThingPrefix}"), []byte("fleety_")), &document); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(document, body); diff != "" {
		t.Errorf("template body differs from fleet_template.json (-document +got):\n%s", diff)
	}

	want := map[string]any{
		"TemplateName":        "GoFleetProvisioningTemplate",
		"TemplateType":        "FLEET_PROVISIONING",
		"Enabled":             true,
		"ProvisioningRoleArn": "att(" + role + ".Arn)",
		"PreProvisioningHook": map[string]any{"PayloadVersion": "2020-04-01", "TargetArn": "att(" + function + ".Arn)"},
	}
	rest := cmpopts.IgnoreMapEntries(func(key string, _ any) bool { return key == "TemplateBody" || key == "Description" || key == "Tags" })
	if diff := cmp.Diff(want, got, rest); diff != "" {
		t.Errorf("provisioning template differs (-want +got):\n%s", diff)
	}
}

func TestTemplateComesAfterWhatDevicesNeed(t *testing.T) {
	tmpl := synthesized(t, byDefault)
	_, r := tmpl.named(t, "AWS::IoT::ProvisioningTemplate", "")
	for kind, prefix := range map[string]string{
		"AWS::Lambda::Permission": "Hook",
		"AWS::IoT::Policy":        "RotationPolicy",
		"AWS::IoT::ThingGroup":    "",
		"AWS::IoT::ThingType":     "",
	} {
		if id, _ := tmpl.named(t, kind, prefix); !slices.Contains(r.DependsOn, id) {
			t.Errorf("template does not wait for %s", id)
		}
	}
}

// serialTable is the logical id that the CDK makes of "Serials".
const serialTable = "SerialsEC2CC47F"

func TestHookFunction(t *testing.T) {
	tests := map[string]struct {
		synth func() (template, error)
		want  map[string]any // beyond what is always so
	}{
		"by default": {byDefault, map[string]any{
			"Architectures": []any{"arm64"},
			"Environment": map[string]any{"Variables": map[string]any{
				"SERIAL_PREFIX": "297468", "THING_PREFIX": "fleety_", "DEVICE_LOCATIONS": `["Berlin","Seattle","USA"]`, "EXISTING_THINGS": "refuse",
				"ROTATION": "allow", "SERIAL_TABLE": "ref(" + serialTable + ")", "SERIAL_REGISTRY": "once",
			}},
		}},
		"with options": {withOptions, map[string]any{
			"Architectures": []any{"x86_64"},
			"Environment": map[string]any{"Variables": map[string]any{
				"SERIAL_PREFIX": "ACME-", "THING_PREFIX": "acme-", "DEVICE_LOCATIONS": `["Berlin","Moon"]`, "EXISTING_THINGS": "allow", "ROTATION": "deny",
			}},
			"ReservedConcurrentExecutions": 10.0,
			"TracingConfig":                map[string]any{"Mode": "Active"},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			log, _ := tmpl.named(t, "AWS::Logs::LogGroup", "HookLog")
			role, _ := tmpl.named(t, "AWS::IAM::Role", "HookRole")
			_, function := tmpl.named(t, "AWS::Lambda::Function", "Hook")
			want := map[string]any{
				"Runtime":       "provided.al2023",
				"Handler":       "bootstrap",
				"Timeout":       5.0,
				"MemorySize":    128.0,
				"Role":          "att(" + role + ".Arn)",
				"LoggingConfig": map[string]any{"LogGroup": "ref(" + log + ")"},
			}
			maps.Copy(want, test.want)
			got := resolved(function.Properties)
			rest := cmpopts.IgnoreMapEntries(func(key string, _ any) bool { return key == "Code" || key == "Description" || key == "Tags" })
			if diff := cmp.Diff(want, got, rest); diff != "" {
				t.Errorf("function differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHookLogIsKeptForAYear(t *testing.T) {
	_, log := synthesized(t, byDefault).named(t, "AWS::Logs::LogGroup", "HookLog")
	if got := log.Properties["RetentionInDays"]; got != 365.0 {
		t.Errorf("log retention is %v days, want 365", got)
	}
}

// TestHookMayDoNothingElse is the whole of what the hook can do in the account.
func TestHookMayDoNothingElse(t *testing.T) {
	statement := func(resource any, actions ...any) any {
		s := map[string]any{"Effect": "Allow", "Action": any(actions), "Resource": resource}
		if len(actions) == 1 {
			s["Action"] = actions[0]
		}
		return s
	}
	for name, test := range map[string]struct {
		synth func() (template, error)
		want  []any // beyond its log
	}{
		"by default": {byDefault, []any{
			statement("arn:aws:iot:us-east-1:123456789012:thing/fleety_297468*", "iot:ListThingPrincipals"),
			statement("arn:aws:iot:us-east-1:123456789012:cert/*", "iot:DescribeCertificate"),
			statement("*", "iot:ListPrincipalThings"),
			statement("att("+serialTable+".Arn)", "dynamodb:GetItem", "dynamodb:UpdateItem"),
		}},
		"with options": {withOptions, []any{
			statement("*", "xray:PutTraceSegments", "xray:PutTelemetryRecords"),
			statement("arn:aws:iot:us-east-1:123456789012:thing/acme-ACME-*", "iot:ListThingPrincipals"),
			statement("arn:aws:iot:us-east-1:123456789012:cert/*", "iot:DescribeCertificate"),
			statement("*", "iot:ListPrincipalThings"),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			log, _ := tmpl.named(t, "AWS::Logs::LogGroup", "HookLog")
			role, hookRole := tmpl.named(t, "AWS::IAM::Role", "HookRole")
			if managed, ok := hookRole.Properties["ManagedPolicyArns"]; ok {
				t.Errorf("the hook's role has managed policies: %v", managed)
			}
			_, policy := tmpl.named(t, "AWS::IAM::Policy", "HookRole")
			got := resolved(policy.Properties).(map[string]any)
			if diff := cmp.Diff([]any{"ref(" + role + ")"}, got["Roles"]); diff != "" {
				t.Errorf("policy is for other roles (-want +got):\n%s", diff)
			}
			want := append([]any{statement("att("+log+".Arn)", "logs:CreateLogStream", "logs:PutLogEvents")}, test.want...)
			if diff := cmp.Diff(want, got["PolicyDocument"].(map[string]any)["Statement"]); diff != "" {
				t.Errorf("policy differs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRetirementMayDoNothingElse is the whole of what the function that retires certificates can
// do, and of what invokes it. To trace the hook changes nothing here.
func TestRetirementMayDoNothingElse(t *testing.T) {
	tmpl, err := synth(map[string]any{"certificateArn": arnA, "xray": "true"})
	if err != nil {
		t.Fatal(err)
	}
	const arn = "arn:aws:iot:us-east-1:123456789012:"
	log, _ := tmpl.named(t, "AWS::Logs::LogGroup", "RetireLog")
	_, policy := tmpl.named(t, "AWS::IAM::Policy", "RetireRole")
	statement := func(resource any, actions ...any) any {
		s := map[string]any{"Effect": "Allow", "Action": any(actions), "Resource": resource}
		if len(actions) == 1 {
			s["Action"] = actions[0]
		}
		return s
	}
	want := []any{
		statement("att("+log+".Arn)", "logs:CreateLogStream", "logs:PutLogEvents"),
		statement(arn+"thing/fleety_297468*", "iot:ListThingPrincipals"),
		statement(arn+"cert/*", "iot:DescribeCertificate", "iot:UpdateCertificate", "iot:DeleteCertificate"),
		statement("*", "iot:ListPrincipalThings", "iot:DetachThingPrincipal"),
	}
	if diff := cmp.Diff(want, resolved(policy.Properties["PolicyDocument"]).(map[string]any)["Statement"]); diff != "" {
		t.Errorf("policy differs (-want +got):\n%s", diff)
	}
	id, function := tmpl.named(t, "AWS::Lambda::Function", "Retire")
	environment := map[string]any{"Variables": map[string]any{"RETIRE_AFTER": "720h", "CLAIM_CERTIFICATES": idA}}
	if diff := cmp.Diff(environment, resolved(function.Properties["Environment"])); diff != "" {
		t.Errorf("environment differs (-want +got):\n%s", diff)
	}
	rule, r := tmpl.named(t, "AWS::IoT::TopicRule", "")
	payload := resolved(r.Properties["TopicRulePayload"]).(map[string]any)
	if want := "SELECT principal() AS certificateId, topic(2) AS thingName FROM 'fleet/+' WHERE startswith(topic(2), 'fleety_297468') AND isUndefined(replaces) = false"; payload["Sql"] != want {
		t.Errorf("the rule is %v, want %s", payload["Sql"], want)
	}
	if diff := cmp.Diff([]any{map[string]any{"Lambda": map[string]any{"FunctionArn": "att(" + id + ".Arn)"}}}, payload["Actions"]); diff != "" {
		t.Errorf("actions differ (-want +got):\n%s", diff)
	}
	_, permission := tmpl.named(t, "AWS::Lambda::Permission", "Retire")
	if got := resolved(permission.Properties["SourceArn"]); got != "att("+rule+".Arn)" {
		t.Errorf("the function may be invoked by %v", got)
	}
	for _, kind := range []string{"AWS::IoT::TopicRule"} {
		if found := synthesized(t, withOptions).ofType(kind); len(found) != 0 {
			t.Errorf("without rotation there is a %s", kind)
		}
	}
}

func TestGroupAndTypeHaveTheNamesInTheTemplate(t *testing.T) {
	for name, synth := range map[string]func() (template, error){"by default": byDefault, "another name": withOptions} {
		t.Run(name, func(t *testing.T) { checkNames(t, synthesized(t, synth)) })
	}
}

func checkNames(t *testing.T, tmpl template) {
	_, group := tmpl.named(t, "AWS::IoT::ThingGroup", "")
	_, kind := tmpl.named(t, "AWS::IoT::ThingType", "")
	_, r := tmpl.named(t, "AWS::IoT::ProvisioningTemplate", "")
	var body struct {
		Resources struct {
			Thing struct {
				Properties struct {
					ThingTypeName string
					ThingGroups   []string
				}
			} `json:"thing"`
			Policy struct{ Properties struct{ PolicyName string } } `json:"policy"`
		}
	}
	if err := json.Unmarshal([]byte(resolved(r.Properties["TemplateBody"]).(string)), &body); err != nil {
		t.Fatal(err)
	}
	_, policy := tmpl.named(t, "AWS::IoT::Policy", "DevicePolicy")
	thing := body.Resources.Thing.Properties
	want := []any{thing.ThingTypeName, thing.ThingGroups[0], body.Resources.Policy.Properties.PolicyName}
	got := []any{kind.Properties["ThingTypeName"], group.Properties["ThingGroupName"], policy.Properties["PolicyName"]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the template names and what is deployed differ (-template +stack):\n%s", diff)
	}
}

// fixedNames are the names that AWS accepts once in an account and Region.
func fixedNames(t *testing.T, tmpl template) map[string]any {
	t.Helper()
	names := map[string]any{}
	for id, r := range tmpl.Resources {
		for property, value := range r.Properties {
			if strings.HasSuffix(property, "Name") && strings.HasPrefix(r.Type, "AWS::IoT::") && r.Type != "AWS::IoT::PolicyPrincipalAttachment" {
				names[r.Type+"/"+id] = value
			}
		}
	}
	if len(names) < 5 {
		t.Errorf("names of the template, two or three policies, a group and a type expected: %v", names)
	}
	return names
}

func TestTwoStacksShareNoName(t *testing.T) {
	first, second := fixedNames(t, synthesized(t, byDefault)), fixedNames(t, synthesized(t, withOptions))
	for id, name := range first {
		if second[id] == name {
			t.Errorf("%s is named %v in both", id, name)
		}
	}
}

func TestOtherResourcesAreNamedByCloudFormation(t *testing.T) {
	for id, r := range synthesized(t, withOptions).Resources {
		for _, property := range []string{"FunctionName", "RoleName", "LogGroupName", "TableName", "TopicName", "AlarmName", "DashboardName"} {
			if name, ok := r.Properties[property].(string); ok {
				t.Errorf("%s has the fixed %s %s: a second stack could not have it", id, property, name)
			}
		}
	}
}

// cannotBeTagged are the types that take no tags.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-template-resource-type-ref.html
var cannotBeTagged = []string{
	"AWS::IAM::Policy", "AWS::IoT::PolicyPrincipalAttachment", "AWS::Lambda::Permission", "AWS::SNS::Subscription",
	"AWS::Logs::MetricFilter", "AWS::Logs::QueryDefinition", "AWS::CloudWatch::Dashboard",
}

func TestEveryResourceIsTagged(t *testing.T) {
	tmpl := synthesized(t, withOptions)
	for id, r := range tmpl.Resources {
		want := []any{map[string]any{"Key": "fleety:stack", "Value": "Second"}}
		if slices.Contains(cannotBeTagged, r.Type) {
			want = nil
		}
		got, _ := r.Properties["Tags"].([]any)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("tags of %s (%s) differ (-want +got):\n%s", id, r.Type, diff)
		}
	}
}

func TestSerialNumbersOutliveTheStackAndMistakes(t *testing.T) {
	_, table := synthesized(t, byDefault).named(t, "AWS::DynamoDB::Table", "")
	if table.DeletionPolicy != "Retain" { // a roll-back that deletes it would fail: it is protected
		t.Errorf("deletion policy %q", table.DeletionPolicy)
	}
	want := map[string]any{
		"AttributeDefinitions":             []any{map[string]any{"AttributeName": "serialNumber", "AttributeType": "S"}},
		"KeySchema":                        []any{map[string]any{"AttributeName": "serialNumber", "KeyType": "HASH"}},
		"BillingMode":                      "PAY_PER_REQUEST",
		"DeletionProtectionEnabled":        true,
		"PointInTimeRecoverySpecification": map[string]any{"PointInTimeRecoveryEnabled": true},
	}
	rest := cmpopts.IgnoreMapEntries(func(key string, _ any) bool { return key == "Tags" })
	if diff := cmp.Diff(want, table.Properties, rest); diff != "" {
		t.Errorf("table differs (-want +got):\n%s", diff)
	}
}

func TestNothingOptionalIsDeployedByDefault(t *testing.T) {
	for kind, tmpl := range map[string]template{
		"AWS::SNS::Topic": synthesized(t, byDefault), "AWS::SNS::Subscription": synthesized(t, byDefault), "AWS::DynamoDB::Table": synthesized(t, withOptions),
	} {
		if found := tmpl.ofType(kind); len(found) != 0 {
			t.Errorf("there is a %s", kind)
		}
	}
}

func TestAlarms(t *testing.T) {
	for name, test := range map[string]struct {
		synth    func() (template, error)
		notifies bool
	}{"nobody": {byDefault, false}, "an address": {withOptions, true}} {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			function, _ := tmpl.named(t, "AWS::Lambda::Function", "Hook")
			_, errors := tmpl.named(t, "AWS::CloudWatch::Alarm", "HookErrors")
			_, failures := tmpl.named(t, "AWS::CloudWatch::Alarm", "RegisterThingFailures")
			want := map[string]any{
				"Namespace": "AWS/Lambda", "MetricName": "Errors", "Statistic": "Sum", "Period": 300.0, "Threshold": 1.0,
				"Dimensions":         []any{map[string]any{"Name": "FunctionName", "Value": "ref(" + function + ")"}},
				"ComparisonOperator": "GreaterThanOrEqualToThreshold", "EvaluationPeriods": 1.0, "TreatMissingData": "notBreaching",
			}
			rest := cmpopts.IgnoreMapEntries(func(key string, _ any) bool {
				return key == "Tags" || key == "AlarmDescription" || strings.HasSuffix(key, "Actions")
			})
			if diff := cmp.Diff(want, resolved(errors.Properties), rest); diff != "" {
				t.Errorf("alarm on errors differs (-want +got):\n%s", diff)
			}
			if !test.notifies { // the other has no rotation
				_, dropped := tmpl.named(t, "AWS::CloudWatch::Alarm", "RetireFailures")
				retire, _ := tmpl.named(t, "AWS::Lambda::Function", "Retire")
				want["MetricName"], want["Dimensions"] = "AsyncEventsDropped", []any{map[string]any{"Name": "FunctionName", "Value": "ref(" + retire + ")"}}
				if diff := cmp.Diff(want, resolved(dropped.Properties), rest); diff != "" {
					t.Errorf("alarm on retirements differs (-want +got):\n%s", diff)
				}
			}
			query := failures.Properties["Metrics"].([]any)[0].(map[string]any)
			if query["Expression"] != `SELECT SUM("RegisterThingFailed") FROM "AWS/IoT"` || query["Period"] != 300.0 || failures.Properties["Threshold"] != 10.0 {
				t.Errorf("alarm on failures: %v, threshold %v", query, failures.Properties["Threshold"])
			}
			for _, alarm := range []resource{errors, failures} {
				for _, property := range []string{"AlarmActions", "OKActions"} {
					if _, notifies := alarm.Properties[property]; notifies != test.notifies {
						t.Errorf("%s: %v, want some: %t", property, alarm.Properties[property], test.notifies)
					}
				}
			}
		})
	}
}

// TestAlarmsCountDecisionsOfTheHook compares the patterns of the metric filters with what the hook
// logs.
func TestAlarmsCountDecisionsOfTheHook(t *testing.T) {
	for name, test := range map[string]struct {
		synth     func() (template, error)
		expected  float64
		namespace string
	}{"by default": {byDefault, 50, "Fleety/GoFleetProvisioning"}, "with options": {withOptions, 7, "Fleety/Second"}} {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			log, _ := tmpl.named(t, "AWS::Logs::LogGroup", "HookLog")
			for id, want := range map[string]struct {
				filter, pattern string
				threshold       float64
			}{
				"TooManyAdmissions":    {"Admissions", `{ ($.verdict = "admitted") && ($.reason != "` + string(admit.Rotated) + `") }`, test.expected + 1},
				"AttemptsAtLiveThings": {"AttemptsAtLiveNames", "", 5},
			} {
				_, filter := tmpl.named(t, "AWS::Logs::MetricFilter", want.filter)
				metric := map[string]any{"MetricName": want.filter, "MetricNamespace": test.namespace, "MetricValue": "1", "DefaultValue": 0.0}
				if diff := cmp.Diff([]any{metric}, filter.Properties["MetricTransformations"]); diff != "" {
					t.Errorf("%s differs (-want +got):\n%s", want.filter, diff)
				}
				if got := resolved(filter.Properties["LogGroupName"]); got != "ref("+log+")" {
					t.Errorf("%s is of log group %v", want.filter, got)
				}
				if want.pattern == "" {
					for _, reason := range []admit.Reason{admit.ThingTaken, admit.ThingRevoked, admit.SerialUsed, admit.SerialRevoked, admit.OtherThing} {
						want.pattern += ` || ($.reason = "` + string(reason) + `")`
					}
					want.pattern = "{ " + strings.TrimPrefix(want.pattern, " || ") + " }"
				}
				if got := filter.Properties["FilterPattern"]; got != want.pattern {
					t.Errorf("pattern %v, want %s", got, want.pattern)
				}
				_, alarm := tmpl.named(t, "AWS::CloudWatch::Alarm", id)
				p := alarm.Properties
				if p["MetricName"] != want.filter || p["Namespace"] != test.namespace || p["Threshold"] != want.threshold || p["Period"] != 300.0 || p["Statistic"] != "Sum" {
					t.Errorf("%s watches %v", id, p)
				}
			}
		})
	}
}

func TestQueriesReadTheLogOfTheHook(t *testing.T) {
	tmpl := synthesized(t, byDefault)
	log, _ := tmpl.named(t, "AWS::Logs::LogGroup", "HookLog")
	for _, id := range []string{"DecisionsByReason", "DeniedDevices", "DecisionsByClaim"} {
		_, query := tmpl.named(t, "AWS::Logs::QueryDefinition", id)
		if diff := cmp.Diff([]any{"ref(" + log + ")"}, resolved(query.Properties["LogGroupNames"])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", id, diff)
		}
		if text, _ := query.Properties["QueryString"].(string); text == "" {
			t.Errorf("%s has no query", id)
		}
	}
}

func TestAlarmsGoToTheAddress(t *testing.T) {
	tmpl := synthesized(t, withOptions)
	topic, _ := tmpl.named(t, "AWS::SNS::Topic", "")
	_, subscription := tmpl.named(t, "AWS::SNS::Subscription", "")
	want := map[string]any{"Protocol": "email", "Endpoint": "ops@example.com", "TopicArn": "ref(" + topic + ")"}
	if diff := cmp.Diff(want, resolved(subscription.Properties)); diff != "" {
		t.Errorf("subscription differs (-want +got):\n%s", diff)
	}
	_, alarm := tmpl.named(t, "AWS::CloudWatch::Alarm", "HookErrors")
	if diff := cmp.Diff([]any{"ref(" + topic + ")"}, resolved(alarm.Properties["AlarmActions"])); diff != "" {
		t.Errorf("actions differ (-want +got):\n%s", diff)
	}
}

func TestOutputs(t *testing.T) {
	tmpl := synthesized(t, byDefault)
	hook, _ := tmpl.named(t, "AWS::Lambda::Function", "Hook")
	retire, _ := tmpl.named(t, "AWS::Lambda::Function", "Retire")
	log, _ := tmpl.named(t, "AWS::Logs::LogGroup", "HookLog")
	got := map[string]any{}
	for name, output := range tmpl.Outputs {
		got[name] = resolved(output.Value)
	}
	want := map[string]any{
		"ProvisioningTemplateName": "ref(Template)",
		"ClaimPolicyName":          "ref(ClaimPolicy)",
		"DevicePolicyName":         "ref(DevicePolicy)",
		"HookFunctionName":         "ref(" + hook + ")",
		"ThingGroupName":           "ref(ThingGroup)",
		"ThingNamePrefix":          "fleety_",
		"SerialTableName":          "ref(" + serialTable + ")",
		"HookLogName":              "ref(" + log + ")",
		"RetireFunctionName":       "ref(" + retire + ")",
		"EndpointCommand":          "aws iot describe-endpoint --endpoint-type iot:Data-ATS --query endpointAddress --output text --region us-east-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outputs differ (-want +got):\n%s", diff)
	}
}

// Further statements are a policy that every device gets, and that outlives the stack like the
// device policy.
func TestDeviceStatementsAreAPolicyOfEachDevice(t *testing.T) {
	tmpl := synthesized(t, withOptions)
	id, policy := tmpl.named(t, "AWS::IoT::Policy", "ExtraPolicy")
	want := map[string]any{"Version": "2012-10-17", "Statement": []any{map[string]any{
		"Sid": "PublishAlarms", "Effect": "Allow", "Action": "iot:Publish",
		"Resource": "arn:aws:iot:us-east-1:123456789012:topic/acme/alarms/${iot:Connection.Thing.ThingName}",
	}}}
	if diff := cmp.Diff(want, resolved(policy.Properties["PolicyDocument"])); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	_, r := tmpl.named(t, "AWS::IoT::ProvisioningTemplate", "")
	if !slices.Contains(r.DependsOn, id) {
		t.Errorf("the template does not wait for %s", id)
	}
	var body struct {
		Resources map[string]struct{ Properties map[string]any }
	}
	if err := json.Unmarshal([]byte(r.Properties["TemplateBody"].(string)), &body); err != nil {
		t.Fatal(err)
	}
	var policies []any
	for _, id := range slices.Sorted(maps.Keys(body.Resources)) {
		if name := body.Resources[id].Properties["PolicyName"]; name != nil {
			policies = append(policies, name)
		}
	}
	if diff := cmp.Diff([]any{"SecondExtraPolicy", "SecondDevicePolicy"}, policies); diff != "" {
		t.Errorf("policies of a device (-want +got):\n%s", diff)
	}
	if got := body.Resources["thing"].Properties["ThingTypeName"]; got != "acme-sensor" {
		t.Errorf("type %v", got)
	}
}
