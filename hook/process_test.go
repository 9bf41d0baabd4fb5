package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// buildHook builds the hook by the one recipe there is, from a copy of the source at root, for the
// given architecture.
func buildHook(t testing.TB, root, arch string, env ...string) string {
	t.Helper()
	return buildFunction(t, root, arch, ".", env...)
}

func buildFunction(t testing.TB, root, arch, name string, env ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "bootstrap")
	build := exec.CommandContext(t.Context(), filepath.Join(root, "scripts", "build-hook.sh"), out, arch, name)
	build.Env = append(os.Environ(), env...)
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the hook: %v\n%s", err, output)
	}
	return out
}

// runtimeAPI is Lambda's Runtime API as far as a function needs it: it serves its events in turn,
// then holds the function in the long poll until closed.
//
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
type runtimeAPI struct {
	*httptest.Server
	events  chan string
	answers chan string // "response BODY" or "error BODY"
}

func startRuntimeAPI(t testing.TB) *runtimeAPI {
	t.Helper()
	api := &runtimeAPI{events: make(chan string), answers: make(chan string, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", api.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/request-1/{kind}", api.answer)
	api.Server = httptest.NewServer(mux)
	return api
}

func (api *runtimeAPI) next(w http.ResponseWriter, r *http.Request) {
	select {
	case <-r.Context().Done():
	case event := <-api.events:
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", "request-1")
		w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(time.Minute).UnixMilli()))
		_, _ = io.WriteString(w, event)
	}
}

func (api *runtimeAPI) answer(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.WriteHeader(http.StatusAccepted)
	api.answers <- r.PathValue("kind") + " " + strings.TrimSpace(string(body))
}

// invoke sends one event to the function and waits for its answer.
func (api *runtimeAPI) invoke(t testing.TB, event string) string {
	t.Helper()
	deadline := time.After(time.Minute)
	select {
	case api.events <- event:
	case <-deadline:
		t.Fatal("the function never asked for an event")
	}
	select {
	case answer := <-api.answers:
		return answer
	case <-deadline:
		t.Fatal("the function never answered")
	}
	return ""
}

// startHook runs the built hook as Lambda would. The returned function stops it and returns its
// log.
func startHook(t testing.TB, binary string, api *runtimeAPI, env ...string) (stop func() string) {
	t.Helper()
	var log bytes.Buffer
	hook := exec.CommandContext(t.Context(), binary)
	hook.Env = append(env, "AWS_LAMBDA_RUNTIME_API="+strings.TrimPrefix(api.URL, "http://"))
	hook.Stderr = &log
	if err := hook.Start(); err != nil {
		t.Fatalf("starting the hook: %v", err)
	}
	return func() string {
		_ = hook.Process.Kill()
		_ = hook.Wait() // waits for the log too; killed, so an error is expected
		api.Close()
		return log.String()
	}
}

func TestProcessAnswersOverTheRuntimeAPI(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the hook is a Linux binary")
	}
	binary := buildHook(t, "..", runtime.GOARCH)
	const admitted = `response {"allowProvisioning":true,"parameterOverrides":{}}`
	const denied = `response {"allowProvisioning":false,"parameterOverrides":{}}`

	t.Run("with the fleet's prefix", func(t *testing.T) {
		api := startRuntimeAPI(t)
		stop := startHook(t, binary, api, "EXISTING_THINGS=allow")
		if got := api.invoke(t, string(event(`{"serialNumber":"2974685"}`))); got != admitted {
			t.Errorf("serial of the fleet: %s", got)
		}
		if got := api.invoke(t, string(event(`{"serialNumber":null}`))); got != denied {
			t.Errorf("null serial: %s", got)
		}
		if got := api.invoke(t, string(event(`{"serialNumber":"1234567"}`))); got != denied {
			t.Errorf("serial of another fleet: %s", got)
		}
		log := stop()
		if got := strings.Count(log, `"requestId":"request-1"`); got != 3 {
			t.Errorf("log has %d decisions, want 3:\n%s", got, log)
		}
	})
	t.Run("with another prefix", func(t *testing.T) {
		api := startRuntimeAPI(t)
		stop := startHook(t, binary, api, "SERIAL_PREFIX=1234", "EXISTING_THINGS=allow")
		defer stop()
		if got := api.invoke(t, string(event(`{"serialNumber":"1234567"}`))); got != admitted {
			t.Errorf("serial with the prefix: %s", got)
		}
		if got := api.invoke(t, string(event(`{"serialNumber":"2974685"}`))); got != denied {
			t.Errorf("serial without the prefix: %s", got)
		}
	})
}

// TestProcessLooksUpInAWSIoT shows that the binary finds AWS IoT by its environment.
func TestProcessLooksUpInAWSIoT(t *testing.T) {
	binary := buildHook(t, "..", runtime.GOARCH)
	iot := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/things/fleety_2974685/principals":
			_, _ = io.WriteString(w, `{"principals":["arn:aws:iot:us-east-1:123456789012:cert/old"]}`)
		case "/principals/things":
			_, _ = io.WriteString(w, `{"things":[]}`)
		case "/certificates/old":
			_, _ = io.WriteString(w, `{"certificateDescription":{"status":"ACTIVE"}}`)
		default:
			t.Errorf("asked for %s", r.URL)
		}
	}))
	defer iot.Close()
	for name, variable := range map[string]string{"for AWS IoT": "AWS_ENDPOINT_URL_IOT=", "for every service": "AWS_ENDPOINT_URL="} {
		t.Run(name, func(t *testing.T) {
			api := startRuntimeAPI(t)
			stop := startHook(t, binary, api, variable+iot.URL, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b")
			if got := api.invoke(t, string(event(`{"serialNumber":"2974685"}`))); !strings.Contains(got, `"allowProvisioning":false`) {
				t.Errorf("thing in use: %s", got)
			}
			want := "aws iot update-certificate --certificate-id old --new-status INACTIVE --region us-east-1 --endpoint-url " + iot.URL
			if log := stop(); !strings.Contains(log, want) {
				t.Errorf("the log does not have %q:\n%s", want, log)
			}
		})
	}
}

func TestProcessDoesNotStartMisconfigured(t *testing.T) {
	hook := exec.CommandContext(t.Context(), buildHook(t, "..", runtime.GOARCH))
	hook.Env = []string{"EXISTING_THINGS=maybe", "AWS_LAMBDA_RUNTIME_API=127.0.0.1:1"}
	output, err := hook.CombinedOutput()
	if err == nil || !strings.Contains(string(output), "want refuse or allow") {
		t.Errorf("%v\n%s", err, output)
	}
}

// TestBuildIsReproducible builds two copies of the source, in two folders and under two
// environments, for the architecture that is deployed.
func TestBuildIsReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the hook twice")
	}
	var builds [2][]byte
	written := filepath.Join(t.TempDir(), "env") // as go env -w does
	if err := os.WriteFile(written, []byte("GOFLAGS=-race -buildvcs=true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, env := range [][]string{
		{"GOFLAGS=", "GOWORK="},
		{"GOFLAGS=", "GOENV=" + written, "GOWORK=" + filepath.Join(t.TempDir(), "missing.work"), "GOARM64=v9.0", "CGO_ENABLED=1"},
	} {
		root := copyOfSource(t, strings.Repeat("deeper/", i))
		built, err := os.ReadFile(buildHook(t, root, "arm64", env...))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(built, []byte(root)) {
			t.Errorf("the binary holds the folder %s where it was built", root)
		}
		builds[i] = built
	}
	if !bytes.Equal(builds[0], builds[1]) {
		t.Errorf("two builds differ (%d and %d bytes)", len(builds[0]), len(builds[1]))
	}
}

// copyOfSource copies what the build reads to a new folder.
func copyOfSource(t *testing.T, under string) (root string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), under)
	files := []string{"scripts/build-hook.sh", "hook/go.mod", "hook/go.sum"}
	for _, pattern := range []string{"hook/*.go", "hook/*/*.go", "hook/*/*/*.go"} {
		matches, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range matches {
			name, _ := filepath.Rel("..", match)
			files = append(files, name)
		}
	}
	for _, name := range files {
		copyFile(t, filepath.Join("..", name), filepath.Join(root, name))
	}
	return root
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, info.Mode()); err != nil {
		t.Fatal(err)
	}
}
