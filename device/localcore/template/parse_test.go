package template_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"example.com/fleety/device/localcore/template"
	"github.com/google/go-cmp/cmp"
)

// faultsOf returns the faults that an error of Parse joins, none for a nil error.
func faultsOf(t *testing.T, err error) (all []*template.SyntaxError) {
	t.Helper()
	if err == nil {
		return nil
	}
	type joined interface {
		error
		Unwrap() []error
	}
	faults, ok := errors.AsType[joined](err)
	if !ok || len(faults.Unwrap()) == 0 {
		t.Fatalf("%T: %v", err, err)
	}
	for _, e := range faults.Unwrap() {
		fault, ok := errors.AsType[*template.SyntaxError](e)
		if !ok {
			t.Fatalf("%T: %v", e, e)
		}
		all = append(all, fault)
	}
	return all
}

// faults returns the faults of a template, one per line.
func faults(t *testing.T, body string) string {
	t.Helper()
	_, err := template.Parse([]byte(body))
	if err == nil {
		return ""
	}
	all := faultsOf(t, err)
	places := make([]string, len(all))
	for i, e := range all {
		if e.Reason == "" {
			t.Errorf("no reason at %s", e.Path)
		}
		places[i] = fmt.Sprintf("line %d, column %d: %s", e.Line, e.Column, e.Path)
	}
	return strings.Join(places, "\n")
}

func TestFaultsOfTheWholeText(t *testing.T) {
	for name, tc := range map[string]struct{ body, want string }{
		"empty":              {"", "line 1, column 1: $"},
		"cut off":            {"{\n \"a\": ", "line 2, column 7: $"},
		"a missing comma":    {"{\"ü\": 1\n  \"b\": 2}", "line 2, column 3: $"},
		"two values":         {"{} {}", "line 1, column 4: $"},
		"not UTF-8":          {"{\"\xff\": 1}", "line 1, column 3: $"},
		"too long":           {strings.Repeat(" ", 10_241), "line 1, column 1: $"},
		"not an object":      {"[]", "line 1, column 1: $"},
		"a repeated key":     {"{\"Resources\": {},\n\"Resources\": {}}", "line 2, column 1: $.Resources"},
		"no resources":       {"{}", "line 1, column 1: $"},
		"empty resources":    {`{"Resources": {}}`, "line 1, column 15: $.Resources"},
		"an unknown section": {`{"Resource": {}}`, "line 1, column 1: $\nline 1, column 2: $.Resource"},
		"too deep":           {strings.Repeat("[", 65) + strings.Repeat("]", 65), "line 1, column 65: $" + strings.Repeat("[0]", 64) + ""},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, faults(t, tc.body)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateProvisioningTemplate.html:
// a template has 10,240 characters at most.
func TestLongestTemplateIsAccepted(t *testing.T) {
	body := configured(`"ü"`) // a character is not a byte
	body += strings.Repeat(" ", template.MaxBody-len([]rune(body)))
	if got := faults(t, body); got != "" {
		t.Error(got)
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// each parameter is a String, with or without a default.
func TestFaultsOfParameters(t *testing.T) {
	const rest = `, "Resources": {"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "P"}}}}`
	long := strings.Repeat("x", 4097)
	for name, tc := range map[string]struct{ parameters, want string }{
		"not an object":   {`[]`, "line 1, column 16: $.Parameters"},
		"no name":         {`{"": {"Type": "String"}}`, "line 1, column 17: $.Parameters[\"\"]"},
		"a long name":     {`{"` + long + `": {"Type": "String"}}`, "line 1, column 17: $.Parameters." + long},
		"a long default":  {`{"a": {"Type": "String", "Default": "` + long + `"}}`, "line 1, column 52: $.Parameters.a.Default"},
		"longest default": {`{"a": {"Type": "String", "Default": "` + long[1:] + `"}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, faults(t, `{"Parameters": `+tc.parameters+rest)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// there are six intrinsic functions, and no others.
func TestFaultsOfFunctions(t *testing.T) {
	for name, tc := range map[string]struct{ value, path string }{
		"a number":             {`1`, ``},
		"null":                 {`null`, ``},
		"a list":               {`["a"]`, ``},
		"a nested object":      {`{"a": "b"}`, ``},
		"two functions":        {`{"Ref": "p", "Fn::Sub": "a"}`, ``},
		"Ref to a list":        {`{"Ref": ["p"]}`, `.Ref`},
		"GetAtt":               {`{"Fn::GetAtt": ["a", "b"]}`, `["Fn::GetAtt"]`},
		"Base64":               {`{"Fn::Base64": "a"}`, `["Fn::Base64"]`},
		"Split as a string":    {`{"Fn::Split": [",", "a"]}`, `["Fn::Split"]`},
		"Join, no list":        {`{"Fn::Join": ["", "a"]}`, `["Fn::Join"][1]`},
		"Join, one argument":   {`{"Fn::Join": [""]}`, `["Fn::Join"]`},
		"Join, delimiter":      {`{"Fn::Join": [{"Ref": "p"}, []]}`, `["Fn::Join"][0]`},
		"Join of Ref":          {`{"Fn::Join": ["", {"Ref": "p"}]}`, `["Fn::Join"][1].Ref`},
		"Join of two":          {`{"Fn::Join": ["", {"Fn::Split": ["", ""], "b": 1}]}`, `["Fn::Join"][1]`},
		"Select, range":        {`{"Fn::Select": [2, ["a", "b"]]}`, ``},
		"Select, fraction":     {`{"Fn::Select": [0.5, ["a", "b"]]}`, ``},
		"Select, null":         {`{"Fn::Select": [0, [null, "b"]]}`, `["Fn::Select"][1][0]`},
		"Select, arguments":    {`{"Fn::Select": "a"}`, `["Fn::Select"]`},
		"Split, delimiter":     {`{"Fn::Select": ["0", {"Fn::Split": ["", "a"]}]}`, `["Fn::Select"][1]["Fn::Split"][0]`},
		"Split, arguments":     {`{"Fn::Select": ["0", {"Fn::Split": ["a"]}]}`, `["Fn::Select"][1]["Fn::Split"]`},
		"FindInMap, map":       {`{"Fn::FindInMap": ["N", {"Ref": "p"}, "x"]}`, `["Fn::FindInMap"][0]`},
		"FindInMap, key":       {`{"Fn::FindInMap": ["M", "c", "x"]}`, ``},
		"FindInMap, inner":     {`{"Fn::FindInMap": ["M", {"Ref": "p"}, "z"]}`, `["Fn::FindInMap"][2]`},
		"FindInMap, arguments": {`{"Fn::FindInMap": ["M", "a"]}`, `["Fn::FindInMap"]`},
		"Sub, open":            {`{"Fn::Sub": "a${b"}`, `["Fn::Sub"]`},
		"Sub, nothing":         {`{"Fn::Sub": "${}"}`, `["Fn::Sub"]`},
		"Sub, quoted nothing":  {`{"Fn::Sub": "${!}"}`, `["Fn::Sub"]`},
		"Sub, arguments":       {`{"Fn::Sub": ["a"]}`, `["Fn::Sub"]`},
		"Sub, no map":          {`{"Fn::Sub": ["a", "b"]}`, `["Fn::Sub"][1]`},
		"Sub, no string":       {`{"Fn::Sub": [{"Ref": "p"}, {}]}`, `["Fn::Sub"][0]`},
		"Sub, a number":        {`{"Fn::Sub": 1}`, `["Fn::Sub"]`},
		"Sub, bad variable":    {`{"Fn::Sub": ["${a}", {"a": 1}]}`, `["Fn::Sub"][1].a`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := template.Parse([]byte(configured(tc.value)))
			var got []string
			for _, e := range faultsOf(t, err) {
				got = append(got, e.Path)
			}
			// "Join of two" and the like have one fault and no consequences.
			if diff := cmp.Diff([]string{"$.DeviceConfiguration.v" + tc.path}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// things, certificates and policies have the documented properties only, and there is no Fn::Join
// inside policies.
func TestFaultsOfResources(t *testing.T) {
	const (
		thing       = `"r": {"Type": "AWS::IoT::Thing", "Properties": %s}`
		certificate = `"r": {"Type": "AWS::IoT::Certificate", "Properties": %s}`
		policy      = `"r": {"Type": "AWS::IoT::Policy", "Properties": %s}`
		properties  = "$.Resources.r.Properties"
		settings    = "$.Resources.r.OverrideSettings"
	)
	in := func(form, properties string) string { return fmt.Sprintf(form, properties) }
	four := `{"ThingName": "t", "AttributePayload": {"a": "", "b": "", "c": "", "d": ""}}`
	for name, tc := range map[string]struct{ resource, want string }{
		"not an object":              {`"r": 1`, "$.Resources.r"},
		"no type":                    {`"r": {"Properties": {}}`, "$.Resources.r"},
		"unknown type":               {`"r": {"Type": "AWS::IoT::TopicRule", "Properties": {}}`, `$.Resources.r.Type`},
		"unknown key":                {`"r": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "P"}, "DependsOn": "x"}`, "$.Resources.r.DependsOn"},
		"no thing name":              {in(thing, `{}`), properties},
		"bad thing name":             {in(thing, `{"ThingName": "a b"}`), properties + `.ThingName`},
		"unknown property":           {in(thing, `{"ThingName": "t", "Name": "n"}`), properties + ".Name"},
		"too many attributes":        {in(thing, four), properties + ".AttributePayload"},
		"enough with a type":         {in(thing, strings.Replace(four, "{", `{"ThingTypeName": "t", `, 1)), ""},
		"attribute name":             {in(thing, `{"ThingName": "t", "AttributePayload": {"a b": ""}}`), properties + `.AttributePayload["a b"]`},
		"attribute value":            {in(thing, `{"ThingName": "t", "AttributePayload": {"a": "b c"}}`), properties + `.AttributePayload.a`},
		"attributes of the registry": {in(thing, `{"ThingName": "t", "AttributePayload": {"attributes": {"a": "b"}}}`), properties + ".AttributePayload.attributes"},
		"groups as a string":         {in(thing, `{"ThingName": "t", "ThingGroups": "g"}`), properties + ".ThingGroups"},
		"bad group":                  {in(thing, `{"ThingName": "t", "ThingGroups": ["a b"]}`), properties + `.ThingGroups`},
		"two things":                 {in(thing, `{"ThingName": "t"}`) + ",\n" + strings.Replace(in(thing, `{"ThingName": "t"}`), "r", "s", 1), "$.Resources.s.Type"},
		"unknown setting":            {in(thing, `{"ThingName": "t"}, "OverrideSettings": {"BillingGroup": "FAIL"}`), settings + ".BillingGroup"},
		"merging a type":             {in(thing, `{"ThingName": "t"}, "OverrideSettings": {"ThingTypeName": "MERGE"}`), settings + `.ThingTypeName`},
		"a setting twice":            {in(thing, `{"ThingName": "t"}, "OverrideSettings": {"ThingGroups": "FAIL", "THING_GROUPS": "FAIL"}`), settings + ".THING_GROUPS"},
		"no certificate id":          {in(certificate, `{}`), properties},
		"a CSR":                      {in(certificate, `{"CertificateSigningRequest": "x"}`), properties + `.CertificateSigningRequest`},
		"bad status":                 {in(certificate, `{"CertificateId": "x", "Status": "PENDING"}`), properties + `.Status`},
		"merging a status":           {in(certificate, `{"CertificateId": "x"}, "OverrideSettings": {"Status": "MERGE"}`), settings + `.Status`},
		"two certificates":           {in(certificate, `{"CertificateId": "x"}`) + ",\n" + strings.Replace(in(certificate, `{"CertificateId": "x"}`), "r", "s", 1), "$.Resources.s.Type"},
		"an empty policy":            {in(policy, `{}`), properties},
		"both of a policy":           {in(policy, `{"PolicyName": "P", "PolicyDocument": {}}`), properties},
		"settings of a policy":       {in(policy, `{"PolicyName": "P"}, "OverrideSettings": {}`), settings},
		"Join in a name":             {in(policy, `{"PolicyName": {"Fn::Join": ["", ["a"]]}}`), properties + `.PolicyName["Fn::Join"]`},
		"Join in a document":         {in(policy, `{"PolicyDocument": {"a": [{"Fn::Join": ["", ["a"]]}]}}`), properties + `.PolicyDocument.a[0]["Fn::Join"]`},
		"a broken document":          {in(policy, `{"PolicyDocument": "{"}`), properties + `.PolicyDocument`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := template.Parse([]byte(resourced(tc.resource)))
			var got []string
			for _, e := range faultsOf(t, err) {
				got = append(got, e.Path)
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAllFaultsAreFoundAtOnce(t *testing.T) {
	got := faults(t, `{
  "Parameters": {"a": {"Type": "Number"}, "b": {"Default": "x"}, "c": {"Type": "String", "Default": 1}, "d": []},
  "Mappings": {"M": {"k": {"v": {"Ref": "a"}, "w": "ü"}}, "N": 1, "O": {"k": 2}, "P": {"k": {"v": 3}}},
  "Resources": {"t": {"Type": "AWS::IoT::Thing", "Properties": []}},
  "DeviceConfiguration": {"x": {"Fn::Nope": 1}, "y": {"z": {}}}
}`)
	want := strings.Join([]string{
		`line 2, column 32: $.Parameters.a.Type`,
		`line 2, column 48: $.Parameters.b`,
		`line 2, column 101: $.Parameters.c.Default`,
		`line 2, column 110: $.Parameters.d`,
		`line 3, column 33: $.Mappings.M.k.v`,
		`line 3, column 64: $.Mappings.N`,
		`line 3, column 78: $.Mappings.O.k`,
		`line 3, column 99: $.Mappings.P.k.v`,
		`line 4, column 64: $.Resources.t.Properties`,
		`line 5, column 33: $.DeviceConfiguration.x["Fn::Nope"]`,
		`line 5, column 54: $.DeviceConfiguration.y`,
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add(string(shipped(f)), "2974685", "USA")
	f.Add(configured(`{"Fn::Select": [{"Ref": "p"}, {"Fn::Split": [",", {"Fn::Sub": ["${p}${x}", {"x": {"Ref": "d"}}]}]}]}`), "0", "a,b")
	f.Add(configured(`{"Fn::FindInMap": ["M", {"Ref": "p"}, "x"]}`), "a", "")
	f.Add(resourced(`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"a": [{"Ref": "p"}, {"Fn::Split": [",", "x"]}]}}}`), "a", "b")
	f.Add(resourced(`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": "{}"}}`), "a", "b")
	f.Add("{\"\xff\": [[[[", "", "")
	f.Fuzz(func(t *testing.T, body, first, second string) {
		parsed, err := template.Parse([]byte(body))
		if err != nil {
			for _, e := range faultsOf(t, err) {
				if e.Line < 1 || e.Column < 1 || !strings.HasPrefix(e.Path, "$") || e.Reason == "" {
					t.Errorf("fault without a place: %+v", e)
				}
			}
			return
		}
		in := template.Input{CertificateID: certificateID, Parameters: map[string]string{
			"serialNumber": first, "deviceLocation": second, "p": first, "d": second,
		}}
		plan, err := parsed.Resolve(in)
		if _, ok := errors.AsType[*template.Error](err); err != nil && !ok {
			t.Fatalf("%T: %v", err, err)
		}
		again, err2 := parsed.Resolve(in)
		if diff := cmp.Diff(plan, again); diff != "" || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Errorf("resolved twice, unlike: %s\n%v\n%v", diff, err, err2)
		}
	})
}
