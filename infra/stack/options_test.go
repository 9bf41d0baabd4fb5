package stack_test

import (
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
			ThingGroup: "fleet-provisioning-group", ThingType: "fleety",
		},
		ExistingThings:    stack.RefuseExisting,
		ClaimCertificates: []stack.Certificate{{ARN: arnA, Partition: "aws", Region: "us-east-1", Account: "123456789012", ID: idA}},
		SerialPrefix:      "297468",
		HookArchitecture:  stack.ARM64,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options differ (-want +got):\n%s", diff)
	}
}

func TestParseOptionsReadsAll(t *testing.T) {
	for name, minimal := range map[string]any{"as -c gives it": "true", "as cdk.json gives it": true} {
		t.Run(name, func(t *testing.T) {
			got, err := stack.ParseOptions(map[string]any{
				"certificateArn":   " arn:aws-us-gov:iot:us-gov-west-1:123456789012:cert/" + idA + ", arn:aws-us-gov:iot:us-gov-west-1:123456789012:cert/" + idB + "\n",
				"serialPrefix":     "ACME-",
				"hookArchitecture": "x86_64",
				"minimalRole":      minimal,
				"name":             "Second-1",
				"existingThings":   "allow",
				"serialRegistry":   minimal,
				"hookConcurrency":  "10",
				"xray":             minimal,
				"alarmEmail":       "ops@example.com",
			})
			if err != nil {
				t.Fatal(err)
			}
			want := stack.Options{
				ClaimCertificates: []stack.Certificate{
					{"arn:aws-us-gov:iot:us-gov-west-1:123456789012:cert/" + idA, "aws-us-gov", "us-gov-west-1", "123456789012", idA},
					{"arn:aws-us-gov:iot:us-gov-west-1:123456789012:cert/" + idB, "aws-us-gov", "us-gov-west-1", "123456789012", idB},
				},
				SerialPrefix:     "ACME-",
				HookArchitecture: stack.X86_64,
				MinimalRole:      true,
				Names: stack.Names{
					Stack: "Second-1", Template: "Second-1Template", ClaimPolicy: "Second-1ClaimPolicy",
					DevicePolicy: "Second-1DevicePolicy", ThingGroup: "Second-1Group", ThingType: "Second-1Type",
				},
				ExistingThings:  stack.AllowExisting,
				SerialRegistry:  true,
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

func TestParseOptionsRefuses(t *testing.T) {
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
		"number":              {map[string]any{"certificateArn": 7}, []string{`"7" is not the ARN`}},
		"list":                {map[string]any{"certificateArn": []any{arnA}}, []string{script}},
		"line after line":     {map[string]any{"certificateArn": arnA + "\n" + arnB}, []string{script}},
		"comma at the end":    {map[string]any{"certificateArn": arnA + ","}, []string{`"" is not the ARN`}},
		"second one bad":      {map[string]any{"certificateArn": arnA + ",x"}, []string{`"x" is not the ARN`}},
		"given twice":         {map[string]any{"certificateArn": arnA + "," + arnA}, []string{"given twice"}},
		"two accounts":        {map[string]any{"certificateArn": arnA + "," + strings.Replace(arnB, "123456789012", "210987654321", 1)}, []string{"different accounts or Regions"}},
		"two Regions":         {map[string]any{"certificateArn": arnA + "," + strings.Replace(arnB, "us-east-1", "eu-central-1", 1)}, []string{"different accounts or Regions"}},
		"name in other case":  {map[string]any{"certificateARN": arnA}, []string{script, "certificateARN is spelt certificateArn"}},
		"prefix with space":   {map[string]any{"certificateArn": arnA, "serialPrefix": "29 7468"}, []string{"serialPrefix"}},
		"prefix too long":     {map[string]any{"certificateArn": arnA, "serialPrefix": strings.Repeat("1", 65)}, []string{"serialPrefix"}},
		"architecture":        {map[string]any{"certificateArn": arnA, "hookArchitecture": "riscv64"}, []string{"give arm64 or x86_64"}},
		"neither true nor no": {map[string]any{"certificateArn": arnA, "minimalRole": "yes"}, []string{"neither true nor false"}},
		"name too long":       {map[string]any{"certificateArn": arnA, "name": strings.Repeat("a", 29)}, []string{"name: no stack"}},
		"name with a digit":   {map[string]any{"certificateArn": arnA, "name": "2nd"}, []string{"name: no stack"}},
		"existing things":     {map[string]any{"certificateArn": arnA, "existingThings": "Allow"}, []string{"give refuse or allow"}},
		"no concurrency":      {map[string]any{"certificateArn": arnA, "hookConcurrency": "0"}, []string{"not a number of 1 or more"}},
		"some concurrency":    {map[string]any{"certificateArn": arnA, "hookConcurrency": "some"}, []string{"not a number of 1 or more"}},
		"half an address":     {map[string]any{"certificateArn": arnA, "alarmEmail": "ops"}, []string{"alarmEmail"}},
		"address with a name": {map[string]any{"certificateArn": arnA, "alarmEmail": "Ops <ops@example.com>"}, []string{"alarmEmail"}},
		"everything at once": {
			map[string]any{"name": "", "serialPrefix": "/", "hookArchitecture": "6502", "minimalRole": "2", "existingThings": "x",
				"serialRegistry": "x", "hookConcurrency": "-1", "xray": "x", "alarmEmail": "x", "alarmemail": "x"},
			[]string{"certificateArn is missing", "serialPrefix", "hookArchitecture", "minimalRole",
				"existingThings", "serialRegistry", "hookConcurrency", "xray", "alarmEmail", "alarmemail is spelt alarmEmail"},
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
