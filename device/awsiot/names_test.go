package awsiot_test

import (
	"strings"
	"testing"

	"example.com/fleety/device/awsiot"
)

func TestNamesFollowTheirRules(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		rule      awsiot.NameRule
		text      string
		most      int
		good, bad []string
	}{
		"thing":    {awsiot.ThingNames, "1 to 128 characters of a-z A-Z 0-9 : _ -", 128, []string{"a", "fleety_2974685", "A:b-9"}, []string{"", "a b", "a/b", "a.b", "ä", "a\n"}},
		"template": {awsiot.TemplateNames, "1 to 36 characters of a-z A-Z 0-9 _ -", 36, []string{"GoFleetProvisioningTemplate", "T_1-a"}, []string{"", "a:b", "a b", "a/b"}},
		"policy":   {awsiot.PolicyNames, "1 to 128 characters of a-z A-Z 0-9 _ + = , . @ -", 128, []string{"GoIoTDevicePolicy", "a+b=c,d.e@f-g"}, []string{"", "a b", "a:b", "a/b"}},
		"shadow":   {awsiot.ShadowNames, "1 to 64 characters of a-z A-Z 0-9 : _ - $", 64, []string{"config", "$package", "a:b"}, []string{"", "a/b", "a b", "#"}},
		"value":    {awsiot.AttributeValues, "at most 800 characters of a-z A-Z 0-9 _ . , @ / : # = [ ] -", 800, []string{"", "[a.b]", "a=b#c"}, []string{"a b", "a+b", "ä"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tc.rule.String(); got != tc.text {
				t.Errorf("the rule is %q, want %q", got, tc.text)
			}
			for _, s := range append(tc.good, strings.Repeat("a", tc.most)) {
				if !tc.rule.Valid(s) {
					t.Errorf("%q is not valid, want valid", s)
				}
			}
			for _, s := range append(tc.bad, strings.Repeat("a", tc.most+1)) {
				if tc.rule.Valid(s) {
					t.Errorf("%q is valid, want not valid", s)
				}
			}
		})
	}
}

func TestIDsFollowTheirForms(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0af9", 16)
	for text, want := range map[string]bool{id: true, strings.ToUpper(id): false, id[1:]: false, id[1:] + "g": false, "": false} {
		if got := awsiot.ValidCertificateID(text); got != want {
			t.Errorf("ValidCertificateID(%q) = %t", text, got)
		}
	}
}

func TestARNsAreSplitAndJoined(t *testing.T) {
	t.Parallel()
	const text = "arn:aws-us-gov:iot:us-gov-west-1:123456789012:thing/a:b"
	arn, err := awsiot.ParseARN(text)
	if err != nil {
		t.Fatal(err)
	}
	want := awsiot.ARN{Partition: "aws-us-gov", Service: "iot", Region: "us-gov-west-1", Account: "123456789012", Resource: "thing/a:b"}
	if arn != want || arn.String() != text {
		t.Errorf("got %+v, printed %s", arn, arn)
	}
	for _, bad := range []string{"", "arn", "arn:aws:iot:r:a", "arn::iot:r:a:x", "arn:aws:iot:r:a:", "ARN:aws:iot:r:a:x"} {
		if got, err := awsiot.ParseARN(bad); err == nil {
			t.Errorf("ParseARN(%q) = %+v, want an error", bad, got)
		}
	}
}

func FuzzParseARN(f *testing.F) {
	f.Add("arn:aws:iot:us-east-1:123456789012:cert/ab")
	f.Fuzz(func(t *testing.T, text string) {
		if arn, err := awsiot.ParseARN(text); err == nil && arn.String() != text {
			t.Errorf("%q parsed and printed is %q", text, arn)
		}
	})
}
