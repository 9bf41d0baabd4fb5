package awsiot_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/fleety/device/awsiot"
	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
)

// The fixtures have the shapes of the API page.
func wireTypes() map[string]any {
	return map[string]any{
		"keys_accepted.json":     new(awsiot.CreateKeysAndCertificateResponse),
		"csr_request.json":       new(awsiot.CreateCertificateFromCSRRequest),
		"csr_accepted.json":      new(awsiot.CreateCertificateFromCSRResponse),
		"register_request.json":  new(awsiot.RegisterThingRequest),
		"register_accepted.json": new(awsiot.RegisterThingResponse),
		"rejected.json":          new(awsiot.ErrorResponse),
	}
}

func TestFixturesSurviveDecodingAndEncoding(t *testing.T) {
	codecs := map[string]struct {
		marshal   func(any) ([]byte, error)
		unmarshal func([]byte, any) error
	}{
		"json": {json.Marshal, json.Unmarshal},
		"cbor": {cbor.Marshal, cbor.Unmarshal},
	}
	for codec, c := range codecs {
		for file, value := range wireTypes() {
			t.Run(codec+" "+file, func(t *testing.T) {
				fixture, err := os.ReadFile(filepath.Join("testdata", file))
				if err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(fixture, value); err != nil {
					t.Fatal(err)
				}
				encoded, err := c.marshal(value)
				if err != nil {
					t.Fatal(err)
				}
				var got, want map[string]any
				if err := json.Unmarshal(fixture, &want); err != nil {
					t.Fatal(err)
				}
				if err := c.unmarshal(encoded, &got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(normal(t, want), normal(t, got)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// normal gives a decoded document one form, whatever it was decoded from.
func normal(t *testing.T, document map[string]any) string {
	t.Helper()
	flat := map[string]string{}
	for name, value := range document {
		flat[name] = fmt.Sprint(value)
	}
	out, err := json.Marshal(flat)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestSecretsAreMaskedHoweverTheyArePrinted(t *testing.T) {
	const secret = "open sesame"
	r := awsiot.CreateKeysAndCertificateResponse{PrivateKey: secret, CertificateOwnershipToken: secret}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("text", "token", r.CertificateOwnershipToken, "response", r)
	s := r.PrivateKey
	printed := []string{
		log.String(), s.String(),
		fmt.Sprint(s), fmt.Sprintf("%s %q %v %+v %#v %x %d", s, s, s, s, s, s, s),
		fmt.Sprintf("%v %+v %#v", r, r, r), fmt.Sprintf("%v", &r),
	}
	hex := fmt.Sprintf("%x", secret)
	for _, p := range printed {
		if strings.Contains(p, secret) || strings.Contains(p, hex) {
			t.Errorf("secret shown: %s", p)
		}
	}
}

func TestUnknownCodesAreClassedByStatusAndNeverByText(t *testing.T) {
	for status, want := range map[int]bool{400: false, 401: false, 403: false, 404: false, 409: false, 410: false, 429: true, 500: true, 503: true} {
		e := &awsiot.ErrorResponse{StatusCode: status, ErrorCode: "Other", ErrorMessage: "Throttling: try again later"}
		if got := e.Class() == awsiot.Temporary; got != want {
			t.Errorf("status %d: Temporary() = %t, want %t", status, got, want)
		}
	}
}

func TestRejectionNamesCodeStatusAndMessage(t *testing.T) {
	for _, tc := range []struct {
		rejection awsiot.ErrorResponse
		want      string
	}{
		{awsiot.ErrorResponse{StatusCode: 403, ErrorCode: "AccessDenied"}, "rejected by AWS IoT: AccessDenied (403)"},
		{awsiot.ErrorResponse{StatusCode: 400, ErrorCode: "InvalidParameters", ErrorMessage: "Cannot resolve reference value: x"},
			"rejected by AWS IoT: InvalidParameters (400): Cannot resolve reference value: x"},
	} {
		if got := tc.rejection.Error(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}
