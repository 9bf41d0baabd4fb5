package assembly

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// resolveText resolves the value of one property in a template that has what functions can refer
// to.
func resolveText(t *testing.T, value string) (any, error) {
	t.Helper()
	s, err := open(app([]byte(strings.ReplaceAll(`{
		"Parameters": {
			"Colour": {"Type": "String", "Default": "red"},
			"Count": {"Type": "Number", "Default": 3},
			"Colours": {"Type": "CommaDelimitedList", "Default": "red, blue"},
			"Open": {"Type": "String"}
		},
		"Resources": {
			"Probe": {"Type": "Probe", "Properties": {"Value": VALUE}},
			"Type": {"Type": "AWS::IoT::ThingType", "Properties": {"ThingTypeName": {"Fn::Sub": "${Colour}-type"}}},
			"Unnamed": {"Type": "AWS::IoT::ThingType", "Properties": {}},
			"Sometimes": {"Type": "AWS::IoT::ThingType", "Condition": "No"},
			"Self": {"Type": "AWS::IoT::ThingType", "Properties": {"ThingTypeName": {"Ref": "Self"}}},
			"Role": {"Type": "AWS::IAM::Role"},
			"Bucket": {"Type": "AWS::S3::Bucket"}
		}}`, "VALUE", value))), "out", "")
	if err != nil {
		t.Fatal(err)
	}
	r := &resolver{stack: s, env: us, names: map[string]string{}, open: map[string]bool{}}
	var v any
	err = r.try(func() { v = r.value(place("Probe").field("Value"), s.template.Resources["Probe"].Properties["Value"]) })
	return v, err
}

func TestFunctionsGiveWhatCloudFormationGives(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		value string
		want  any
	}{
		"plain":              {`{"a": [1, true, null, "x"]}`, map[string]any{"a": []any{json.Number("1"), true, nil, "x"}}},
		"pseudo parameters":  {`[{"Ref": "AWS::Partition"}, {"Ref": "AWS::AccountId"}, {"Ref": "AWS::URLSuffix"}, {"Ref": "AWS::StackName"}]`, []any{"aws", "123456789012", "amazonaws.com", "Fleet"}},
		"parameter":          {`{"Ref": "Colour"}`, "red"},
		"number parameter":   {`{"Ref": "Count"}`, "3"},
		"name of a resource": {`{"Ref": "Type"}`, "red-type"},
		"name by default":    {`{"Ref": "Unnamed"}`, "Fleet-Unnamed"},
		"attribute":          {`{"Fn::GetAtt": ["Type", "Arn"]}`, "arn:aws:iot:us-east-1:123456789012:thingtype/red-type"},
		"attribute as text":  {`{"Fn::GetAtt": "Role.Arn"}`, "arn:aws:iam::123456789012:role/Fleet-Role"},
		"join":               {`{"Fn::Join": ["-", ["a", {"Ref": "Colour"}, 1, true]]}`, "a-red-1-true"},
		"join of a list":     {`{"Fn::Join": ["+", {"Fn::Split": [":", "red:blue"]}]}`, "red+blue"},
		"sub":                {`{"Fn::Sub": "${AWS::Region}/${Type.Arn}/${!iot:ClientId}"}`, "us-east-1/arn:aws:iot:us-east-1:123456789012:thingtype/red-type/${iot:ClientId}"},
		"sub with variables": {`{"Fn::Sub": ["${x}-${Colour}", {"x": {"Ref": "Count"}}]}`, "3-red"},
		"policy variable":    {`"client/${iot:Connection.Thing.ThingName}"`, "client/${iot:Connection.Thing.ThingName}"},
		"select":             {`{"Fn::Select": ["1", ["red", {"Ref": "Colour"}]]}`, "red"},
		"split":              {`{"Fn::Split": [":", "a:b"]}`, []any{"a", "b"}},
		"select of split":    {`{"Fn::Select": [5, {"Fn::Split": [":", {"Fn::GetAtt": ["Type", "Arn"]}]}]}`, "thingtype/red-type"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := resolveText(t, test.value)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatCannotBeResolvedIsNamedWithItsPlace(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ value, want string }{
		"another stack's":        {`{"a": [0, {"Fn::ImportValue": "x"}]}`, "Probe.Value.a[1].Fn::ImportValue: the function Fn::ImportValue cannot be resolved without AWS"},
		"unknown name":           {`{"Ref": "Nobody"}`, `Probe.Value.Ref: the stack has no resource or parameter "Nobody"`},
		"name of unknown kind":   {`{"Ref": "Bucket"}`, "what Ref gives for Bucket, of type AWS::S3::Bucket, is not known here"},
		"attribute unknown":      {`{"Fn::GetAtt": ["Type", "Id"]}`, `attribute "Id" of Type, of type AWS::IoT::ThingType, is not known before it is deployed`},
		"parameter without":      {`{"Ref": "Open"}`, "parameter Open has no default"},
		"list parameter":         {`{"Ref": "Colours"}`, "parameter Colours is a list"},
		"resource by condition":  {`{"Ref": "Sometimes"}`, "Sometimes.Condition: whether condition No holds cannot be resolved without AWS"},
		"name of itself":         {`{"Ref": "Self"}`, "Self.Properties.ThingTypeName.Ref: the name of Self refers to itself"},
		"text from an object":    {`{"Fn::Join": ["", [{"a": 1}]]}`, "Probe.Value.Fn::Join[1][0]: must be text"},
		"too few arguments":      {`{"Fn::Join": [""]}`, "must be a list of 2"},
		"item that is not there": {`{"Fn::Select": ["7", ["a"]]}`, `there is no item "7" in a list of 1`},
		"condition":              {`{"Fn::If": ["Yes", 1, 2]}`, "the function Fn::If cannot be resolved without AWS"},
		"function and more":      {`{"Fn::Sub": "x", "b": 1}`, "Probe.Value: Fn::Sub stands beside other keys"},
		"open variable":          {`{"Fn::Sub": "${a"}`, "a ${ has no }"},
		"dynamic reference":      {`{"a": ["{{resolve:ssm:/name:1}}"]}`, `Probe.Value.a[0]: the dynamic reference in "{{resolve:ssm:/name:1}}" cannot be resolved without AWS`},
		"made by a function":     {`{"Fn::Join": ["", ["{{resol", "ve:ssm:x}}"]]}`, `the dynamic reference in "{{resolve:ssm:x}}"`},
		"unescaped variable":     {`{"Fn::Sub": "${iot:ClientId}"}`, `no resource or parameter "iot:ClientId"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := resolveText(t, test.value)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestTextsThatGrowWithoutEndAreRejected(t *testing.T) {
	t.Parallel()
	value := `"0123456789"`
	for range 40 {
		value = `{"Fn::Sub": ["${a}${a}", {"a": ` + value + `}]}`
	}
	if _, err := resolveText(t, value); err == nil || !strings.Contains(err.Error(), "gives a text of more than 1048576 bytes") {
		t.Errorf("error %v", err)
	}
}

// Not parallel: it measures what is allocated.
func TestLongJoinsAreRejectedBeforeTheyAreMade(t *testing.T) {
	value := `{"Fn::Join": ["` + strings.Repeat("s", 20_000) + `", {"Fn::Split": [",", "` + strings.Repeat(",", 20_000) + `"]}]}`
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := resolveText(t, value)
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("a text of 400 MB")
	}
	if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 64 {
		t.Errorf("allocated %d MB", n)
	}
}

func FuzzResolve(f *testing.F) {
	data, err := goldenFile()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	for _, seed := range []string{
		`{"Resources": {"P": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Fn::Sub": "${P}${P}"}}}}}`,
		`{"Conditions": {"A": {}}, "Resources": {"T": {"Type": "AWS::IoT::ThingType", "Condition": "A"}}}`,
		`{"Resources": {"T": {"Type": "AWS::IoT::ThingType", "Properties": {"ThingTypeName": {"Fn::Select": [0, {"Fn::Split": ["/", {"Fn::GetAtt": "T.Arn"}]}]}}}}}`,
		`{"Resources": {"T": {"Type": "AWS::IoT::ProvisioningTemplate", "Properties": {"PreProvisioningHook": {"TargetArn": {"Fn::GetAtt": ["F", "Arn"]}}}}, "F": {"Type": "AWS::Lambda::Function"}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, template []byte) {
		s, err := open(app(template), "out", "")
		if err != nil {
			return
		}
		if all, err := s.Resolve(us); (all == nil) == (err == nil) {
			t.Errorf("resources %v with error %v", all, err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	files := app([]byte("{}"))
	f.Add(files["manifest.json"].Data, files["Fleet.assets.json"].Data)
	f.Add([]byte(`{"artifacts": {"": {"type": "aws:cloudformation:stack"}}}`), []byte("{}"))
	f.Fuzz(func(t *testing.T, manifest, assets []byte) {
		files := fstest.MapFS{"manifest.json": {Data: manifest}, "Fleet.assets.json": {Data: assets}, "Fleet.template.json": {Data: []byte("{}")}}
		if s, err := open(files, "out", ""); (s == nil) == (err == nil) {
			t.Errorf("stack %v with error %v", s, err)
		}
	})
}
