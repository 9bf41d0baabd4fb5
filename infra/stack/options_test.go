package stack_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/infra/stack"
)

const (
	idA  = "57c92eba56f4a8a5bf4d2bb4b2f5a9b5ea9ad4ecf0b5e7ec0f3fdd9d3ca32f10"
	idB  = "9f2b1c7a55d90e3e0d5ffeb1c8ab6f6ad1d7c1f0f4b5f3a6b1f0a4f9b3f5d1aa"
	arnA = "arn:aws:iot:us-east-1:123456789012:cert/" + idA
	arnB = "arn:aws:iot:us-east-1:123456789012:cert/" + idB
)

func TestParseOptionsFillsDefaults(t *testing.T) {
	got, err := stack.ParseOptions(map[string]any{"certificateArn": arnA, "aws:cdk:enable-path-metadata": true})
	if err != nil {
		t.Fatal(err)
	}
	want := stack.Options{
		Names: stack.Names{
			Stack: "GoFleetProvisioning", Template: "GoFleetProvisioningTemplate",
			ClaimPolicy: "GoIoTFleetProvisioningPolicy", DevicePolicy: "GoIoTDevicePolicy",
			RotationPolicy: "GoIoTRotationPolicy", ExtraPolicy: "GoIoTExtraPolicy", ThingGroup: "fleet-provisioning-group", ThingType: "fleety", ThingPrefix: "fleety_",
		},
		ExistingThings:     stack.RefuseExisting,
		SerialRegistry:     stack.Once,
		Rotation:           true,
		RetireAfter:        30,
		ClaimCertificates:  []stack.Certificate{{ARN: arnA, Partition: "aws", Region: "us-east-1", Account: "123456789012", ID: idA}},
		SerialPrefix:       "297468",
		HookArchitecture:   stack.ARM64,
		ExpectedAdmissions: 50,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options differ (-want +got):\n%s", diff)
	}
}

func TestParseOptionsReadsAll(t *testing.T) {
	for name, given := range map[string]struct{ yes, number any }{"as -c gives it": {"true", "10"}, "as cdk.json gives it": {true, json.Number("10")}} {
		t.Run(name, func(t *testing.T) {
			got, err := stack.ParseOptions(map[string]any{
				"certificateArn":     " arn:aws-us-gov:iot:us-gov-west-1:123456789012:cert/" + idA + ", arn:aws-us-gov:iot:us-gov-west-1:123456789012:cert/" + idB + "\n",
				"serialPrefix":       "ACME-",
				"thingPrefix":        "acme:",
				"hookArchitecture":   "x86_64",
				"minimalRole":        given.yes,
				"name":               "Second-1",
				"existingThings":     "allow",
				"serialRegistry":     "listed",
				"rotation":           given.yes,
				"retireAfter":        given.number,
				"templates":          "own",
				"deviceStatements":   "own.json",
				"thingGroup":         "sensors",
				"thingType":          "sensor",
				"hookConcurrency":    given.number,
				"expectedAdmissions": given.number,
				"claimClientIds":     "claim-*, *",
				"claimSourceIp":      "203.0.113.0/24, 2001:db8::1",
				"xray":               given.yes,
				"alarmEmail":         "ops@example.com",
			})
			if err != nil {
				t.Fatal(err)
			}
			want := stack.Options{
				ClaimCertificates: []stack.Certificate{
					{"arn:aws-us-gov:iot:us-gov-west-1:123456789012:cert/" + idA, "aws-us-gov", "us-gov-west-1", "123456789012", idA},
					{"arn:aws-us-gov:iot:us-gov-west-1:123456789012:cert/" + idB, "aws-us-gov", "us-gov-west-1", "123456789012", idB},
				},
				ClaimClientIDs:     []string{"claim-*", "*"},
				ClaimSourceIPs:     []string{"203.0.113.0/24", "2001:db8::1"},
				SerialPrefix:       "ACME-",
				ExpectedAdmissions: 10,
				RetireAfter:        10,
				HookArchitecture:   stack.X86_64,
				MinimalRole:        true,
				Names: stack.Names{
					Stack: "Second-1", Template: "Second-1Template", ClaimPolicy: "Second-1ClaimPolicy",
					DevicePolicy: "Second-1DevicePolicy", RotationPolicy: "Second-1RotationPolicy", ExtraPolicy: "Second-1ExtraPolicy",
					ThingGroup: "sensors", ThingType: "sensor",
					ThingPrefix: "acme:",
				},
				Templates: "own", DeviceStatements: "own.json", Rotation: true,
				ExistingThings:  stack.AllowExisting,
				SerialRegistry:  stack.Listed,
				HookConcurrency: 10,
				XRay:            true,
				AlarmEmail:      "ops@example.com",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("options differ (-want +got):\n%s", diff)
			}
		})
	}
}

// manyARNs are those of n claim certificates.
func manyARNs(n int) string {
	arns := make([]string, n)
	for i := range arns {
		arns[i] = fmt.Sprintf("%s%064x", strings.TrimSuffix(arnA, idA), i)
	}
	return strings.Join(arns, ",")
}

func TestParseOptionsRejects(t *testing.T) {
	const script = "scripts/create-keys-and-cert.sh"
	tests := map[string]struct {
		context map[string]any
		want    []string // one for each line of the error
	}{
		"no certificate":      {map[string]any{}, []string{script}},
		"null certificate":    {map[string]any{"certificateArn": nil}, []string{script}},
		"empty certificate":   {map[string]any{"certificateArn": " "}, []string{script}},
		"not an ARN":          {map[string]any{"certificateArn": "certificate"}, []string{`"certificate" is not the ARN`}},
		"certificate id":      {map[string]any{"certificateArn": idA}, []string{script}},
		"id in upper case":    {map[string]any{"certificateArn": strings.ToUpper(arnA)}, []string{script}},
		"id too short":        {map[string]any{"certificateArn": arnA[:len(arnA)-1]}, []string{script}},
		"id too long":         {map[string]any{"certificateArn": arnA + "0"}, []string{script}},
		"no account":          {map[string]any{"certificateArn": strings.Replace(arnA, "123456789012", "", 1)}, []string{script}},
		"no Region":           {map[string]any{"certificateArn": strings.Replace(arnA, "us-east-1", "", 1)}, []string{script}},
		"placeholder":         {map[string]any{"certificateArn": "arn:aws:iot:REGION:ACCOUNT:cert/ID"}, []string{script}},
		"policy":              {map[string]any{"certificateArn": "arn:aws:iot:us-east-1:123456789012:policy/GoIoTDevicePolicy"}, []string{script}},
		"ACM certificate":     {map[string]any{"certificateArn": strings.Replace(arnA, ":iot:", ":acm:", 1)}, []string{script}},
		"number":              {map[string]any{"certificateArn": json.Number("7")}, []string{`"7" is not the ARN`}},
		"list":                {map[string]any{"certificateArn": []any{arnA}}, []string{"separated by commas"}},
		"line after line":     {map[string]any{"certificateArn": arnA + "\n" + arnB}, []string{script}},
		"comma at the end":    {map[string]any{"certificateArn": arnA + ","}, []string{`"" is not the ARN`}},
		"second one bad":      {map[string]any{"certificateArn": arnA + ",x"}, []string{`"x" is not the ARN`}},
		"given twice":         {map[string]any{"certificateArn": arnA + "," + arnA}, []string{"given twice"}},
		"two accounts":        {map[string]any{"certificateArn": arnA + "," + strings.Replace(arnB, "123456789012", "210987654321", 1)}, []string{"different accounts or Regions"}},
		"two Regions":         {map[string]any{"certificateArn": arnA + "," + strings.Replace(arnB, "us-east-1", "eu-central-1", 1)}, []string{"different accounts or Regions"}},
		"name in other case":  {map[string]any{"certificateARN": arnA}, []string{script, "certificateARN"}},
		"id in capitals":      {map[string]any{"certificateArn": strings.ToUpper(arnA[len(arnA)-64:])}, []string{script}},
		"China elsewhere":     {map[string]any{"certificateArn": strings.Replace(arnA, ":aws:", ":aws-cn:", 1)}, []string{"aws-cn"}},
		"not in GovCloud":     {map[string]any{"certificateArn": strings.Replace(arnA, "us-east-1", "us-gov-west-1", 1)}, []string{"aws-us-gov"}},
		"true as before":      {map[string]any{"certificateArn": arnA, "serialRegistry": "true"}, []string{"give once, listed or none"}},
		"prefix of the first": {map[string]any{"certificateArn": arnA, "name": "Second", "thingPrefix": "fleety_"}, []string{"thingPrefix"}},
		"prefix within it":    {map[string]any{"certificateArn": arnA, "name": "Second", "thingPrefix": "fleety_2"}, []string{"thingPrefix"}},
		"prefix around it":    {map[string]any{"certificateArn": arnA, "name": "Second", "thingPrefix": "fleet"}, []string{"thingPrefix"}},
		"thing type":          {map[string]any{"certificateArn": arnA, "thingType": "a b"}, []string{"thingType"}},
		"thing group":         {map[string]any{"certificateArn": arnA, "thingGroup": strings.Repeat("a", 129)}, []string{"thingGroup"}},
		"retired by nothing":  {map[string]any{"certificateArn": arnA, "rotation": "false", "retireAfter": "7"}, []string{"retireAfter"}},
		"thing prefix":        {map[string]any{"certificateArn": arnA, "thingPrefix": "a/b"}, []string{"thingPrefix"}},
		"long thing prefix":   {map[string]any{"certificateArn": arnA, "thingPrefix": strings.Repeat("a", 65)}, []string{"thingPrefix"}},
		"client id":           {map[string]any{"certificateArn": arnA, "claimClientIds": "claim-*,a/b"}, []string{"claimClientIds"}},
		"address":             {map[string]any{"certificateArn": arnA, "claimSourceIp": "203.0.113.0/33"}, []string{"claimSourceIp"}},
		"no address":          {map[string]any{"certificateArn": arnA, "claimSourceIp": ""}, []string{"claimSourceIp"}},
		"no client id":        {map[string]any{"certificateArn": arnA, "claimClientIds": " "}, []string{"claimClientIds"}},
		"without values": {
			map[string]any{"certificateArn": arnA, "name": "", "templates": " ", "deviceStatements": "", "claimClientIds": "", "claimSourceIp": "\t", "serialPrefix": "", "serialRegistry": "", "existingThings": "", "rotation": "",
				"retireAfter": "", "hookArchitecture": "", "hookConcurrency": "", "minimalRole": "", "xray": "", "expectedAdmissions": "", "alarmEmail": "", "thingPrefix": "", "thingGroup": "", "thingType": ""},
			[]string{"name has", "templates has", "deviceStatements has", "claimClientIds has", "claimSourceIp has", "serialPrefix has", "serialRegistry has", "existingThings has", "rotation has", "retireAfter has",
				"hookArchitecture has", "hookConcurrency has", "minimalRole has", "xray has", "expectedAdmissions has", "alarmEmail has", "thingPrefix has", "thingGroup has", "thingType has"},
		},
		"more than Lambda takes": {map[string]any{"certificateArn": manyARNs(61)}, []string{"more than 60"}},
		"names of the first":     {map[string]any{"certificateArn": arnA, "name": "GoIoT"}, []string{"name: "}},
		"control characters":     {map[string]any{"certificateArn": arnA, "alarmEmail": map[string]any{"\x1b[2J": "\u009b\u202e"}}, []string{`"map[\x1b[2J:\u009b\u202e]"`}},
		"list in cdk.json":       {map[string]any{"certificateArn": arnA, "claimSourceIp": []any{"203.0.113.0"}}, []string{"claimSourceIp"}},
		"prefix with space":      {map[string]any{"certificateArn": arnA, "serialPrefix": "29 7468"}, []string{"serialPrefix"}},
		"prefix too long":        {map[string]any{"certificateArn": arnA, "serialPrefix": strings.Repeat("1", 65)}, []string{"serialPrefix"}},
		"architecture":           {map[string]any{"certificateArn": arnA, "hookArchitecture": "riscv64"}, []string{"give arm64 or x86_64"}},
		"neither true nor no":    {map[string]any{"certificateArn": arnA, "minimalRole": "yes"}, []string{"give false or true"}},
		"name too long":          {map[string]any{"certificateArn": arnA, "name": strings.Repeat("a", 29)}, []string{"name: "}},
		"name with a digit":      {map[string]any{"certificateArn": arnA, "name": "2nd"}, []string{"name: "}},
		"existing things":        {map[string]any{"certificateArn": arnA, "existingThings": "Allow"}, []string{"give refuse or allow"}},
		"no concurrency":         {map[string]any{"certificateArn": arnA, "hookConcurrency": "0"}, []string{"a number from 1 to"}},
		"some concurrency":       {map[string]any{"certificateArn": arnA, "hookConcurrency": "some"}, []string{"a number from 1 to"}},
		"28 million years":       {map[string]any{"certificateArn": arnA, "retireAfter": "9999999999"}, []string{"a number from 1 to 36500"}},
		"address of a link":      {map[string]any{"certificateArn": arnA, "claimSourceIp": "fe80::1%eth0"}, []string{"claimSourceIp"}},
		"half an address":        {map[string]any{"certificateArn": arnA, "alarmEmail": "ops"}, []string{"alarmEmail"}},
		"address with a name":    {map[string]any{"certificateArn": arnA, "alarmEmail": "Ops <ops@example.com>"}, []string{"alarmEmail"}},
		"everything at once": {
			map[string]any{"name": "a_b", "serialPrefix": "/", "thingPrefix": "/", "claimClientIds": "/", "claimSourceIp": "/", "rotation": "x", "retireAfter": "x", "expectedAdmissions": "x", "hookArchitecture": "6502", "minimalRole": "2", "existingThings": "x",
				"serialRegistry": "x", "hookConcurrency": "-1", "xray": "x", "alarmEmail": "x", "alarmemail": "x"},
			[]string{"name: ", "certificateArn is missing", "claimClientIds", "claimSourceIp", "serialPrefix", "serialRegistry", "existingThings", "rotation", "retireAfter", "hookArchitecture",
				"hookConcurrency", "minimalRole", "xray", "expectedAdmissions", "alarmEmail", "thingPrefix", "alarmemail"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := stack.ParseOptions(test.context)
			if err == nil {
				t.Fatal("no error")
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(test.want) {
				t.Fatalf("%d lines, want %d:\n%v", len(lines), len(test.want), err)
			}
			for i, want := range test.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %q does not have %q", lines[i], want)
				}
			}
		})
	}
}

// The CDK ignores what it does not know: an option that there is not would be dropped in silence.
// The error has those that there are.
func TestUnknownOptionsAreErrors(t *testing.T) {
	for key, want := range map[string]string{
		"stackName": "name", "claimCidr": "claimSourceIp", "team": "name", "region": "certificateArn", "location": "templates",
		"serialRegistery": "serialRegistry", "serialregistry": "serialRegistry", "serial-registry": "serialRegistry", "serial_prefix": "serialPrefix",
		"certificateArns": "certificateArn", "cerificateArn": "certificateArn", "minimalRoles": "minimalRole", "existingThing": "existingThings",
		"hookArch": "hookArchitecture", "alarmMail": "alarmEmail", "claimSourceIP": "claimSourceIp", "claimSourceIps": "claimSourceIp",
		"claimClientId": "claimClientIds", "clientIds": "claimClientIds", "x-ray": "xray", "Name": "name", "nmae": "name", "thingPrefixes": "thingPrefix",
		"serialnumberprefix": "serialPrefix", "thingNamePrefix": "thingPrefix", "minRole": "minimalRole", "role": "minimalRole", "claimIp": "claimSourceIp",
		"certArn": "certificateArn", "arch": "hookArchitecture", "email": "alarmEmail", "alarm": "alarmEmail", "retire_after_days": "retireAfter",
		"enableRotation": "rotation", "rotate": "rotation", "hookConcurency": "hookConcurrency",
	} {
		_, err := stack.ParseOptions(map[string]any{"certificateArn": arnA, key: "true"})
		if err == nil || !strings.Contains(err.Error(), key) || !regexp.MustCompile(`\b`+want+`\b`).MatchString(err.Error()) {
			t.Errorf("%s: error %v does not name it and %s", key, err, want)
		}
	}
	for _, key := range []string{"aws:cdk:enable-path-metadata", "@aws-cdk/core:newStyleStackSynthesis", "cli-telemetry", "availability-zones:account=1:region=us-east-1", "acknowledged-issue-numbers", "notices"} {
		if _, err := stack.ParseOptions(map[string]any{"certificateArn": arnA, key: true}); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestWithoutRotationNoFunctionLimitsTheClaims(t *testing.T) {
	if _, err := stack.ParseOptions(map[string]any{"certificateArn": manyARNs(61), "rotation": "false"}); err != nil {
		t.Error(err)
	}
}

func TestNumbersAreReadByTheirDigits(t *testing.T) {
	for name, value := range map[string]any{"digits": json.Number("2974680123456789012"), "string": "2974680123456789012"} {
		options, err := stack.ParseOptions(map[string]any{"certificateArn": arnA, "serialPrefix": value})
		if err != nil || options.SerialPrefix != "2974680123456789012" {
			t.Errorf("%s: prefix %s, error %v", name, options.SerialPrefix, err)
		}
	}
}

func TestAnotherStackHasAThingPrefixOfItsOwn(t *testing.T) {
	for name, want := range map[string]string{"GoFleetProvisioning": "fleety_", "Second": "Second_", "fleety": "fleety_"} {
		options, err := stack.ParseOptions(map[string]any{"certificateArn": arnA, "name": name})
		if name == "fleety" {
			if err == nil {
				t.Error("a stack fleety would take over the things of the first")
			}
			continue
		}
		if err != nil || options.Names.ThingPrefix != want {
			t.Errorf("%s: prefix %s, error %v, want %s", name, options.Names.ThingPrefix, err, want)
		}
	}
}

func FuzzParseOptions(f *testing.F) {
	for _, seed := range []string{arnA, arnA + "," + arnB, arnA + "," + arnA, "", ",", "arn:aws:iot:::cert/", arnA + "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		options, err := stack.ParseOptions(map[string]any{"certificateArn": list})
		if err != nil {
			return
		}
		var arns []string
		for _, c := range options.ClaimCertificates {
			if rebuilt := "arn:" + c.Partition + ":iot:" + c.Region + ":" + c.Account + ":cert/" + c.ID; rebuilt != c.ARN {
				t.Errorf("parts of %q make %q", c.ARN, rebuilt)
			}
			arns = append(arns, c.ARN)
		}
		if again, err := stack.ParseOptions(map[string]any{"certificateArn": strings.Join(arns, ",")}); err != nil {
			t.Errorf("reading %q back: %v", arns, err)
		} else if diff := cmp.Diff(options, again); diff != "" {
			t.Errorf("reading %q back differs (-first +second):\n%s", arns, diff)
		}
	})
}
