package stack_test

import (
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
)

var update = flag.Bool("update", false, "write the golden template anew")

// assetKey is the name of an uploaded file, which changes with its bytes.
var assetKey = regexp.MustCompile(`"[0-9a-f]{64}\.zip"`)

func TestTemplateIsTheGoldenOne(t *testing.T) {
	golden := filepath.Join("testdata", "template.golden.json")
	got := assetKey.ReplaceAll(synthesized(t, byDefault).Text, []byte(`"HOOK.zip"`))
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
				statement("ConnectAsClaim", "iot:Connect", arn+"client/claim-*"),
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
	for _, r := range []resource{policy, kind} {
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
	_, permission := tmpl.named(t, "AWS::Lambda::Permission", "") // the only one
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
		"minimal": {withOptions, []any{"arn:aws:iam::aws:policy/service-role/AWSIoTThingsRegistration"}},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			id, role := tmpl.named(t, "AWS::IAM::Role", "ProvisioningRole")
			if diff := cmp.Diff(test.want, resolved(role.Properties["ManagedPolicyArns"])); diff != "" {
				t.Errorf("managed policies differ (-want +got):\n%s", diff)
			}
			for policy, r := range tmpl.ofType("AWS::IAM::Policy") {
				if slices.Contains(resolved(r.Properties["Roles"]).([]any), any("ref("+id+")")) {
					t.Errorf("%s gives the provisioning role further rights", policy)
				}
			}
		})
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
	if err := json.Unmarshal(source, &document); err != nil {
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
		"AWS::Lambda::Permission": "",
		"AWS::IoT::Policy":        "DevicePolicy",
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
			"Environment":   map[string]any{"Variables": map[string]any{"SERIAL_PREFIX": "297468", "EXISTING_THINGS": "refuse"}},
		}},
		"with options": {withOptions, map[string]any{
			"Architectures":                []any{"x86_64"},
			"Environment":                  map[string]any{"Variables": map[string]any{"SERIAL_PREFIX": "ACME-", "EXISTING_THINGS": "allow", "SERIAL_TABLE": "ref(" + serialTable + ")"}},
			"ReservedConcurrentExecutions": 10.0,
			"TracingConfig":                map[string]any{"Mode": "Active"},
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			log, _ := tmpl.named(t, "AWS::Logs::LogGroup", "")
			role, _ := tmpl.named(t, "AWS::IAM::Role", "HookRole")
			_, function := tmpl.named(t, "AWS::Lambda::Function", "")
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

func TestHookLogIsKeptForAMonth(t *testing.T) {
	_, log := synthesized(t, byDefault).named(t, "AWS::Logs::LogGroup", "")
	if got := log.Properties["RetentionInDays"]; got != 30.0 {
		t.Errorf("log retention is %v days, want 30", got)
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
		}},
		"with options": {withOptions, []any{
			statement("att("+serialTable+".Arn)", "dynamodb:UpdateItem"),
			statement("*", "xray:PutTraceSegments", "xray:PutTelemetryRecords"),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			log, _ := tmpl.named(t, "AWS::Logs::LogGroup", "")
			role, hookRole := tmpl.named(t, "AWS::IAM::Role", "HookRole")
			if managed, ok := hookRole.Properties["ManagedPolicyArns"]; ok {
				t.Errorf("the hook's role has managed policies: %v", managed)
			}
			_, policy := tmpl.named(t, "AWS::IAM::Policy", "") // the only one
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
	if len(names) != 5 {
		t.Errorf("names of the template, two policies, a group and a type expected: %v", names)
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
		for _, property := range []string{"FunctionName", "RoleName", "LogGroupName", "TableName", "TopicName", "AlarmName"} {
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

func TestListOfSerialNumbersOutlivesTheStack(t *testing.T) {
	_, table := synthesized(t, withOptions).named(t, "AWS::DynamoDB::Table", "")
	if table.DeletionPolicy != "RetainExceptOnCreate" {
		t.Errorf("deletion policy %q", table.DeletionPolicy)
	}
	want := map[string]any{
		"AttributeDefinitions": []any{map[string]any{"AttributeName": "serialNumber", "AttributeType": "S"}},
		"KeySchema":            []any{map[string]any{"AttributeName": "serialNumber", "KeyType": "HASH"}},
		"BillingMode":          "PAY_PER_REQUEST",
	}
	rest := cmpopts.IgnoreMapEntries(func(key string, _ any) bool { return key == "Tags" })
	if diff := cmp.Diff(want, table.Properties, rest); diff != "" {
		t.Errorf("table differs (-want +got):\n%s", diff)
	}
}

func TestNothingOptionalIsDeployedUnasked(t *testing.T) {
	tmpl := synthesized(t, byDefault)
	for _, kind := range []string{"AWS::DynamoDB::Table", "AWS::SNS::Topic", "AWS::SNS::Subscription"} {
		if found := tmpl.ofType(kind); len(found) != 0 {
			t.Errorf("there is a %s", kind)
		}
	}
}

func TestAlarms(t *testing.T) {
	for name, test := range map[string]struct {
		synth func() (template, error)
		tells bool
	}{"nobody": {byDefault, false}, "an address": {withOptions, true}} {
		t.Run(name, func(t *testing.T) {
			tmpl := synthesized(t, test.synth)
			function, _ := tmpl.named(t, "AWS::Lambda::Function", "")
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
			query := failures.Properties["Metrics"].([]any)[0].(map[string]any)
			if query["Expression"] != `SELECT SUM(RegisterThingFailed) FROM "AWS/IoT"` || query["Period"] != 300.0 || failures.Properties["Threshold"] != 10.0 {
				t.Errorf("alarm on failures: %v, threshold %v", query, failures.Properties["Threshold"])
			}
			for _, alarm := range []resource{errors, failures} {
				for _, property := range []string{"AlarmActions", "OKActions"} {
					if _, tells := alarm.Properties[property]; tells != test.tells {
						t.Errorf("%s: %v, want some: %t", property, alarm.Properties[property], test.tells)
					}
				}
			}
		})
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
	hook, _ := tmpl.named(t, "AWS::Lambda::Function", "")
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
		"EndpointCommand":          "aws iot describe-endpoint --endpoint-type iot:Data-ATS --query endpointAddress --output text --region us-east-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outputs differ (-want +got):\n%s", diff)
	}
}
