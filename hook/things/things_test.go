package things_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/things"
)

const certARN = "arn:aws:iot:eu-central-1:123456789012:cert/"

// An api answers what AWS IoT would, by method, path and query; what it does not know is a
// ResourceNotFoundException.
type api struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func serve(t *testing.T, answers map[string]string) *api {
	t.Helper()
	a := &api{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.asked = append(a.asked, r.Method+" "+r.URL.RequestURI())
		a.mu.Unlock()
		answer, ok := answers[r.URL.RequestURI()]
		if !ok {
			answer = "error ResourceNotFoundException"
		}
		if code, failed := strings.CutPrefix(answer, "error "); failed {
			w.Header().Set("X-Amzn-ErrorType", code)
			w.WriteHeader(http.StatusBadRequest)
			answer = `{"message":"no"}`
		}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *api) registry() *things.Registry {
	return things.New(aws.Config{
		Region:       "eu-central-1",
		BaseEndpoint: &a.URL,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret"}, nil
		}),
		Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	})
}

func principals(next string, arns ...string) string {
	return fmt.Sprintf(`{"principals":["%s"],"nextToken":%s}`, strings.Join(arns, `","`), next)
}

func described(status string) string {
	return `{"certificateDescription":{"certificateId":"x","status":"` + status + `"}}`
}

func TestCertificates(t *testing.T) {
	const list = "/things/fleety_2974685/principals"
	tests := map[string]struct {
		answers map[string]string
		want    []admit.Certificate
	}{
		"no such thing":  {nil, nil},
		"no certificate": {map[string]string{list: `{"principals":[]}`}, nil},
		"every status": {map[string]string{
			list:              principals("null", certARN+"a", certARN+"b", certARN+"c", certARN+"d"),
			"/certificates/a": described("INACTIVE"),
			"/certificates/b": described("ACTIVE"),
			"/certificates/c": described("REVOKED"),
			"/certificates/d": described("PENDING_ACTIVATION"),
		}, []admit.Certificate{{ID: "a", Status: "INACTIVE"}, {ID: "b", Status: admit.Active}, {ID: "c", Status: admit.Revoked}, {ID: "d", Status: admit.PendingActivation}}},
		"several pages": {map[string]string{
			list:                       principals(`"page-2"`, certARN+"a"),
			list + "?nextToken=page-2": principals("null", certARN+"b"),
			"/certificates/a":          described("INACTIVE"),
			"/certificates/b":          described("ACTIVE"),
		}, []admit.Certificate{{ID: "a", Status: "INACTIVE"}, {ID: "b", Status: admit.Active}}},
		"deleted between the calls": {map[string]string{list: principals("null", certARN+"a")}, []admit.Certificate{{ID: "a", Status: admit.Deleted}}},
		"not a certificate": {map[string]string{
			list: principals("null", "eu-central-1:0d0b7c30-58f9-4f5e-b5d5-5b0e1a4a8a5e", "arn:aws:iot:eu-central-1:123456789012:policy/p"),
		}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := serve(t, test.answers).registry().Certificates(t.Context(), "fleety_2974685")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("certificates differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCertificatesFailsWhenALookupFails(t *testing.T) {
	const list = "/things/fleety_2974685/principals"
	tests := map[string]struct {
		answers map[string]string
		want    string
	}{
		"listing forbidden":      {map[string]string{list: "error AccessDeniedException"}, "listing the certificates of thing fleety_2974685"},
		"not JSON":               {map[string]string{list: "<html>"}, "listing the certificates of thing fleety_2974685"},
		"describing forbidden":   {map[string]string{list: principals("null", certARN+"a"), "/certificates/a": "error AccessDeniedException"}, "thing fleety_2974685: describing certificate a"},
		"throttled":              {map[string]string{list: principals("null", certARN+"a"), "/certificates/a": "error ThrottlingException"}, "describing certificate a"},
		"no description":         {map[string]string{list: principals("null", certARN+"a"), "/certificates/a": "{}"}, "describes no certificate"},
		"no status":              {map[string]string{list: principals("null", certARN+"a"), "/certificates/a": `{"certificateDescription":{"certificateId":"a"}}`}, "describes no certificate"},
		"second page not served": {map[string]string{list: principals(`"2"`, certARN+"a"), list + "?nextToken=2": "error InternalFailureException", "/certificates/a": described("INACTIVE")}, "listing the certificates"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := serve(t, test.answers).registry().Certificates(t.Context(), "fleety_2974685")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("certificates %v, error %v, want an error with %q", got, err, test.want)
			}
		})
	}
}

func TestContextEndsTheCalls(t *testing.T) {
	closed := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-closed }))
	defer hanging.Close()
	defer close(closed)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := (&api{Server: hanging}).registry().Certificates(ctx, "fleety_2974685"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestThingsOfACertificate(t *testing.T) {
	const list = "/principals/things"
	for name, test := range map[string]struct {
		answers map[string]string
		want    []string
	}{
		"a claim":       {map[string]string{list: `{"things":[]}`}, nil},
		"unknown":       {nil, nil},
		"a device":      {map[string]string{list: `{"things":["fleety_1"]}`}, []string{"fleety_1"}},
		"several pages": {map[string]string{list: `{"things":["a"],"nextToken":"2"}`, list + "?nextToken=2": `{"things":["b"]}`}, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := serve(t, test.answers).registry().Things(t.Context(), certARN+"a")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("things differ (-want +got):\n%s", diff)
			}
		})
	}
	if things, err := serve(t, map[string]string{list: "error AccessDeniedException"}).registry().Things(t.Context(), certARN+"a"); err == nil {
		t.Errorf("forbidden: things %v, no error", things)
	}
}

// TestClaimsAreLookedUpOnceAMinute: devices come by thousands, their claims are few, and AWS IoT
// allows an account ten of these look-ups per second.
func TestClaimsAreLookedUpOnceAMinute(t *testing.T) {
	a := serve(t, map[string]string{"/principals/things": `{"things":[]}`})
	registry := a.registry()
	for range 3 {
		for _, id := range []string{"a", "b"} {
			if things, err := registry.Things(t.Context(), certARN+id); err != nil || things != nil {
				t.Fatalf("things %v, error %v", things, err)
			}
		}
	}
	if len(a.asked) != 2 {
		t.Errorf("asked %d times for two claims: %q", len(a.asked), a.asked)
	}
	a = serve(t, map[string]string{"/principals/things": `{"things":["fleety_1"]}`})
	registry = a.registry()
	for range 2 {
		if things, err := registry.Things(t.Context(), certARN+"a"); err != nil || len(things) != 1 {
			t.Fatalf("things %v, error %v", things, err)
		}
	}
	if len(a.asked) != 2 {
		t.Errorf("a device's certificate was looked up %d times of 2", len(a.asked))
	}
}

func TestCertificatesOfAThingAreDescribedAtOnce(t *testing.T) {
	const certificates = 5
	var waiting sync.WaitGroup
	waiting.Add(certificates)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/certificates/") {
			_, _ = io.WriteString(w, principals("null", certARN+"a", certARN+"b", certARN+"c", certARN+"d", certARN+"e"))
			return
		}
		waiting.Done()
		waiting.Wait() // for the other requests
		_, _ = io.WriteString(w, described("ACTIVE"))
	}))
	defer server.Close()
	if got, err := (&api{Server: server}).registry().Certificates(t.Context(), "fleety_2974685"); err != nil || len(got) != certificates {
		t.Errorf("certificates %v, error %v", got, err)
	}
}

func TestDeactivation(t *testing.T) {
	if got, want := things.New(aws.Config{Region: "eu-central-1"}).Deactivation("57c9"),
		"aws iot update-certificate --certificate-id 57c9 --new-status INACTIVE --region eu-central-1"; got != want {
		t.Errorf("command %q, want %q", got, want)
	}
	if got, want := things.New(aws.Config{Region: "us-east-1", BaseEndpoint: aws.String("http://127.0.0.1:8480")}).Deactivation("57c9"),
		"aws iot update-certificate --certificate-id 57c9 --new-status INACTIVE --region us-east-1 --endpoint-url http://127.0.0.1:8480"; got != want {
		t.Errorf("command %q, want %q", got, want)
	}
}
