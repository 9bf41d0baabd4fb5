package stack_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/fleety/infra/stack"
)

func TestReadDocumentsRejects(t *testing.T) {
	good := map[string]string{"fleet_template.json": "{}", "claim_policy.json": "{}", "device_policy.json": "{}", "rotation_policy.json": "{}"}
	tests := map[string]struct {
		name, content string // one file instead of the good one; no content: no file
		want          string
	}{
		"missing":     {"claim_policy.json", "", "claim_policy.json"},
		"not JSON":    {"device_policy.json", "{", "device_policy.json"},
		"not object":  {"fleet_template.json", "[]", "fleet_template.json"},
		"two objects": {"fleet_template.json", "{} {}", "fleet_template.json"},
		"no rotation": {"rotation_policy.json", "", "rotation_policy.json"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(good)
			files[test.name] = test.content
			dir := t.TempDir()
			for name, content := range files {
				if content == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := stack.ReadDocuments(dir, stack.Options{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestReadDocumentsTakesWhiteSpaceOut(t *testing.T) {
	d, err := stack.ReadDocuments(filepath.Join("..", "..", "templates"), stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range []string{d.FleetTemplate, d.ClaimPolicy, d.DevicePolicy, d.RotationPolicy} {
		if !strings.HasPrefix(document, "{") || strings.Contains(document, "\n") {
			t.Errorf("document is not compact JSON:\n%s", document)
		}
	}
}

// The limits hold for what is deployed: the names and the Region count.
func TestCheckFindsDocumentsThatAreTooLong(t *testing.T) {
	documents, err := stack.ReadDocuments(filepath.Join("..", "..", "templates"), stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	check := func(context map[string]any, d stack.Documents) error {
		options, err := stack.ParseOptions(context)
		if err != nil {
			t.Fatal(err)
		}
		return (&stack.Props{Options: options, Documents: d}).Check()
	}
	longest := map[string]any{
		"certificateArn": strings.Replace(strings.Replace(arnA, ":aws:", ":aws-us-gov:", 1), "us-east-1", "us-gov-west-1", 1),
		"name":           strings.Repeat("n", 28), "claimSourceIp": "203.0.113.0/24",
	}
	if err := check(longest, documents); err != nil {
		t.Error(err)
	}
	tooLong := documents
	tooLong.FleetTemplate = `{"a":"` + strings.Repeat("a", 10240) + `"}`
	if err := check(map[string]any{"certificateArn": arnA}, tooLong); err == nil || !strings.Contains(err.Error(), "fleet_template.json") {
		t.Errorf("a template of 10,248 characters: %v", err)
	}
	tooLong.FleetTemplate = strings.Replace(documents.FleetTemplate, "Berlin", strings.Repeat("ü", 6000), 1)
	if err := check(map[string]any{"certificateArn": arnA}, tooLong); err != nil {
		t.Errorf("a template of more bytes than characters: %v", err)
	}
	longest["claimClientIds"] = "claim-*" + strings.Repeat(",another-one-*", 10)
	if err := check(longest, documents); err == nil || !strings.Contains(err.Error(), "claim_policy.json") {
		t.Errorf("ten more client ids: %v", err)
	}
}

// own returns a folder with one changed document, as a customer has it.
func own(t *testing.T, name, old, replacement string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "templates", name))
	if err != nil || strings.Count(string(data), old) != 1 {
		t.Fatalf("%q is in %s %d times: %v", old, name, strings.Count(string(data), old), err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, name), strings.Replace(string(data), old, replacement, 1))
	return dir
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// checked reads the documents as the app does, and checks them.
func checked(t *testing.T, context map[string]any) (stack.Props, error) {
	t.Helper()
	context["certificateArn"] = arnA
	options, err := stack.ParseOptions(context)
	if err != nil {
		t.Fatal(err)
	}
	documents, err := stack.ReadDocuments(filepath.Join("..", "..", "templates"), options)
	props := stack.Props{Options: options, Documents: documents}
	if err == nil {
		err = props.Check()
	}
	return props, err
}

func TestOwnDocumentsTakeThePlaceOfTheShippedOnes(t *testing.T) {
	statements := filepath.Join(t.TempDir(), "statements.json")
	writeFile(t, statements, `[{"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:${AWS::Partition}:iot:${AWS::Region}:${AWS::AccountId}:topic/acme"}]`)
	locations := own(t, "fleet_template.json", `"Berlin"`, `"Paris"`)
	writeFile(t, filepath.Join(locations, ".DS_Store"), "\x00")
	for name, context := range map[string]map[string]any{
		"locations":       {"templates": locations},
		"an attribute":    {"templates": own(t, "fleet_template.json", `"version": "v1"`, `"version": "v1", "site": {"Ref": "deviceLocation"}`)},
		"type by option":  {"thingType": "acme-sensor"},
		"group by option": {"thingGroup": "acme", "name": "Second"},
		"type in both":    {"thingType": "acme-sensor", "templates": own(t, "fleet_template.json", `"fleety"`, `"acme-sensor"`)},
		"no group":        {"templates": own(t, "fleet_template.json", `"ThingGroups": ["fleet-provisioning-group"],`, ``)},
		"statements":      {"deviceStatements": statements},
		"a device policy": {"templates": own(t, "device_policy.json", `/up/*"`, `/acme/*"`)},
	} {
		t.Run(name, func(t *testing.T) {
			props, err := checked(t, context)
			if err != nil {
				t.Fatal(err)
			}
			all := props.FleetTemplate + props.DevicePolicy + props.ExtraPolicy + props.Names.ThingType + props.Names.ThingGroup
			for want, of := range map[string]string{"Paris": "locations", `"site"`: "an attribute", "acme-sensor": "type in both", "topic/acme": "statements", "/acme/*": "a device policy"} {
				if of == name && !strings.Contains(all, want) {
					t.Errorf("no %s in %s", want, all)
				}
			}
		})
	}
}

// The options limit what a claim policy of a customer's own allows, in whatever form.
func TestOwnClaimPoliciesTakeTheOptions(t *testing.T) {
	const action, condition = `"Action": "iot:Connect"`, `"Condition": {"ForAllValues:StringNotEquals": {"iot:ConnectAttributes": ["PersistentConnect", "LastWill"]}}`
	for name, change := range map[string]struct {
		old, replacement string
		rejected         bool // with the options
	}{
		"a list":                 {action, `"Action": ["iot:Connect"]`, false},
		"another case":           {action, `"Action": "IoT:connect"`, false},
		"no condition":           {"claim-*\",\n      " + condition, `claim-*"`, false},
		"a list with others":     {action, `"Action": ["iot:Connect", "iot:Publish"]`, true},
		"a wildcard":             {action, `"Action": "iot:*"`, true},
		"everything but":         {action, `"NotAction": "iot:Publish"`, true},
		"another statement, too": {`"Action": "iot:Receive"`, `"Action": ["iot:Receive", "iot:Conn*"]`, true},
	} {
		t.Run(name, func(t *testing.T) {
			context := map[string]any{"templates": own(t, "claim_policy.json", change.old, change.replacement)}
			if _, err := checked(t, context); err != nil {
				t.Errorf("without the options: %v", err)
			}
			context["claimSourceIp"], context["claimClientIds"] = "203.0.113.0/24", "factory-*"
			if change.rejected {
				if _, err := checked(t, context); err == nil || !strings.Contains(err.Error(), "claimSourceIp") {
					t.Errorf("error %v", err)
				}
				return
			}
			template, err := synth(context)
			if err != nil {
				t.Fatal(err)
			}
			_, policy := template.named(t, "AWS::IoT::Policy", "ClaimPolicy")
			text, _ := json.Marshal(policy)
			if !strings.Contains(string(text), "203.0.113.0/24") || !strings.Contains(string(text), "client/factory-*") || strings.Contains(string(text), "claim-*") {
				t.Errorf("the options have no effect in %s", text)
			}
		})
	}
}

// Client ids that are given count, also if they are those of the shipped policy.
func TestOwnClaimPolicyKeepsItsClientIDsUnlessOthersAreGiven(t *testing.T) {
	context := map[string]any{"certificateArn": arnA, "templates": own(t, "claim_policy.json", "client/claim-*", "client/own-*")}
	for _, want := range []string{"client/own-*", "client/claim-*"} {
		template, err := synth(context)
		if err != nil {
			t.Fatal(err)
		}
		_, policy := template.named(t, "AWS::IoT::Policy", "ClaimPolicy")
		if text, _ := json.Marshal(policy); !strings.Contains(string(text), want) {
			t.Errorf("%s is not in %s", want, text)
		}
		context["claimClientIds"] = "claim-*"
	}
}

// What the stack would ignore, or what would fail for each device, is an error before anything is
// deployed.
func TestOwnDocumentsThatWouldNotWorkAreErrors(t *testing.T) {
	misspelt, folder := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(misspelt, "fleet-template.json"), "{}")
	object := filepath.Join(folder, "statements.json")
	writeFile(t, object, `{"Effect": "Allow"}`)
	long := filepath.Join(folder, "long.json")
	writeFile(t, long, `[{"Effect": "Allow", "Action": "iot:Publish", "Resource": "`+strings.Repeat("a", 2048)+`"}]`)
	misspeltName := filepath.Join(folder, "misspelt.json")
	writeFile(t, misspeltName, `[{"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:us-east-1:*:topic/${thingPrefix}/${*}/${iot:ClientId}"}]`)
	list := func(statements string) map[string]any {
		path := filepath.Join(t.TempDir(), "list.json")
		writeFile(t, path, statements)
		return map[string]any{"deviceStatements": path}
	}
	const file = "fleet_template.json"
	for name, test := range map[string]struct {
		context map[string]any
		want    string
	}{
		"another document":        {map[string]any{"templates": misspelt}, "fleet-template.json"},
		"no such folder":          {map[string]any{"templates": "/nonexistent"}, "templates"},
		"an empty folder":         {map[string]any{"templates": t.TempDir()}, "empty"},
		"another thing name":      {map[string]any{"templates": own(t, file, `"${ThingPrefix}"`, `"acme"`)}, "ThingName"},
		"a type that is not made": {map[string]any{"templates": own(t, file, `"fleety"`, `"acme-sensor"`)}, "thingType=acme-sensor"},
		"a group that is not":     {map[string]any{"templates": own(t, file, `["fleet-provisioning-group"]`, `["fleet-provisioning-group", "acme"]`)}, "thingGroup=acme"},
		"a type without a use":    {map[string]any{"thingType": "acme", "templates": own(t, file, `"ThingTypeName": "fleety",`, "")}, "thingType=acme is of no use"},
		"a policy that is not":    {map[string]any{"templates": own(t, file, `"GoIoTDevicePolicy"`, `"Acme"`)}, "deviceStatements"},
		"a policy without a role": {map[string]any{"minimalRole": "true", "templates": own(t, file, `"PolicyName": "GoIoTDevicePolicy"`, `"PolicyDocument": "{}"`)}, "minimalRole"},
		"a group without a role":  {map[string]any{"minimalRole": "true", "templates": own(t, file, `"ThingTypeName": "fleety",`, `"ThingTypeName": "fleety", "BillingGroup": "acme",`)}, "minimalRole"},
		"no thing":                {map[string]any{"templates": own(t, file, `"AWS::IoT::Thing"`, `"AWS::IoT::Policy"`)}, "AWS::IoT::Thing"},
		"no serial number":        {map[string]any{"templates": own(t, file, `"serialNumber": {"Type": "String"},`, "")}, "serialNumber"},
		"statements in an object": {map[string]any{"deviceStatements": object}, "JSON list"},
		"an empty statement":      {list(`[{}]`), "each with Effect, Action and Resource"},
		"null as a statement":     {list(`[{"Effect": "Allow", "Action": "iot:Publish", "Resource": "*"}, null]`), "each with Effect, Action and Resource"},
		"small letters":           {list(`[{"effect": "Allow", "action": "iot:Publish", "resource": "*"}]`), "each with Effect, Action and Resource"},
		"no action":               {list(`[{"Effect": "Allow", "Resource": "*"}]`), "each with Effect, Action and Resource"},
		"an effect that is none":  {list(`[{"Effect": "allow", "Action": "iot:Publish", "Resource": "*"}]`), "each with Effect, Action and Resource"},
		"a claim's, no action":    {map[string]any{"templates": own(t, "claim_policy.json", `"Action": "iot:Receive"`, `"Actions": "iot:Receive"`)}, "claim_policy.json: a policy has"},
		"a device's, no resource": {map[string]any{"templates": own(t, "device_policy.json", "\"Action\": \"iot:Connect\",\n      \"Resource\"", "\"Action\": \"iot:Connect\",\n      \"resource\"")}, "device_policy.json: a policy has"},
		"a rotation's, no action": {map[string]any{"templates": own(t, "rotation_policy.json", `"Action": "iot:Receive"`, `"action": "iot:Receive"`)}, "rotation_policy.json: a policy has"},
		"a policy that is empty":  {map[string]any{"templates": own(t, "rotation_policy.json", `"Statement"`, `"statement"`)}, "rotation_policy.json: a policy has"},
		"no statements":           {map[string]any{"deviceStatements": "/nonexistent"}, "deviceStatements"},
		"too many statements":     {map[string]any{"deviceStatements": long}, "deviceStatements has"},
		"a misspelt placeholder":  {map[string]any{"templates": own(t, "device_policy.json", `${AWS::AccountId}:client/`, `${AWS::AccountID}:client/`)}, "device_policy.json: ${AWS::AccountID} is"},
		"another placeholder":     {map[string]any{"templates": own(t, "claim_policy.json", `${TemplateName}/provision/json`, `${Template}/provision/json`)}, "claim_policy.json: ${Template} is"},
		"one with a digit":        {map[string]any{"templates": own(t, "claim_policy.json", `${TemplateName}/provision/json`, `${Template_Name2}/provision/json`)}, "claim_policy.json: ${Template_Name2} is"},
		"an empty one":            {map[string]any{"templates": own(t, "claim_policy.json", `${TemplateName}/provision/json`, `${}/provision/json`)}, "claim_policy.json: ${} is"},
		"one that does not end":   {map[string]any{"templates": own(t, "claim_policy.json", `${TemplateName}/provision/json`, `${TemplateName/provision/json`)}, "claim_policy.json: ${TemplateName/provision/json"},
		"one in statements":       {map[string]any{"deviceStatements": misspeltName}, "deviceStatements: ${thingPrefix} is"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := checked(t, test.context); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}
