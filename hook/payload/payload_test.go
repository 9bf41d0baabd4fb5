package payload_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/hook/payload"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// sameJSON compares two documents as values.
func sameJSON(t *testing.T, want, got []byte) {
	t.Helper()
	var w, g any
	if err := json.Unmarshal(want, &w); err != nil {
		t.Fatalf("wanted document: %v", err)
	}
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("document %s: %v", got, err)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("JSON differs (-want +got):\n%s", diff)
	}
}

// stringsOf returns what aws-lambda-go would hold for the same parameters.
func stringsOf(t *testing.T, p payload.Parameters) map[string]string {
	t.Helper()
	values := make(map[string]string, len(p))
	for name := range p {
		value, _, ok := p.String(name)
		if !ok {
			t.Fatalf("parameter %s is not a string", name)
		}
		values[name] = value
	}
	return values
}

func TestRequestReadsAsAWSLambdaGoReadsIt(t *testing.T) {
	data := fixture(t, "request.json")
	var ours payload.Request
	var theirs events.IoTPreProvisionHookRequest
	if err := json.Unmarshal(data, &ours); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &theirs); err != nil {
		t.Fatal(err)
	}
	got := events.IoTPreProvisionHookRequest{
		ClaimCertificateID: ours.ClaimCertificateID,
		CertificateID:      ours.CertificateID,
		CertificatePEM:     ours.CertificatePEM,
		TemplateARN:        ours.TemplateARN,
		ClientID:           ours.ClientID,
		Parameters:         stringsOf(t, ours.Parameters),
	}
	if diff := cmp.Diff(theirs, got); diff != "" {
		t.Errorf("request differs (-aws-lambda-go +payload):\n%s", diff)
	}

	written, err := json.Marshal(ours)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, data, written)
}

func TestResponseWritesAsAWSLambdaGoReadsIt(t *testing.T) {
	written, err := json.Marshal(payload.Response{
		AllowProvisioning:  true,
		ParameterOverrides: map[string]string{payload.DeviceLocation: "Seattle"},
	})
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, fixture(t, "response.json"), written)

	var theirs events.IoTPreProvisionHookResponse
	if err := json.Unmarshal(written, &theirs); err != nil {
		t.Fatal(err)
	}
	want := events.IoTPreProvisionHookResponse{
		AllowProvisioning:  true,
		ParameterOverrides: map[string]string{"deviceLocation": "Seattle"},
	}
	if diff := cmp.Diff(want, theirs); diff != "" {
		t.Errorf("response differs (-want +got):\n%s", diff)
	}
}

func TestResponseNeverHasNullOverrides(t *testing.T) {
	for _, allow := range []bool{true, false} {
		response := payload.Response{AllowProvisioning: allow}
		byValue, _ := json.Marshal(response)
		byPointer, _ := json.Marshal(&response)
		want, _ := json.Marshal(map[string]any{"allowProvisioning": allow, "parameterOverrides": struct{}{}})
		sameJSON(t, want, byValue)
		sameJSON(t, want, byPointer)
	}
}

func TestParametersKeepWhatIsNotAString(t *testing.T) {
	type result struct {
		Value       string
		Present, OK bool
	}
	tests := map[string]struct {
		parameters string
		want       result
	}{
		"string":          {`{"serialNumber":"2974685"}`, result{"2974685", true, true}},
		"empty string":    {`{"serialNumber":""}`, result{"", true, true}},
		"escaped":         {`{"serialNumber":"\u0032\n"}`, result{"2\n", true, true}},
		"missing":         {`{}`, result{}},
		"null":            {`{"serialNumber":null}`, result{"", true, false}},
		"number":          {`{"serialNumber":2974685}`, result{"", true, false}},
		"object":          {`{"serialNumber":{}}`, result{"", true, false}},
		"null parameters": {`null`, result{}},
		"list":            {`["serialNumber"]`, result{}},
		"text":            {`"serialNumber"`, result{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var request payload.Request
			if err := json.Unmarshal([]byte(`{"parameters":`+test.parameters+`}`), &request); err != nil {
				t.Fatal(err)
			}
			var got result
			got.Value, got.Present, got.OK = request.Parameters.String(payload.SerialNumber)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("String differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParametersOfReadBack(t *testing.T) {
	want := map[string]string{payload.SerialNumber: "2974685", payload.Author: "\"Ålice\"\n\x00"}
	if diff := cmp.Diff(want, stringsOf(t, payload.ParametersOf(want))); diff != "" {
		t.Errorf("parameters differ (-want +got):\n%s", diff)
	}
}

func TestMalformedRequestIsAnError(t *testing.T) {
	for name, data := range map[string]string{
		"empty":              ``,
		"cut short":          `{"claimCertificateId":"57`,
		"list":               `[]`,
		"client id a number": `{"clientId":7}`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := json.Unmarshal([]byte(data), new(payload.Request)); err == nil {
				t.Errorf("Unmarshal(%s): no error", data)
			}
		})
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(fixture(f, "request.json"))
	f.Add([]byte(`{"parameters":{"serialNumber":[1,{"a":null}]}}`))
	f.Add([]byte(`{"parameters":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second payload.Request
		if json.Unmarshal(data, &first) != nil {
			return
		}
		written, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("writing what was read from %q: %v", data, err)
		}
		if err := json.Unmarshal(written, &second); err != nil {
			t.Fatalf("reading %s back: %v", written, err)
		}
		again, err := json.Marshal(second)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(written), string(again)); diff != "" {
			t.Errorf("round trip differs (-first +second):\n%s", diff)
		}
	})
}
