package template_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"example.com/fleety/device/localcore/template"
	"github.com/google/go-cmp/cmp"
)

// faults returns the faults of a template, one per line.
func faults(t *testing.T, body string) string {
	t.Helper()
	_, err := template.Parse([]byte(body))
	if err == nil {
		return ""
	}
	if _, ok := errors.AsType[*template.SyntaxError](err); !ok {
		t.Fatalf("not a *SyntaxError: %T", err)
	}
	return err.Error()
}

func TestFaultsOfTheWholeText(t *testing.T) {
	for name, tc := range map[string]struct{ body, want string }{
		"empty":           {"", "line 1, column 1: $: not JSON: unexpected end of JSON input"},
		"cut off":         {"{\n \"a\": ", "line 2, column 7: $: not JSON: unexpected end of JSON input"},
		"a missing comma": {"{\"ü\": 1\n  \"b\": 2}", "line 2, column 3: $: not JSON: invalid character '\"' after object key:value pair"},
		"two values":      {"{} {}", "line 1, column 4: $: not JSON: invalid character '{' after top-level value"},
		"not UTF-8":       {"{\"\xff\": 1}", "line 1, column 3: $: not UTF-8"},
		"too long":        {strings.Repeat(" ", 10_241), "line 1, column 1: $: the template has 10241 characters, 10240 are allowed"},
		"not an object":   {"[]", "line 1, column 1: $: must be an object, is an array"},
		"a repeated key":  {"{\"Resources\": {},\n\"Resources\": {}}", "line 2, column 1: $.Resources: this key was given before"},
		"no resources":    {"{}", "line 1, column 1: $: has no Resources"},
		"empty resources": {`{"Resources": {}}`, "line 1, column 15: $.Resources: declares no resource"},
		"an unknown section": {`{"Resource": {}}`, "line 1, column 1: $: has no Resources\n" +
			"line 1, column 2: $.Resource: not known here; known are Parameters, Mappings, Resources, DeviceConfiguration"},
		"too deep": {strings.Repeat("[", 65) + strings.Repeat("]", 65), "line 1, column 65: $" + strings.Repeat("[0]", 64) + ": nested deeper than 64 levels"},
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
		"not an object":   {`[]`, "line 1, column 16: $.Parameters: must be an object, is an array"},
		"no name":         {`{"": {"Type": "String"}}`, "line 1, column 17: $.Parameters[\"\"]: a parameter's name must have 1 to 2048 characters, has 0"},
		"a long name":     {`{"` + long + `": {"Type": "String"}}`, "line 1, column 17: $.Parameters." + long + ": a parameter's name must have 1 to 2048 characters, has 4097"},
		"a long default":  {`{"a": {"Type": "String", "Default": "` + long + `"}}`, "line 1, column 52: $.Parameters.a.Default: has 4097 characters, 4096 are allowed"},
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
	const known = "Ref, Fn::Join, Fn::Select, Fn::Split, Fn::FindInMap and Fn::Sub"
	for name, tc := range map[string]struct{ value, path, reason string }{
		"a number":             {`1`, ``, "must be a string or a function, is a number"},
		"null":                 {`null`, ``, "must be a string or a function, is null"},
		"a list":               {`["a"]`, ``, "must be a string or a function, is an array"},
		"a nested object":      {`{"a": "b"}`, ``, "must be a string or a function; nested objects are not allowed"},
		"two functions":        {`{"Ref": "p", "Fn::Sub": "a"}`, ``, "a function must be the only key of its object"},
		"Ref to a list":        {`{"Ref": ["p"]}`, `.Ref`, "must be a string, is an array"},
		"GetAtt":               {`{"Fn::GetAtt": ["a", "b"]}`, `["Fn::GetAtt"]`, "Fn::GetAtt is not a function of provisioning templates; they are " + known},
		"Base64":               {`{"Fn::Base64": "a"}`, `["Fn::Base64"]`, "Fn::Base64 is not a function of provisioning templates; they are " + known},
		"Split as a string":    {`{"Fn::Split": [",", "a"]}`, `["Fn::Split"]`, "gives a list where a string must be; use it inside Fn::Select"},
		"Join, no list":        {`{"Fn::Join": ["", "a"]}`, `["Fn::Join"][1]`, "must be a list or Fn::Split, is a string"},
		"Join, one argument":   {`{"Fn::Join": [""]}`, `["Fn::Join"]`, "Fn::Join needs [delimiter, list]"},
		"Join, delimiter":      {`{"Fn::Join": [{"Ref": "p"}, []]}`, `["Fn::Join"][0]`, "must be a string, is an object"},
		"Join of Ref":          {`{"Fn::Join": ["", {"Ref": "p"}]}`, `["Fn::Join"][1].Ref`, "gives no list; only Fn::Split does"},
		"Join of two":          {`{"Fn::Join": ["", {"Fn::Split": ["", ""], "b": 1}]}`, `["Fn::Join"][1]`, "a function must be the only key of its object"},
		"Select, range":        {`{"Fn::Select": [2, ["a", "b"]]}`, ``, "Fn::Select: index 2 is not in a list of 2"},
		"Select, fraction":     {`{"Fn::Select": [0.5, ["a", "b"]]}`, ``, `Fn::Select: index "0.5" is not a whole number`},
		"Select, null":         {`{"Fn::Select": [0, [null, "b"]]}`, `["Fn::Select"][1][0]`, "must be a string or a function, is null"},
		"Select, arguments":    {`{"Fn::Select": "a"}`, `["Fn::Select"]`, "Fn::Select needs [index, list]"},
		"Split, delimiter":     {`{"Fn::Select": ["0", {"Fn::Split": ["", "a"]}]}`, `["Fn::Select"][1]["Fn::Split"][0]`, "the delimiter is empty"},
		"Split, arguments":     {`{"Fn::Select": ["0", {"Fn::Split": ["a"]}]}`, `["Fn::Select"][1]["Fn::Split"]`, "Fn::Split needs [delimiter, string]"},
		"FindInMap, map":       {`{"Fn::FindInMap": ["N", {"Ref": "p"}, "x"]}`, `["Fn::FindInMap"][0]`, `there is no map "N"; there is "M"`},
		"FindInMap, key":       {`{"Fn::FindInMap": ["M", "c", "x"]}`, ``, `Fn::FindInMap: map "M" has no key "c"; it has "a", "b"`},
		"FindInMap, inner":     {`{"Fn::FindInMap": ["M", {"Ref": "p"}, "z"]}`, `["Fn::FindInMap"][2]`, `no key of map "M" has "z"`},
		"FindInMap, arguments": {`{"Fn::FindInMap": ["M", "a"]}`, `["Fn::FindInMap"]`, "Fn::FindInMap needs [map, key, key]"},
		"Sub, open":            {`{"Fn::Sub": "a${b"}`, `["Fn::Sub"]`, "Fn::Sub: a ${ has no }"},
		"Sub, nothing":         {`{"Fn::Sub": "${}"}`, `["Fn::Sub"]`, "Fn::Sub: a ${} names nothing"},
		"Sub, quoted nothing":  {`{"Fn::Sub": "${!}"}`, `["Fn::Sub"]`, "Fn::Sub: a ${} names nothing"},
		"Sub, arguments":       {`{"Fn::Sub": ["a"]}`, `["Fn::Sub"]`, "Fn::Sub needs a string or [string, variables]"},
		"Sub, no map":          {`{"Fn::Sub": ["a", "b"]}`, `["Fn::Sub"][1]`, "must be an object, is a string"},
		"Sub, no string":       {`{"Fn::Sub": [{"Ref": "p"}, {}]}`, `["Fn::Sub"][0]`, "must be a string, is an object"},
		"Sub, a number":        {`{"Fn::Sub": 1}`, `["Fn::Sub"]`, "must be a string, is a number"},
		"Sub, bad variable":    {`{"Fn::Sub": ["${a}", {"a": 1}]}`, `["Fn::Sub"][1].a`, "must be a string or a function, is a number"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := template.Parse([]byte(configured(tc.value)))
			var got []string
			if all, ok := errors.AsType[template.SyntaxErrors](err); ok {
				for _, e := range all {
					got = append(got, e.Path+": "+e.Reason)
				}
			}
			// "Join of two" and the like have one fault and no consequences.
			if diff := cmp.Diff([]string{"$.DeviceConfiguration.v" + tc.path + ": " + tc.reason}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// things, certificates and policies have the documented properties only, and
// there is no Fn::Join inside policies.
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
		"not an object":              {`"r": 1`, "$.Resources.r: must be an object, is a number"},
		"no type":                    {`"r": {"Properties": {}}`, "$.Resources.r: a resource needs Type and Properties"},
		"unknown type":               {`"r": {"Type": "AWS::IoT::TopicRule", "Properties": {}}`, `$.Resources.r.Type: "AWS::IoT::TopicRule" is not a resource type; they are AWS::IoT::Thing, AWS::IoT::Certificate and AWS::IoT::Policy`},
		"unknown key":                {`"r": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "P"}, "DependsOn": "x"}`, "$.Resources.r.DependsOn: not known here; known are Type, Properties, OverrideSettings"},
		"no thing name":              {in(thing, `{}`), "" + properties + ": a thing needs a ThingName"},
		"bad thing name":             {in(thing, `{"ThingName": "a b"}`), "" + properties + `.ThingName: thing name "a b" must have 1 to 128 characters of a-z A-Z 0-9 : _ -`},
		"unknown property":           {in(thing, `{"ThingName": "t", "Name": "n"}`), "" + properties + ".Name: not known here; known are ThingName, AttributePayload, ThingTypeName, ThingGroups, BillingGroup, PackageVersions"},
		"too many attributes":        {in(thing, four), "" + properties + ".AttributePayload: has 4 attributes, a thing without a type may have 3"},
		"enough with a type":         {in(thing, strings.Replace(four, "{", `{"ThingTypeName": "t", `, 1)), ""},
		"attribute name":             {in(thing, `{"ThingName": "t", "AttributePayload": {"a b": ""}}`), "" + properties + `.AttributePayload["a b"]: attribute name "a b" must have 1 to 128 characters of a-z A-Z 0-9 _ . , @ / : # -`},
		"attribute value":            {in(thing, `{"ThingName": "t", "AttributePayload": {"a": "b c"}}`), "" + properties + `.AttributePayload.a: attribute value "b c" must have at most 800 characters of a-z A-Z 0-9 _ . , @ / : # = [ ] -`},
		"attributes of the registry": {in(thing, `{"ThingName": "t", "AttributePayload": {"attributes": {"a": "b"}}}`), "" + properties + ".AttributePayload.attributes: AttributePayload holds the attributes themselves here"},
		"groups as a string":         {in(thing, `{"ThingName": "t", "ThingGroups": "g"}`), "" + properties + ".ThingGroups: must be a list or Fn::Split, is a string"},
		"bad group":                  {in(thing, `{"ThingName": "t", "ThingGroups": ["a b"]}`), "" + properties + `.ThingGroups: thing group name "a b" must have 1 to 128 characters of a-z A-Z 0-9 : _ -`},
		"two things":                 {in(thing, `{"ThingName": "t"}`) + ",\n" + strings.Replace(in(thing, `{"ThingName": "t"}`), "r", "s", 1), "$.Resources.s.Type: the template has a thing already"},
		"unknown setting":            {in(thing, `{"ThingName": "t"}, "OverrideSettings": {"BillingGroup": "FAIL"}`), "" + settings + ".BillingGroup: not known here; known are AttributePayload, ThingTypeName, ThingGroups, ATTRIBUTE_PAYLOAD, THING_TYPE_NAME, THING_GROUPS"},
		"merging a type":             {in(thing, `{"ThingName": "t"}, "OverrideSettings": {"ThingTypeName": "MERGE"}`), "" + settings + `.ThingTypeName: ThingTypeName "MERGE" is not one of DO_NOTHING, REPLACE, FAIL`},
		"a setting twice":            {in(thing, `{"ThingName": "t"}, "OverrideSettings": {"ThingGroups": "FAIL", "THING_GROUPS": "FAIL"}`), "" + settings + ".THING_GROUPS: the same setting as ThingGroups"},
		"no certificate id":          {in(certificate, `{}`), "" + properties + `: a certificate needs CertificateId, {"Ref": "AWS::IoT::Certificate::Id"}`},
		"a CSR":                      {in(certificate, `{"CertificateSigningRequest": "x"}`), "" + properties + `.CertificateSigningRequest: fleet provisioning allows only CertificateId, {"Ref": "AWS::IoT::Certificate::Id"}`},
		"bad status":                 {in(certificate, `{"CertificateId": "x", "Status": "PENDING"}`), "" + properties + `.Status: Status "PENDING" is not one of ACTIVE, INACTIVE`},
		"merging a status":           {in(certificate, `{"CertificateId": "x"}, "OverrideSettings": {"Status": "MERGE"}`), "" + settings + `.Status: Status "MERGE" is not one of DO_NOTHING, REPLACE, FAIL`},
		"two certificates":           {in(certificate, `{"CertificateId": "x"}`) + ",\n" + strings.Replace(in(certificate, `{"CertificateId": "x"}`), "r", "s", 1), "$.Resources.s.Type: the template has a certificate already"},
		"an empty policy":            {in(policy, `{}`), "" + properties + ": a policy needs exactly one of PolicyName and PolicyDocument"},
		"both of a policy":           {in(policy, `{"PolicyName": "P", "PolicyDocument": {}}`), "" + properties + ": a policy needs exactly one of PolicyName and PolicyDocument"},
		"settings of a policy":       {in(policy, `{"PolicyName": "P"}, "OverrideSettings": {}`), "" + settings + ": a policy has no OverrideSettings"},
		"Join in a name":             {in(policy, `{"PolicyName": {"Fn::Join": ["", ["a"]]}}`), "" + properties + `.PolicyName["Fn::Join"]: Fn::Join is not supported inside Policy resources; use Fn::Sub`},
		"Join in a document":         {in(policy, `{"PolicyDocument": {"a": [{"Fn::Join": ["", ["a"]]}]}}`), "" + properties + `.PolicyDocument.a[0]["Fn::Join"]: Fn::Join is not supported inside Policy resources; use Fn::Sub`},
		"a broken document":          {in(policy, `{"PolicyDocument": "{"}`), "" + properties + `.PolicyDocument: the policy document is not JSON: unexpected end of JSON input`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := template.Parse([]byte(resourced(tc.resource)))
			all, _ := errors.AsType[template.SyntaxErrors](err)
			var got []string
			for _, e := range all {
				got = append(got, e.Path+": "+e.Reason)
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
		`line 2, column 32: $.Parameters.a.Type: the only Type is "String"`,
		`line 2, column 48: $.Parameters.b: has no Type; the only one is "String"`,
		`line 2, column 101: $.Parameters.c.Default: must be a string, is a number`,
		`line 2, column 110: $.Parameters.d: must be an object, is an array`,
		`line 3, column 33: $.Mappings.M.k.v: no functions are allowed inside Mappings`,
		`line 3, column 64: $.Mappings.N: must be an object, is a number`,
		`line 3, column 78: $.Mappings.O.k: must be an object, is a number`,
		`line 3, column 99: $.Mappings.P.k.v: must be a string, is a number`,
		`line 4, column 64: $.Resources.t.Properties: must be an object, is an array`,
		`line 5, column 33: $.DeviceConfiguration.x["Fn::Nope"]: Fn::Nope is not a function of provisioning templates; they are Ref, Fn::Join, Fn::Select, Fn::Split, Fn::FindInMap and Fn::Sub`,
		`line 5, column 54: $.DeviceConfiguration.y: must be a string or a function; nested objects are not allowed`,
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
			all, ok := errors.AsType[template.SyntaxErrors](err)
			if !ok || len(all) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			for _, e := range all {
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
