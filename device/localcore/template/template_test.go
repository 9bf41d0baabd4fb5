package template_test

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"example.com/fleety/device/localcore/template"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const certificateID = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90"

func shipped(t testing.TB) []byte {
	t.Helper()
	body, err := os.ReadFile("../../../templates/fleet_template.json")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(body, []byte("${ThingPrefix}"), []byte("fleety_"))
}

func parse(t testing.TB, body string) *template.Template {
	t.Helper()
	parsed, err := template.Parse([]byte(body))
	if err != nil {
		t.Fatalf("parsing %s:\n%v", body, err)
	}
	return parsed
}

func TestShippedTemplate(t *testing.T) {
	plan, err := parse(t, string(shipped(t))).Resolve(template.Input{
		Parameters:    map[string]string{"serialNumber": "2974685", "deviceLocation": "USA"},
		CertificateID: certificateID,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &template.Plan{
		Thing: &template.Thing{
			LogicalName: "thing",
			Name:        "fleety_2974685", Type: "fleety", Groups: []string{"fleet-provisioning-group"},
			Attributes: map[string]string{"version": "v1", "serialNumber": "2974685"},
			Override: template.ThingOverride{
				AttributePayload: template.Replace, ThingTypeName: template.Replace, ThingGroups: template.Merge,
			},
		},
		Certificate: &template.Certificate{LogicalName: "certificate", ID: certificateID, Status: "ACTIVE", StatusOverride: template.Replace},
		Policies:    []template.Policy{{LogicalName: "policy", Name: "GoIoTDevicePolicy"}, {LogicalName: "rotationPolicy", Name: "GoIoTRotationPolicy"}},
		DeviceConfiguration: map[string]string{
			"FallbackUrl": "https://www.example.com/test-site", "LocationUrl": "https://ameri.ca",
		},
	}
	if diff := cmp.Diff(want, plan); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownLocationNamesMapAndKeys(t *testing.T) {
	_, err := parse(t, string(shipped(t))).Resolve(template.Input{
		Parameters: map[string]string{"serialNumber": "2974685", "deviceLocation": "Mars"}, CertificateID: certificateID,
	})
	e, ok := errors.AsType[*template.Error](err)
	if !ok || e.Code != "InvalidParameters" {
		t.Fatalf("got %v, want InvalidParameters", err)
	}
	for _, name := range []string{"LocationTable", "Mars", "Berlin", "Seattle", "USA"} {
		if !strings.Contains(e.Message, strconv.Quote(name)) {
			t.Errorf("the message does not name %s: %s", name, e.Message)
		}
	}
}

// Not parallel: it measures what is allocated.
func TestLongJoinsAreRejectedBeforeTheyAreMade(t *testing.T) {
	long := parse(t, configured(`{"Fn::Join": ["`+strings.Repeat("s", 9_000)+`", {"Fn::Split": [",", {"Fn::Sub": "${p}${p}${p}${p}"}]}]}`))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := long.Resolve(template.Input{Parameters: map[string]string{"p": strings.Repeat(",", template.MaxParameterValue)}, CertificateID: certificateID})
	runtime.ReadMemStats(&after)
	if _, ok := errors.AsType[*template.Error](err); !ok {
		t.Errorf("got %v, want a rejection", err)
	}
	if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 16 {
		t.Errorf("allocated %d MB", n)
	}
}

// configured is a template whose device configuration has one value.
func configured(value string) string {
	return `{"Parameters": {"p": {"Type": "String"}, "d": {"Type": "String", "Default": "fallback"}},
"Mappings": {"M": {"a": {"x": "ax", "y": "ay"}, "b": {"x": "bx"}}},
"Resources": {"policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "P"}}},
"DeviceConfiguration": {"v": ` + value + `}}`
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// Ref, Fn::Join, Fn::Select, Fn::Split, Fn::FindInMap and Fn::Sub resolve as in CloudFormation.
func TestFunctions(t *testing.T) {
	for name, tc := range map[string]struct{ value, want string }{
		"constant":              {`"c"`, "c"},
		"Ref":                   {`{"Ref": "p"}`, "one,two"},
		"default":               {`{"Ref": "d"}`, "fallback"},
		"undeclared":            {`{"Ref": "u"}`, "extra"},
		"implicit":              {`{"Ref": "AWS::IoT::Certificate::Id"}`, certificateID},
		"Join":                  {`{"Fn::Join": ["-", ["a", {"Ref": "d"}, "c"]]}`, "a-fallback-c"},
		"Join of nothing":       {`{"Fn::Join": ["-", []]}`, ""},
		"Join of Split":         {`{"Fn::Join": ["", {"Fn::Split": [",", {"Ref": "p"}]}]}`, "onetwo"},
		"Select":                {`{"Fn::Select": [1, ["a", "b"]]}`, "b"},
		"Select, index in text": {`{"Fn::Select": ["0", ["a", "b"]]}`, "a"},
		"Select of Split":       {`{"Fn::Select": ["1", {"Fn::Split": [",", {"Ref": "p"}]}]}`, "two"},
		"FindInMap":             {`{"Fn::FindInMap": ["M", "a", "y"]}`, "ay"},
		"FindInMap, all keys":   {`{"Fn::FindInMap": [{"Ref": "m"}, {"Fn::Sub": "${b}"}, {"Fn::Select": [0, ["x"]]}]}`, "bx"},
		"Sub":                   {`{"Fn::Sub": "<${d}|${u}>"}`, "<fallback|extra>"},
		"Sub without variables": {`{"Fn::Sub": "a$b{c}"}`, "a$b{c}"},
		"Sub, quoted":           {`{"Fn::Sub": "${!d}${d}"}`, "${d}fallback"},
		"Sub with a map":        {`{"Fn::Sub": ["${own}${d}${b}", {"own": {"Ref": "u"}, "d": "hidden"}]}`, "extrahiddenb"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := parse(t, configured(tc.value)).Resolve(template.Input{
				Parameters:    map[string]string{"p": "one,two", "u": "extra", "m": "M", "b": "b"},
				CertificateID: certificateID,
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := plan.DeviceConfiguration["v"]; got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if diff := cmp.Diff([]string{"b", "m", "u"}, plan.Undeclared); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// a reference that does not resolve is a provisioning error.
func TestRejectionsHaveCodeAndMessage(t *testing.T) {
	const invalid = "InvalidParameters"
	for name, tc := range map[string]struct{ value, code, message string }{ // messages that AWS sends
		"no value":           {`{"Ref": "p"}`, invalid, "Cannot resolve reference value: p"},
		"no pseudo":          {`{"Ref": "AWS::Region"}`, invalid, "Cannot resolve reference value: AWS::Region"},
		"no pseudo in Sub":   {`{"Fn::Sub": "${AWS::AccountId}"}`, invalid, "Cannot resolve reference value: AWS::AccountId"},
		"not of JITP":        {`{"Ref": "AWS::IoT::Certificate::CommonName"}`, invalid, "Cannot resolve reference value: AWS::IoT::Certificate::CommonName"},
		"no such map":        {`{"Fn::FindInMap": [{"Ref": "k"}, "a", "x"]}`, invalid, ""},
		"no such key":        {`{"Fn::FindInMap": ["M", {"Ref": "long"}, "x"]}`, invalid, ""},
		"no such inner key":  {`{"Fn::FindInMap": ["M", {"Ref": "k"}, "y"]}`, invalid, ""},
		"index too great":    {`{"Fn::Select": ["2", {"Fn::Split": [",", {"Ref": "list"}]}]}`, invalid, ""},
		"index negative":     {`{"Fn::Select": [{"Ref": "negative"}, ["a"]]}`, invalid, ""},
		"index not a number": {`{"Fn::Select": [{"Ref": "k"}, ["a"]]}`, invalid, ""},
		"too much":           {`{"Fn::Sub": ["` + strings.Repeat("${v}", 200) + `", {"v": {"Ref": "bulk"}}]}`, "InvalidRequest", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t, configured(tc.value)).Resolve(template.Input{Parameters: map[string]string{
				"k": "b", "long": "not there", "list": "a,b", "negative": "-1", "bulk": strings.Repeat("x", 4096),
			}})
			e, ok := errors.AsType[*template.Error](err)
			if !ok || e.Code != tc.code || e.Message == "" || tc.message != "" && e.Message != tc.message {
				t.Errorf("got %v, want %s (400) %s", err, tc.code, tc.message)
			}
		})
	}
}

func TestNestedSubstitutionsCostNoMoreThanTheyHold(t *testing.T) {
	value := `""`
	for range 20 {
		value = `{"Fn::Sub": ["` + strings.Repeat("${v}", 100) + `", {"v": ` + value + `}]}`
	}
	plan, err := parse(t, configured(value)).Resolve(template.Input{})
	if err != nil {
		t.Fatal(err)
	}
	if got := plan.DeviceConfiguration["v"]; got != "" {
		t.Errorf("got %q", got)
	}
}

// resourced is a template of these resources, in a line of their own.
func resourced(resources string) string {
	return "{\"Resources\": {\n" + resources + "\n}}"
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// AWS::IoT::Certificate::Id has its value from AWS IoT, whatever the device sends.
func TestImplicitCertificateIDWins(t *testing.T) {
	const ref = `"c": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}}`
	declared := `{"Parameters": {"AWS::IoT::Certificate::Id": {"Type": "String", "Default": "default"}}, "Resources": {` + ref + `}}`
	sent := map[string]string{template.ImplicitCertificateID: "sent"}
	for name, tc := range map[string]struct {
		body string
		in   template.Input
		want string
	}{
		"not declared":        {resourced(ref), template.Input{CertificateID: "own"}, "own"},
		"declared":            {declared, template.Input{CertificateID: "own"}, "own"},
		"sent":                {resourced(ref), template.Input{CertificateID: "own", Parameters: sent}, "own"},
		"declared and sent":   {declared, template.Input{CertificateID: "own", Parameters: sent}, "own"},
		"sent alone":          {resourced(ref), template.Input{Parameters: sent}, "sent"},
		"nothing but default": {declared, template.Input{}, "default"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := parse(t, tc.body).Resolve(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			want := &template.Certificate{LogicalName: "c", ID: tc.want, Status: "ACTIVE"}
			if diff := cmp.Diff(want, plan.Certificate); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html:
// a template makes a thing, a certificate and policies, each with its override settings.
func TestResources(t *testing.T) {
	for name, tc := range map[string]struct {
		resources string
		want      template.Plan
	}{
		"a thing with everything": {
			`"t": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "n"}, "ThingTypeName": {"Ref": "n"},
"ThingGroups": ["g", {"Ref": "n"}], "BillingGroup": "b", "AttributePayload": {"a": "1", "b": {"Ref": "n"}}, "PackageVersions": {"p": "1"}}}`,
			template.Plan{Thing: &template.Thing{LogicalName: "t", Name: "name", Type: "name", Groups: []string{"g", "name"}, BillingGroup: "b",
				Attributes: map[string]string{"a": "1", "b": "name"}}},
		},
		"groups from one parameter": {
			`"t": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": "t", "ThingGroups": {"Fn::Split": [",", {"Ref": "list"}]}}}`,
			template.Plan{Thing: &template.Thing{LogicalName: "t", Name: "t", Groups: []string{"x", "y"}}},
		},
		"neither attributes nor groups, explicitly": {
			`"t": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": "t", "AttributePayload": {}, "ThingGroups": []}}`,
			template.Plan{Thing: &template.Thing{LogicalName: "t", Name: "t", Attributes: map[string]string{}, Groups: []string{}}},
		},
		"settings in capitals": {
			`"t": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": "t"}, "OverrideSettings":
{"ATTRIBUTE_PAYLOAD": "merge", "THING_TYPE_NAME": "DO_NOTHING", "THING_GROUPS": "FAIL"}}`,
			template.Plan{Thing: &template.Thing{LogicalName: "t", Name: "t", Override: template.ThingOverride{
				AttributePayload: template.Merge, ThingTypeName: template.DoNothing, ThingGroups: template.Fail}}},
		},
		"a certificate in mixed case": {
			`"c": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": "id", "Status": "Inactive",
"ThingPrincipalType": "Exclusive_Thing"}, "OverrideSettings": {"STATUS": "Replace"}}`,
			template.Plan{Certificate: &template.Certificate{LogicalName: "c", ID: "id", Status: "INACTIVE", Exclusive: true, StatusOverride: template.Replace}},
		},
		"several policies": {
			`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "P"}},
"q": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": {"Fn::Sub": "Q-${n}"}}}`,
			template.Plan{Policies: []template.Policy{{LogicalName: "p", Name: "P"}, {LogicalName: "q", Name: "Q-name"}}},
		},
		"a document as an object": {
			`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": { "Version": "2012-10-17", "Statement":
[ {"Effect": "Allow", "Action": ["iot:<&>"], "Resource": "${iot:ClientId}"} ] }}}`,
			template.Plan{Policies: []template.Policy{{
				LogicalName: "p",
				Document:    []byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iot:<&>"],"Resource":"${iot:ClientId}"}]}`),
			}}},
		},
		"a document with functions": {
			`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"n": 1.50, "b": [true, null],
"s": {"Fn::Sub": "topic/${n}/\"${!iot:ClientId}\""}, "l": {"Fn::Split": [",", {"Ref": "list"}]}}}}`,
			template.Plan{Policies: []template.Policy{{
				LogicalName: "p",
				Document:    []byte(`{"n":1.50,"b":[true,null],"s":"topic/name/\"${iot:ClientId}\"","l":["x","y"]}`),
			}}},
		},
		"a document as a string": {
			`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": " { \"Statement\": [ ] } "}}`,
			template.Plan{Policies: []template.Policy{{LogicalName: "p", Document: []byte(`{"Statement":[]}`)}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(t, resourced(tc.resources)).Resolve(template.Input{Parameters: map[string]string{"n": "name", "list": "x,y"}})
			if err != nil {
				t.Fatal(err)
			}
			ignore := cmpopts.IgnoreFields(template.Plan{}, "Undeclared", "DeviceConfiguration")
			for i := range got.Policies {
				if got.Policies[i].Document != nil {
					got.Policies[i].Name = "" // has a test of its own
				}
			}
			if diff := cmp.Diff(&tc.want, got, ignore); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/developerguide/single-thing-provisioning.html:
// the policy of a document is named by 40 hexadecimal digits in capitals.
func TestDocumentIsNamedByItsContent(t *testing.T) {
	name := func(document string) string {
		plan, err := parse(t, resourced(`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": `+document+`}}`)).Resolve(template.Input{})
		if err != nil {
			t.Fatal(err)
		}
		return plan.Policies[0].Name
	}
	object := name(`{"Statement": []}`)
	if object != name(`"{ \"Statement\":[] }"`) {
		t.Error("the same document as object and as string has two names")
	}
	if object == name(`{"Statement": [1]}`) {
		t.Error("two documents have one name")
	}
	// sha1 of {"Statement":[]}
	if want := "FBAE624A788642CB86E2755FE0FDCB7A79CBB01A"; object != want {
		t.Errorf("got %s, want %s", object, want)
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html:
// resolved names and values obey the registry's limits.
func TestResolvedValuesObeyTheRegistry(t *testing.T) {
	thing := func(properties string) string {
		return resourced(`"t": {"Type": "AWS::IoT::Thing", "Properties": {` + properties + `}}`)
	}
	for name, tc := range map[string]struct{ body, value, code string }{
		"thing name":          {thing(`"ThingName": {"Ref": "v"}`), "a b", "InvalidRequest"},
		"empty thing name":    {thing(`"ThingName": {"Ref": "v"}`), "", "InvalidRequest"},
		"type":                {thing(`"ThingName": "t", "ThingTypeName": {"Ref": "v"}`), "a/b", "InvalidRequest"},
		"group":               {thing(`"ThingName": "t", "ThingGroups": [{"Ref": "v"}]`), "ü", "InvalidRequest"},
		"groups":              {thing(`"ThingName": "t", "ThingGroups": {"Fn::Split": [",", {"Ref": "v"}]}`), "a,b,c,d,e,f,g,h,i,j,k", "InvalidRequest"},
		"billing group":       {thing(`"ThingName": "t", "BillingGroup": {"Ref": "v"}`), "+", "InvalidRequest"},
		"attribute":           {thing(`"ThingName": "t", "AttributePayload": {"a": {"Ref": "v"}}`), "+02:00", "InvalidRequest"},
		"long attribute":      {thing(`"ThingName": "t", "AttributePayload": {"a": {"Ref": "v"}}`), strings.Repeat("x", 801), "InvalidRequest"},
		"status":              {resourced(`"c": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": "c", "Status": {"Ref": "v"}}}`), "REVOKED", "InvalidRequest"},
		"policy name":         {resourced(`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": {"Ref": "v"}}}`), "a b", "InvalidRequest"},
		"document":            {resourced(`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Ref": "v"}}}`), "[]", "MalformedPolicy"},
		"broken document":     {resourced(`"p": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Ref": "v"}}}`), "{", "MalformedPolicy"},
		"another certificate": {resourced(`"c": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "v"}}}`), "other", "InvalidParameters"},
		"long value":          {thing(`"ThingName": "t"`), strings.Repeat("x", 4097), "InvalidParameters"},
	} {
		t.Run(name, func(t *testing.T) {
			in := template.Input{Parameters: map[string]string{"v": tc.value}}
			if name == "another certificate" {
				in.CertificateID = certificateID
			}
			_, err := parse(t, tc.body).Resolve(in)
			if e, ok := errors.AsType[*template.Error](err); !ok || e.Code != tc.code || e.Message == "" {
				t.Errorf("got %v, want %s (400)", err, tc.code)
			}
		})
	}
}

// https://docs.aws.amazon.com/iot/latest/apireference/API_RegisterThing.html: a
// parameter's name has 2048 characters at most.
func TestLongParameterName(t *testing.T) {
	_, err := parse(t, string(shipped(t))).Resolve(template.Input{Parameters: map[string]string{strings.Repeat("n", 2049): ""}})
	if e, ok := errors.AsType[*template.Error](err); !ok || e.Code != "InvalidParameters" {
		t.Errorf("got %v, want InvalidParameters", err)
	}
}

func BenchmarkResolve(b *testing.B) {
	parsed := parse(b, string(shipped(b)))
	in := template.Input{
		Parameters:    map[string]string{"serialNumber": "2974685", "deviceLocation": "USA", "author": "Wilford Brimley"},
		CertificateID: certificateID,
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parsed.Resolve(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	body := shipped(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := template.Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}
