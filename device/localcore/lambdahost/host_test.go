package lambdahost_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/fleety/device/localcore/lambdahost"
	"github.com/google/go-cmp/cmp"
)

// config returns the configuration of a function in the given role.
func config(t testing.TB, role string) lambdahost.Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return lambdahost.Config{
		Path: self,
		Env: []string{
			roleVariable + "=" + role,
			"GORACE=atexit_sleep_ms=0",  // else every exit takes a second
			"GOCOVERDIR=" + t.TempDir(), // else go test -cover adds a line to the output
		},
		Timeout: waitFor, Concurrency: 1,
	}
}

func start(t testing.TB, c lambdahost.Config) *lambdahost.Host {
	t.Helper()
	h, err := lambdahost.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func invoke(ctx context.Context, h *lambdahost.Host, o order) (string, error) {
	event, err := json.Marshal(o)
	if err != nil {
		return "", err
	}
	answer, err := h.Invoke(ctx, event)
	return string(answer), err
}

func mustInvoke(t testing.TB, h *lambdahost.Host, o order) string {
	t.Helper()
	answer, err := invoke(t.Context(), h, o)
	if err != nil {
		t.Fatalf("%s: %v", o.Do, err)
	}
	return answer
}

// A lifeline sees processes come and go.
type lifeline struct{ net.Listener }

func newLifeline(t *testing.T) lifeline {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return lifeline{l}
}

func (l lifeline) variable() string { return lifelineVariable + "=" + l.Addr().String() }

// accept waits until a process takes hold.
func (l lifeline) accept(t *testing.T) net.Conn {
	t.Helper()
	l.Listener.(*net.TCPListener).SetDeadline(time.Now().Add(waitFor))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// awaitEnd waits until the process at the other end is gone.
func awaitEnd(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(waitFor))
	if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the process is still there")
	}
}

func TestInvokeReturnsTheAnswer(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	for _, text := range []string{`{"a":1}`, `null`, ``} {
		if got := mustInvoke(t, h, order{Do: "echo", Text: text}); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
}

func TestProcessIsReused(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	first := mustInvoke(t, h, order{Do: "pid"})
	if _, err := invoke(t.Context(), h, order{Do: "fail"}); err == nil {
		t.Error("fail: no error")
	}
	if second := mustInvoke(t, h, order{Do: "pid"}); second != first {
		t.Errorf("process %s served first, then %s", first, second)
	}
}

// An executable that is built anew serves the next event; while there is none, the old one does.
func TestReplacedExecutableServesTheNextEvent(t *testing.T) {
	t.Parallel()
	other, err := exec.LookPath("false")
	if err != nil {
		t.Skip("no program that does nothing")
	}
	c := config(t, "function")
	self := c.Path
	c.Path = filepath.Join(t.TempDir(), "bootstrap")
	replace := func(by string) {
		os.Remove(c.Path)
		if err := os.Symlink(by, c.Path); err != nil {
			t.Fatal(err)
		}
	}
	replace(self)
	h := start(t, c)
	first := mustInvoke(t, h, order{Do: "pid"})
	os.Remove(c.Path)
	if got := mustInvoke(t, h, order{Do: "pid"}); got != first {
		t.Errorf("without an executable process %s served, not %s", got, first)
	}
	replace(other)
	if _, err := invoke(t.Context(), h, order{Do: "pid"}); !errors.Is(err, lambdahost.ErrExited) {
		t.Errorf("the other executable: %v", err)
	}
	replace(self)
	if got := mustInvoke(t, h, order{Do: "pid"}); got == first {
		t.Errorf("process %s serves still", got)
	}
}

// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html: the next
// invocation brings request id, deadline and function ARN in its headers.
func TestHeadersAreThoseOfTheRuntimeAPI(t *testing.T) {
	t.Parallel()
	c := config(t, "function")
	c.FunctionARN = "arn:aws:lambda:eu-central-1:123456789012:function:hook"
	h := start(t, c)
	before := time.Now()
	var header http.Header
	if err := json.Unmarshal([]byte(mustInvoke(t, h, order{Do: "headers"})), &header); err != nil {
		t.Fatal(err)
	}
	if got := header.Get("Lambda-Runtime-Invoked-Function-Arn"); got != c.FunctionARN {
		t.Errorf("function ARN %q", got)
	}
	ms, err := strconv.ParseInt(header.Get("Lambda-Runtime-Deadline-Ms"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.UnixMilli(ms).Sub(before); left < waitFor-time.Second || left > waitFor+time.Minute {
		t.Errorf("the deadline is %v away, want about %v", left, waitFor)
	}
	for _, name := range []string{"Lambda-Runtime-Aws-Request-Id", "Lambda-Runtime-Invocation-Id", "Lambda-Runtime-Trace-Id"} {
		if header.Get(name) == "" {
			t.Errorf("no %s", name)
		}
	}
}

func TestDeadlineIsTheCallersWhenEarlier(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	ctx, cancel := context.WithTimeout(t.Context(), waitFor/2)
	defer cancel()
	text, err := invoke(ctx, h, order{Do: "headers"})
	if err != nil {
		t.Fatal(err)
	}
	var header http.Header
	if err := json.Unmarshal([]byte(text), &header); err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	if got, want := header.Get("Lambda-Runtime-Deadline-Ms"), fmt.Sprint(deadline.UnixMilli()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html: a
// function sees Lambda's variables and its own, and not those of the caller.
func TestEnvironmentIsLambdasAndNotTheCallers(t *testing.T) {
	for _, name := range []string{"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL_DYNAMODB", "HOME", "HTTPS_PROXY"} {
		t.Setenv(name, "of the shell")
	}
	c := config(t, "function")
	c.FunctionARN = "arn:aws:lambda:eu-central-1:123456789012:function:hook"
	c.Region = "eu-central-1"
	c.Env = append(c.Env, "TZ=Europe/Berlin", "EXTRA=1")
	h := start(t, c)
	env := environmentOf(t, h)
	for name, value := range env {
		if value == "of the shell" {
			t.Errorf("%s of the caller reached the function", name)
		}
	}
	for name, want := range map[string]string{
		"AWS_ACCESS_KEY_ID":           "local",
		"AWS_REGION":                  "eu-central-1",
		"AWS_DEFAULT_REGION":          "eu-central-1",
		"AWS_LAMBDA_FUNCTION_NAME":    "hook",
		"AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
		"TZ":                          "Europe/Berlin",
		"EXTRA":                       "1",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	for _, name := range []string{"AWS_LAMBDA_RUNTIME_API", "_HANDLER", "LAMBDA_TASK_ROOT", "AWS_LAMBDA_LOG_GROUP_NAME"} {
		if env[name] == "" {
			t.Errorf("%s is not set", name)
		}
	}
}

// environmentOf returns the variables that the function sees.
func environmentOf(t *testing.T, h *lambdahost.Host) map[string]string {
	t.Helper()
	var list []string
	if err := json.Unmarshal([]byte(mustInvoke(t, h, order{Do: "environment"})), &list); err != nil {
		t.Fatal(err)
	}
	env := make(map[string]string)
	for _, v := range list {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	return env
}

// A function that was given no endpoint can call no AWS service, by none of the ways in which an
// SDK finds an endpoint or credentials.
func TestFunctionReachesNoAWSEndpointUnlessAsked(t *testing.T) {
	t.Parallel()
	c := config(t, "function")
	env := environmentOf(t, start(t, c))
	resp, err := http.Get(env["AWS_ENDPOINT_URL"] + "/things/thing")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if kind := resp.Header.Get("X-Amzn-ErrorType"); resp.StatusCode != http.StatusForbidden || kind != "NoEndpointException" {
		t.Errorf("status %d, error %q", resp.StatusCode, kind)
	}
	for name, want := range map[string]string{
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	c.Endpoint = "http://127.0.0.1:1"
	if got := environmentOf(t, start(t, c))["AWS_ENDPOINT_URL"]; got != c.Endpoint {
		t.Errorf("endpoint %q, want %q", got, c.Endpoint)
	}
}

func TestStartRejectsAnEndpointBeyondThisMachine(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*lambdahost.Config){
		"for all services": func(c *lambdahost.Config) { c.Endpoint = "https://iot.us-east-1.amazonaws.com" },
		"for one service": func(c *lambdahost.Config) {
			c.Env = append(c.Env, "AWS_ENDPOINT_URL_DYNAMODB=https://dynamodb.us-east-1.amazonaws.com")
		},
		"that is no URL":       func(c *lambdahost.Config) { c.Env = append(c.Env, "AWS_ENDPOINT_URL_S3=127.0.0.1:1") },
		"by ignoring the rest": func(c *lambdahost.Config) { c.Env = append(c.Env, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true") },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, "function")
			change(&c)
			if h, err := lambdahost.Start(t.Context(), c); err == nil {
				h.Close()
				t.Error("the function was started")
			}
		})
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses { // ::1 among them, and where other machines reach this one
		ip, _, err := net.ParseCIDR(address.String())
		if err != nil {
			t.Fatal(err)
		}
		c := config(t, "function")
		want := "http://" + net.JoinHostPort(ip.String(), "8000")
		c.Env = append(c.Env, "AWS_ENDPOINT_URL_DYNAMODB="+want)
		if got := environmentOf(t, start(t, c))["AWS_ENDPOINT_URL_DYNAMODB"]; got != want {
			t.Errorf("a service of this machine is at %q, want %q", got, want)
		}
	}
}

// Neither another user of this machine, who does not know the path, nor a web page can fetch an
// event or answer it.
func TestRuntimeAPIIsForTheFunctionAlone(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	api := environmentOf(t, h)["AWS_LAMBDA_RUNTIME_API"]
	host, path, found := strings.Cut(api, "/")
	if !found || len(path) < 20 {
		t.Fatalf("the path of %s can be guessed", api)
	}
	for name, tc := range map[string]struct{ path, host, header, value string }{
		"without the path":       {path: "", host: host},
		"by another path":        {path: "/" + strings.Repeat("A", len(path)), host: host},
		"by another host name":   {path: "/" + path, host: "rebound.example.com"},
		"by localhost":           {path: "/" + path, host: "localhost"},
		"from a page":            {path: "/" + path, host: host, header: "Origin", value: "http://" + host},
		"from a page, no-cors":   {path: "/" + path, host: host, header: "Sec-Fetch-Site", value: "cross-site"},
		"from a page of its own": {path: "/" + path, host: host, header: "Sec-Fetch-Site", value: "same-origin"},
	} {
		for _, call := range []string{"GET /invocation/next", "POST /invocation/1/response", "POST /invocation/1/error", "POST /init/error"} {
			t.Run(name+" "+call, func(t *testing.T) {
				method, operation, _ := strings.Cut(call, " ")
				r, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+tc.path+"/2018-06-01/runtime"+operation, strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				r.Host = tc.host
				if tc.header != "" {
					r.Header.Set(tc.header, tc.value)
				}
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusNotFound {
					t.Errorf("status %d", resp.StatusCode)
				}
			})
		}
	}
	if got := mustInvoke(t, h, order{Do: "echo", Text: "answer"}); got != "answer" {
		t.Errorf("the function answered %q", got)
	}
}

// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html: a function
// reports an invocation error by its type and message.
func TestFunctionErrors(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	for name, want := range map[string]*lambdahost.FunctionError{
		"fail":             {Type: "errorString", Message: "out of ink"},
		"fail illegibly":   {Type: "Odd", Message: "it sent an error report that cannot be read"},
		"panic":            {Type: "string", Message: "boom"},
		"stream and fail":  {Type: "StreamError", Message: "broke off"},
		"answer at length": {Type: "Function.ResponseSizeTooLarge", Message: "Response payload size exceeded maximum allowed payload size (6291456 bytes)."},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := invoke(t.Context(), h, order{Do: name})
			got, ok := errors.AsType[*lambdahost.FunctionError](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if got := mustInvoke(t, h, order{Do: "echo", Text: "again"}); got != "again" {
				t.Errorf("afterwards it answered %q", got)
			}
		})
	}
}

func TestAnswersToNoInvocationAreRejected(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	want := `[400,"InvalidRequestID",400,"InvalidInvocationId",403]`
	if got := mustInvoke(t, h, order{Do: "answer others"}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestExitDuringAnInvocation(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	_, err := invoke(t.Context(), h, order{Do: "exit"})
	if !errors.Is(err, lambdahost.ErrExited) {
		t.Fatalf("got %v", err)
	}
	if want := "the function exited: exit status 3; standard error: cannot go on"; err.Error() != want {
		t.Errorf("got  %q\nwant %q", err, want)
	}
	mustInvoke(t, h, order{Do: "echo"})
}

func TestExitAfterTheAnswerIsNotSeen(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	for range 5 {
		if got := mustInvoke(t, h, order{Do: "answer and exit"}); got != `"done"` {
			t.Fatalf("got %s", got)
		}
	}
}

func TestTimeoutKillsTheProcessAndItsChildren(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no process groups")
	}
	line := newLifeline(t)
	c := config(t, "function")
	c.Env = append(c.Env, line.variable())
	c.Timeout = 2 * time.Second
	h := start(t, c)
	_, err := invoke(t.Context(), h, order{Do: "hang with a child"})
	if !errors.Is(err, lambdahost.ErrTimeout) {
		t.Fatalf("got %v", err)
	}
	awaitEnd(t, line.accept(t))
	awaitEnd(t, line.accept(t))
	if got := mustInvoke(t, h, order{Do: "echo", Text: "again"}); got != "again" {
		t.Errorf("afterwards it answered %q", got)
	}
}

func TestExitTakesTheChildrenAlong(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no process groups")
	}
	line := newLifeline(t)
	c := config(t, "function")
	c.Env = append(c.Env, line.variable())
	h := start(t, c)
	if _, err := invoke(t.Context(), h, order{Do: "exit without its child"}); !errors.Is(err, lambdahost.ErrExited) {
		t.Fatalf("got %v", err)
	}
	awaitEnd(t, line.accept(t))
}

func TestInvokeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	line := newLifeline(t)
	c := config(t, "function")
	c.Env = append(c.Env, line.variable())
	h := start(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := invoke(ctx, h, order{Do: "hang"})
		result <- err
	}()
	line.accept(t)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	mustInvoke(t, h, order{Do: "echo"})
}

func TestEventTooLarge(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	_, err := h.Invoke(t.Context(), make([]byte, lambdahost.MaxPayload+1))
	if !errors.Is(err, lambdahost.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestStartReportsWhyTheFunctionDoesNotStart(t *testing.T) {
	t.Parallel()
	for role, want := range map[string]string{
		"crash":      "exited: exit status 2; standard error: panic: no table of serial numbers",
		"mute crash": "exited: exit status 4",
		"last line":  "exited: exit status 1; standard error: no newline at the end",
		"init error": "failed: ConfigError: SERIAL_PREFIX is empty",
	} {
		t.Run(role, func(t *testing.T) {
			_, err := lambdahost.Start(t.Context(), config(t, role))
			if err == nil || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("got %v, want an error that ends with %q", err, want)
			}
		})
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	t.Parallel()
	line := newLifeline(t)
	c := config(t, "silent")
	c.Env = append(c.Env, line.variable())
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := lambdahost.Start(ctx, c)
		result <- err
	}()
	held := line.accept(t)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	awaitEnd(t, held)
}

func TestConcurrentInvocationsHaveTheirOwnProcesses(t *testing.T) {
	t.Parallel()
	const processes = 3
	line := newLifeline(t)
	c := config(t, "function")
	c.Concurrency = processes
	c.Env = append(c.Env, line.variable())
	h := start(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range processes {
		calls.Go(func() { invoke(ctx, h, order{Do: "hang"}) })
	}
	for range processes {
		line.accept(t) // all hang at the same time
	}
	waiting, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := invoke(waiting, h, order{Do: "echo"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more than Concurrency: got %v", err)
	}
	cancel()
	calls.Wait()
}

func TestManyCallersShareFewProcesses(t *testing.T) {
	t.Parallel()
	c := config(t, "function")
	c.Concurrency = 2
	h := start(t, c)
	var calls sync.WaitGroup
	for i := range 50 {
		calls.Go(func() {
			text := strconv.Itoa(i)
			if got, err := invoke(t.Context(), h, order{Do: "echo", Text: text}); err != nil || got != text {
				t.Errorf("got %q, %v, want %q", got, err, text)
			}
		})
	}
	calls.Wait()
}

// Invocations that wait for something do not keep others from a process, as in Lambda.
func TestSlowInvocationsDelayNoOther(t *testing.T) {
	t.Parallel()
	line := newLifeline(t)
	c := config(t, "function")
	c.Concurrency, c.Env = 0, append(c.Env, line.variable())
	h := start(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var slow sync.WaitGroup
	defer slow.Wait()
	defer cancel()
	for range runtime.GOMAXPROCS(0) {
		slow.Go(func() {
			if got, err := invoke(ctx, h, order{Do: "hang"}); !errors.Is(err, context.Canceled) {
				t.Errorf("hang: %q, %v", got, err)
			}
		})
		line.accept(t)
	}
	for range 2 {
		if got := mustInvoke(t, h, order{Do: "echo", Text: "3"}); got != "3" {
			t.Errorf("got %s", got)
		}
	}
}

func TestCloseEndsInvocations(t *testing.T) {
	t.Parallel()
	line := newLifeline(t)
	c := config(t, "function")
	c.Env = append(c.Env, line.variable())
	h := start(t, c)
	result := make(chan error, 2)
	for range 2 { // one hangs, one waits for its turn
		go func() {
			_, err := invoke(t.Context(), h, order{Do: "hang"})
			result <- err
		}()
	}
	conn := line.accept(t)
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	awaitEnd(t, conn)
	for range 2 {
		if err := <-result; !errors.Is(err, lambdahost.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := h.Invoke(t.Context(), []byte("{}")); !errors.Is(err, lambdahost.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestCloseWhileProcessesStart(t *testing.T) {
	t.Parallel()
	c := config(t, "function")
	c.Concurrency = 4
	h := start(t, c)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if _, err := invoke(t.Context(), h, order{Do: "echo"}); err != nil && !errors.Is(err, lambdahost.ErrClosed) {
				t.Error(err)
			}
		})
	}
	h.Close()
	calls.Wait()
}

func TestOutputBecomesLogRecords(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	c := config(t, "function")
	c.Log = slog.New(slog.NewJSONHandler(&log, nil))
	h := start(t, c)
	mustInvoke(t, h, order{Do: "print", Text: "plain words"})
	mustInvoke(t, h, order{Do: "print", Text: `{"time":"2026-01-01T00:00:00Z","level":"WARN","msg":"denied","serial":"1234567"}`})
	mustInvoke(t, h, order{Do: "print", Text: `{"level":"INFO","msg":"admitted","requestId":"its own"}`})
	h.Close() // all is written then

	var got []map[string]any
	for line := range strings.Lines(log.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if id := record["requestId"]; id != "its own" && len(id.(string)) == 36 {
			record["requestId"] = "some"
		}
		delete(record, "time")
		got = append(got, record)
	}
	want := []map[string]any{
		{"level": "INFO", "msg": "plain words", "stream": "stderr", "requestId": "some"},
		{"level": "WARN", "msg": "denied", "serial": "1234567", "stream": "stderr", "requestId": "some"},
		{"level": "INFO", "msg": "admitted", "stream": "stderr", "requestId": "its own"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLongOutputDoesNotBlockTheFunction(t *testing.T) {
	t.Parallel()
	h := start(t, config(t, "function"))
	mustInvoke(t, h, order{Do: "print", Text: strings.Repeat("x", 1<<20)})
}

// hostForever hosts a function and waits to be killed.
func hostForever() {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	h, err := lambdahost.Start(context.Background(), lambdahost.Config{
		Path: self, Env: []string{roleVariable + "=function", lifelineVariable + "=" + os.Getenv(lifelineVariable)},
		Timeout: time.Hour,
	})
	if err != nil {
		panic(err)
	}
	fmt.Println("started")
	h.Invoke(context.Background(), []byte(`{"do":"hang"}`))
}

func TestKilledHostLeavesNoOrphan(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the parent-death signal is Linux's")
	}
	line := newLifeline(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"=host", line.variable())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	function := line.accept(t)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, function)
}

func BenchmarkInvoke(b *testing.B) {
	h := start(b, config(b, "function"))
	for b.Loop() {
		mustInvoke(b, h, order{Do: "echo", Text: "{}"})
	}
}
