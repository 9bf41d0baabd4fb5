package assembly

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// us is where the golden stack is synthesized for.
var us = Environment{Partition: "aws", Account: "123456789012", Region: "us-east-1"}

const shared = "../../../templates"

func goldenFile() ([]byte, error) {
	return os.ReadFile("../../../infra/stack/testdata/template.golden.json")
}

// An app is an assembly with one stack, as the CDK writes it.
func app(template []byte) fstest.MapFS {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	return fstest.MapFS{
		"manifest.json": file(`{"version": "54.0.0", "artifacts": {
			"Fleet.assets": {"type": "cdk:asset-manifest", "properties": {"file": "Fleet.assets.json"}},
			"Fleet": {"type": "aws:cloudformation:stack", "environment": "aws://123456789012/us-east-1",
				"properties": {"templateFile": "Fleet.template.json"}, "dependencies": ["Fleet.assets"]},
			"Tree": {"type": "cdk:tree", "properties": {"file": "tree.json"}}}}`),
		"Fleet.template.json": {Data: template},
		"Fleet.assets.json": file(`{"files": {
			"HOOK": {"source": {"path": "asset.HOOK", "packaging": "zip"}, "destinations": {"d": {"objectKey": "HOOK.zip"}}},
			"RETIRE": {"source": {"path": "asset.RETIRE", "packaging": "zip"}, "destinations": {"d": {"objectKey": "RETIRE.zip"}}},
			"out": {"source": {"path": "../elsewhere", "packaging": "zip"}, "destinations": {"d": {"objectKey": "OUT.zip"}}},
			"file": {"source": {"path": "f.zip", "packaging": "file"}, "destinations": {"d": {"objectKey": "FILE.zip"}}}}}`),
	}
}

// resolveGolden resolves the template that the CDK app of this repository gives, after edit.
func resolveGolden(t *testing.T, edit ...string) (*Resources, error) {
	t.Helper()
	template, err := goldenFile()
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(edit); i += 2 {
		if !strings.Contains(string(template), edit[i]) {
			t.Fatalf("the golden template holds no %s", edit[i])
		}
	}
	text := strings.NewReplacer(edit...).Replace(string(template))
	s, err := open(app([]byte(text)), "out", "")
	if err != nil {
		t.Fatal(err)
	}
	return s.Resolve(us)
}

// What a rehearsal gets from the stack must be what the emulator gets from the shared templates:
// else one of the two is not what is deployed.
func TestGoldenStackResolvesToTheSharedTemplates(t *testing.T) {
	t.Parallel()
	all, err := resolveGolden(t)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	for _, p := range all.Policies {
		got[p.Name] = parse(t, p.Document)
	}
	for _, p := range all.Templates {
		got[p.Name] = parse(t, []byte(p.Body))
	}
	want := map[string]any{
		"GoIoTFleetProvisioningPolicy": sharedTemplate(t, "claim_policy.json"),
		"GoIoTDevicePolicy":            sharedTemplate(t, "device_policy.json"),
		"GoIoTRotationPolicy":          sharedTemplate(t, "rotation_policy.json"),
		"GoFleetProvisioningTemplate":  sharedTemplate(t, "fleet_template.json"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("shared templates (-), assembly (+):\n%s", diff)
	}
}

func sharedTemplate(t *testing.T, name string) any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(shared, name))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, []byte(strings.NewReplacer(
		"${AWS::Partition}", us.Partition, "${AWS::Region}", us.Region, "${AWS::AccountId}", us.Account,
		"${TemplateName}", "GoFleetProvisioningTemplate", "${ThingPrefix}", "fleety_").Replace(string(data))))
}

func parse(t *testing.T, data []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestGoldenStackHasWhatADeviceNeeds(t *testing.T) {
	t.Parallel()
	all, err := resolveGolden(t)
	if err != nil {
		t.Fatal(err)
	}
	if got := []string{all.ThingGroups[0].Name, all.ThingTypes[0].Name}; !cmp.Equal(got, []string{"fleet-provisioning-group", "fleety"}) {
		t.Errorf("group and type are %q", got)
	}
	for _, a := range all.Attachments {
		if a.PolicyName != "GoIoTFleetProvisioningPolicy" || !strings.HasPrefix(a.Principal, "arn:aws:iot:us-east-1:123456789012:cert/") {
			t.Errorf("attached: %+v", a)
		}
	}
	template := all.Templates[0]
	if !template.Enabled || template.Type != "FLEET_PROVISIONING" || !strings.HasPrefix(template.RoleARN, "arn:aws:iam::123456789012:role/Fleet-ProvisioningRole") {
		t.Errorf("the template is %+v", template)
	}
	hook := template.Hook
	if hook.PayloadVersion != "2020-04-01" || hook.TargetARN != hook.Function.ARN || !strings.HasPrefix(hook.TargetARN, "arn:aws:lambda:us-east-1:123456789012:function:Fleet-Hook") {
		t.Errorf("the hook is %+v", hook)
	}
	f := hook.Function
	if f.Path != filepath.Join("out", "asset.HOOK", "bootstrap") || f.Architecture != "arm64" || f.Timeout != 5*time.Second {
		t.Errorf("the function is %+v", f)
	}
	if !strings.Contains(strings.Join(f.Environment, " "), "SERIAL_PREFIX=297468") {
		t.Errorf("the function's environment is %q", f.Environment)
	}
}

func TestStackWhoseHookAWSCannotCallIsRejected(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ from, to, want string }{
		"no permission":       {`"AWS::Lambda::Permission"`, `"AWS::Other"`, "no AWS::Lambda::Permission allows iot.amazonaws.com to call it"},
		"another principal":   {`"Principal": "iot.amazonaws.com"`, `"Principal": "s3.amazonaws.com"`, "its principal is s3.amazonaws.com"},
		"another template":    {`:provisioningtemplate/GoFleetProvisioningTemplate"`, `:provisioningtemplate/Other"`, "its source is arn:aws:iot:us-east-1:123456789012:provisioningtemplate/Other"},
		"another action":      {`"lambda:InvokeFunction"`, `"lambda:GetFunction"`, "its action is lambda:GetFunction"},
		"function elsewhere":  {`"TargetArn": {`, `"TargetArn": "arn:x", "PayloadVersion": {`, "arn:x is no function of this stack"},
		"not an executable":   {`provided.al2023`, `nodejs22.x`, `the runtime is "nodejs22.x"`},
		"code not in assets":  {`HOOK.zip`, `LOST.zip`, "LOST.zip is not among the assets"},
		"code out of folder":  {`HOOK.zip`, `OUT.zip`, "../elsewhere is not a folder of the assembly"},
		"code is a file":      {`HOOK.zip`, `FILE.zip`, "f.zip is not a folder of the assembly"},
		"unknown property":    {`"ThingTypeName": "fleety"`, `"ThingTypeName": "fleety", "Colour": "red"`, "ThingType.Properties.Colour: unsupported property: CloudFormation does not know it, or it is not emulated"},
		"unknown reference":   {`"Ref": "ClaimPolicy"`, `"Ref": "Nothing"`, `the stack has no resource or parameter "Nothing"`},
		"under a condition":   {`"Type": "AWS::IoT::ThingType"`, `"Condition": "Sometimes", "Type": "AWS::IoT::ThingType"`, "whether condition Sometimes holds cannot be resolved without AWS"},
		"a macro":             {`"Parameters": {`, `"Transform": ["AWS::Serverless-2016-10-31"], "Parameters": {`, "Transform: what [AWS::Serverless-2016-10-31] makes of the template is not known without AWS"},
		"another pattern":     {`:provisioningtemplate/GoFleetProvisioningTemplate"`, `:provisioning?template/*"`, "its source is arn:aws:iot:us-east-1:123456789012:provisioning?template/*"},
		"value in an account": {`"ThingTypeName": "fleety"`, `"ThingTypeName": {"Ref": "BootstrapVersion"}`, "the value of parameter BootstrapVersion is stored in an AWS account"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := resolveGolden(t, test.from, test.to)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), filepath.Join("out", "Fleet.template.json")+": ") {
				t.Errorf("error %v, want one of the template with %q", err, test.want)
			}
		})
	}
}

// CloudFormation takes each property letter for letter, however deep it is, and has none besides.
func TestPropertiesInAnotherLetterCaseAreRejected(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ from, to, want string }{
		"of a policy":             {`"PolicyName": "GoIoTDevicePolicy"`, `"policyName": "GoIoTDevicePolicy"`, ".Properties.policyName: unsupported property; it is spelled PolicyName"},
		"of a template":           {`"Enabled": true`, `"enabled": true`, ".Properties.enabled: unsupported property; it is spelled Enabled"},
		"of a hook":               {`"PayloadVersion"`, `"payloadVersion"`, ".Properties.PreProvisioningHook.payloadVersion: unsupported property; it is spelled PayloadVersion"},
		"of a function":           {`"Timeout": 5`, `"timeout": 5`, ".Properties.timeout: unsupported property; it is spelled Timeout"},
		"of its environment":      {`"Variables"`, `"variables"`, ".Properties.Environment.variables: unsupported property; it is spelled Variables"},
		"of a permission":         {`"SourceAccount"`, `"sourceAccount"`, ".Properties.sourceAccount: unsupported property; it is spelled SourceAccount"},
		"of a rule":               {`"Sql"`, `"sql"`, ".Properties.TopicRulePayload.sql: unsupported property; it is spelled Sql"},
		"unknown one of a rule":   {`"AwsIotSqlVersion"`, `"Version"`, ".Properties.TopicRulePayload.Version: unsupported property: CloudFormation does not know it"},
		"of a rule's action":      {`"Lambda": {`, `"lambda": {`, ".Properties.TopicRulePayload.Actions[0].lambda: unsupported property; it is spelled Lambda"},
		"of an action's function": {`"FunctionArn"`, `"functionArn"`, ".Properties.TopicRulePayload.Actions[0].Lambda.functionArn: unsupported property; it is spelled FunctionArn"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := resolveGolden(t, test.from, test.to)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	if _, err := resolveGolden(t, `"Lambda": {`, `"Sqs": {`); err != nil {
		t.Errorf("an action that is not emulated: %v", err)
	}
}

// AWS page: https://docs.aws.amazon.com/lambda/latest/api/API_AddPermission.html
func TestPermissionsMayHaveWildcards(t *testing.T) {
	t.Parallel()
	for from, to := range map[string]string{
		`:provisioningtemplate/GoFleetProvisioningTemplate"`: `:*/GoFleet?rovisioning*"`,
		`"lambda:InvokeFunction"`:                            `"lambda:*"`,
	} {
		if _, err := resolveGolden(t, from, to); err != nil {
			t.Errorf("with %s: %v", to, err)
		}
	}
}

func TestOpenReportsWhatIsWrong(t *testing.T) {
	t.Parallel()
	stack := func(id string) string {
		return `"` + id + `": {"type": "aws:cloudformation:stack", "properties": {"templateFile": "` + id + `.json"}}`
	}
	named := func(id string) string {
		return `"` + id + `": {"type": "aws:cloudformation:stack", "properties": {"stackName": "Fleet", "templateFile": "` + id + `.json"}}`
	}
	manifest := func(stacks ...string) fstest.MapFS {
		return fstest.MapFS{"manifest.json": {Data: []byte(`{"artifacts": {` + strings.Join(stacks, ",") + `}}`)}}
	}
	tests := map[string]struct {
		files fstest.MapFS
		name  string
		want  string
	}{
		"no manifest":      {fstest.MapFS{}, "", "out/manifest.json: file does not exist"},
		"damaged manifest": {fstest.MapFS{"manifest.json": {Data: []byte("{")}}, "", "out/manifest.json: unexpected EOF"},
		"no regular file":  {fstest.MapFS{"manifest.json": {Mode: fs.ModeNamedPipe}}, "", "out/manifest.json is not a regular file"},
		"no stack":         {manifest(), "", "out/manifest.json: the assembly holds no stack"},
		"several stacks":   {manifest(stack("B"), stack("A")), "", "holds several stacks, name one of them: A, B"},
		"one name twice":   {manifest(named("West"), named("East")), "Fleet", "holds several stacks, name one of them: Fleet (East), Fleet (West)"},
		"one by its id":    {manifest(named("West"), named("East")), "West", "out/West.json: file does not exist"},
		"another stack":    {manifest(stack("A")), "C", "holds no stack C; it holds A"},
		"no template":      {manifest(stack("A")), "A", "out/A.json: file does not exist"},
		"template outside": {manifest(stack("../A")), "", "A.json: file does not exist"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := open(test.files, "out", test.name)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestMissingFolderIsNotExist(t *testing.T) {
	t.Parallel()
	_, err := Open(filepath.Join(t.TempDir(), "cdk.out"), "")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "cdk synth writes it") {
		t.Errorf("error %v does not say how to get an assembly", err)
	}
}
