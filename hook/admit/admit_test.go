package admit_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/payload"
)

// request is a request whose parameters are the given JSON object.
func request(t testing.TB, parameters string) payload.Request {
	t.Helper()
	var p payload.Parameters
	if err := json.Unmarshal([]byte(parameters), &p); err != nil {
		t.Fatalf("the test's own parameters: %v", err)
	}
	return payload.Request{Parameters: p}
}

func withSerial(t testing.TB, serial string) payload.Request {
	t.Helper()
	return payload.Request{Parameters: payload.ParametersOf(map[string]string{payload.SerialNumber: serial})}
}

func TestSerialNumbers(t *testing.T) {
	longest := payload.SerialPrefix + strings.Repeat("x", payload.MaxSerialLength-len(payload.SerialPrefix))
	tests := map[string]struct {
		serial string
		want   admit.Reason
	}{
		"of the fleet":             {"2974685", admit.Admitted},
		"the prefix alone":         {"297468", admit.Admitted},
		"every kind of character":  {"297468:aZ_-09", admit.Admitted},
		"longest":                  {longest, admit.Admitted},
		"one byte too long":        {longest + "x", admit.SerialTooLong},
		"empty":                    {"", admit.SerialEmpty},
		"of another fleet":         {"1234567", admit.SerialOtherPrefix},
		"shorter than the prefix":  {"29746", admit.SerialOtherPrefix},
		"prefix not at the start":  {"1297468", admit.SerialOtherPrefix},
		"space before":             {" 2974685", admit.SerialCharacters},
		"newline after":            {"2974685\n", admit.SerialCharacters},
		"NUL":                      {"297468\x005", admit.SerialCharacters},
		"slash":                    {"297468/5", admit.SerialCharacters},
		"MQTT wildcard":            {"297468#", admit.SerialCharacters},
		"policy wildcard":          {"297468*", admit.SerialCharacters},
		"policy variable":          {"297468${iot:ClientId}", admit.SerialCharacters},
		"digits of another script": {"297468٥", admit.SerialCharacters},
		"not UTF-8":                {"297468\xff", admit.SerialCharacters},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want := admit.Verdict{Admitted: test.want == admit.Admitted, Reason: test.want}
			if got := (admit.Rules{}).EvaluateRequest(withSerial(t, test.serial)); got != want {
				t.Errorf("EvaluateRequest(%q) = %+v, want %+v", test.serial, got, want)
			}
		})
	}
}

func TestParameters(t *testing.T) {
	tests := map[string]struct {
		parameters string
		want       admit.Reason
	}{
		"none at all":            {`null`, admit.SerialMissing},
		"no serial number":       {`{"deviceLocation":"USA"}`, admit.SerialMissing},
		"name in another case":   {`{"SerialNumber":"2974685"}`, admit.SerialMissing},
		"null":                   {`{"serialNumber":null}`, admit.SerialNotString},
		"number":                 {`{"serialNumber":2974685}`, admit.SerialNotString},
		"list":                   {`{"serialNumber":["2974685"]}`, admit.SerialNotString},
		"object":                 {`{"serialNumber":{"Ref":"2974685"}}`, admit.SerialNotString},
		"true":                   {`{"serialNumber":true}`, admit.SerialNotString},
		"other parameters too":   {`{"serialNumber":"2974685","deviceLocation":"Mars","author":""}`, admit.Admitted},
		"location a number":      {`{"serialNumber":"2974685","deviceLocation":7}`, admit.ParameterNotString},
		"author null":            {`{"serialNumber":"2974685","author":null}`, admit.ParameterNotString},
		"unknown one a list":     {`{"serialNumber":"2974685","x":[]}`, admit.ParameterNotString},
		"given twice, last wins": {`{"serialNumber":"2974685","serialNumber":"1"}`, admit.SerialOtherPrefix},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := (admit.Rules{}).EvaluateRequest(request(t, test.parameters)).Reason; got != test.want {
				t.Errorf("EvaluateRequest(%s): %q, want %q", test.parameters, got, test.want)
			}
		})
	}
}

func TestSerialPrefixCanBeAnother(t *testing.T) {
	rules := admit.Rules{SerialPrefix: "ACME-"}
	for serial, want := range map[string]admit.Reason{
		"ACME-1":  admit.Admitted,
		"2974685": admit.SerialOtherPrefix,
	} {
		if got := rules.EvaluateRequest(withSerial(t, serial)).Reason; got != want {
			t.Errorf("EvaluateRequest(%q) = %q, want %q", serial, got, want)
		}
	}
}

func TestThingNameBeginsWithThePrefix(t *testing.T) {
	for prefix, want := range map[string]string{"": "fleety_1", "acme-": "acme-1"} {
		if got := (admit.Rules{ThingPrefix: prefix}).ThingName("1"); got != want {
			t.Errorf("prefix %q: thing %s, want %s", prefix, got, want)
		}
	}
}

// A location that the template does not have fails the registration after the hook has admitted it:
// it must not get so far.
func TestLocationsAreThoseOfTheTemplate(t *testing.T) {
	rules := admit.Rules{Locations: []string{"Berlin", "USA"}}
	for parameters, want := range map[string]admit.Reason{
		`{"serialNumber":"2974685","deviceLocation":"USA"}`:  admit.Admitted,
		`{"serialNumber":"2974685","deviceLocation":"Mars"}`: admit.LocationUnknown,
		`{"serialNumber":"2974685","deviceLocation":"usa"}`:  admit.LocationUnknown,
		`{"serialNumber":"2974685","deviceLocation":""}`:     admit.LocationUnknown,
		`{"serialNumber":"2974685"}`:                         admit.LocationUnknown,
		`{"serialNumber":"1","deviceLocation":"USA"}`:        admit.SerialOtherPrefix,
	} {
		if got := rules.EvaluateRequest(request(t, parameters)).Reason; got != want {
			t.Errorf("%s: %q, want %q", parameters, got, want)
		}
	}
}

// FuzzEvaluateRequest compares the rules with the same rules written as a regular expression, for
// whatever a device may send as its serial number.
func FuzzEvaluateRequest(f *testing.F) {
	for _, seed := range []string{`"2974685"`, `"1234567"`, `""`, `"297468\u0000"`, `null`, `7`, `{`, `"297468` + strings.Repeat("9", 58) + `"`} {
		f.Add([]byte(seed))
	}
	admissible := regexp.MustCompile(`\A297468[a-zA-Z0-9:_-]{0,58}\z`)
	f.Fuzz(func(t *testing.T, raw []byte) {
		got := (admit.Rules{}).EvaluateRequest(payload.Request{Parameters: payload.Parameters{payload.SerialNumber: raw}})

		var decoded any
		_ = json.Unmarshal(raw, &decoded)
		serial, isString := decoded.(string)
		if want := isString && admissible.MatchString(serial); got.Admitted != want {
			t.Errorf("EvaluateRequest(%q) = %+v, want admitted: %t", raw, got, want)
		}
		if got.Admitted != (got.Reason == admit.Admitted) {
			t.Errorf("EvaluateRequest(%q) = %+v contradicts itself", raw, got)
		}
	})
}
