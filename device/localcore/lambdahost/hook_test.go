package lambdahost_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/hook/payload"
)

var building sync.Mutex // two builds at once compile all twice

// buildHook builds the hook as it is deployed, for this machine.
func buildHook(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the hook")
	}
	binary := filepath.Join(t.TempDir(), "bootstrap")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "lambda.norpc", "-o", binary, ".")
	build.Dir = filepath.FromSlash("../../../hook")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	building.Lock()
	defer building.Unlock()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the hook: %v\n%s", err, out)
	}
	return binary
}

func TestRealHook(t *testing.T) {
	t.Parallel()
	h := start(t, lambdahost.Config{
		Path: buildHook(t), Timeout: payload.AnswerWithin,
		Env: []string{"EXISTING_THINGS=allow"}, // there is no AWS IoT to ask
	})
	for serial, want := range map[string]bool{
		payload.SerialPrefix + "5": true,
		"1234567":                  false,
	} {
		event, err := json.Marshal(payload.Request{
			CertificateID: "new", ClaimCertificateID: "claim", ClientID: "claim-1",
			TemplateARN: "arn:aws:iot:us-east-1:123456789012:provisioningtemplate/T",
			Parameters: payload.ParametersOf(map[string]string{
				payload.SerialNumber: serial, payload.DeviceLocation: "USA",
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := h.Invoke(t.Context(), event)
		if err != nil {
			t.Fatal(err)
		}
		var got payload.Response
		if err := json.Unmarshal(answer, &got); err != nil {
			t.Fatal(err)
		}
		if got.AllowProvisioning != want {
			t.Errorf("serial %s: allowed %v, want %v", serial, got.AllowProvisioning, want)
		}
	}
}

func TestRealHookReportsAnEventThatItCannotRead(t *testing.T) {
	t.Parallel()
	h := start(t, lambdahost.Config{Path: buildHook(t), Timeout: 10 * time.Second})
	if answer, err := h.Invoke(t.Context(), []byte(`[`)); err == nil {
		t.Errorf("got %s, want an error", answer)
	}
	if _, err := h.Invoke(t.Context(), []byte(`{}`)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// nothingRegistered answers as a control plane without things does.
func nothingRegistered(b *testing.B) string {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{}`)
	}))
	b.Cleanup(api.Close)
	return api.URL
}

func BenchmarkRealHook(b *testing.B) {
	h := start(b, lambdahost.Config{Path: buildHook(b), Timeout: payload.AnswerWithin, Concurrency: 1, Endpoint: nothingRegistered(b)})
	for b.Loop() {
		if _, err := h.Invoke(b.Context(), []byte(`{"parameters":{"serialNumber":"2974685"}}`)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	c := lambdahost.Config{Path: buildHook(b)}
	for b.Loop() {
		h, err := lambdahost.Start(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		h.Close()
	}
}

func BenchmarkRealHookInParallel(b *testing.B) {
	h := start(b, lambdahost.Config{Path: buildHook(b), Timeout: payload.AnswerWithin, Endpoint: nothingRegistered(b)})
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := h.Invoke(b.Context(), []byte(`{"parameters":{"serialNumber":"2974685"}}`)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
