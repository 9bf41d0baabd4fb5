package lambdahost_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary is also the function under test: it is one when this variable says how it begins.
const roleVariable = "LAMBDAHOST_TEST_ROLE"

// lifelineVariable holds the address that a role connects to, so that a test sees by the end of the
// connection that the process is gone.
const lifelineVariable = "LAMBDAHOST_TEST_LIFELINE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVariable); role {
	case "":
		goleak.VerifyTestMain(m)
	case "function":
		serveEvents()
	case "crash":
		panic("no table of serial numbers")
	case "mute crash":
		os.Exit(4)
	case "last line":
		fmt.Fprint(os.Stderr, "first\nno newline at the end")
		os.Exit(1)
	case "init error":
		post("init/error", `{"errorType":"ConfigError","errorMessage":"SERIAL_PREFIX is empty"}`, nil)
		os.Exit(1)
	case "silent":
		holdLifeline()
	case "host":
		hostForever()
	default:
		panic("unknown role " + role)
	}
}

// holdLifeline stays until the process is killed.
func holdLifeline() {
	if _, err := net.Dial("tcp", os.Getenv(lifelineVariable)); err != nil {
		panic(err)
	}
	fmt.Println("held")
	select {}
}

// startChild starts a process of the same group and returns when it holds the lifeline. It shares
// the standard error.
func startChild() {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), roleVariable+"=silent")
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		panic(err)
	}
	if err := child.Start(); err != nil {
		panic(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		panic(err)
	}
}

func endpoint(path string) string {
	return "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/" + path
}

// next waits for an event.
func next() (event []byte, header http.Header, status int) {
	resp, err := http.Get(endpoint("invocation/next"))
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	event, err = io.ReadAll(resp.Body)
	if err != nil {
		panic(err)
	}
	return event, resp.Header, resp.StatusCode
}

// post sends a document and returns how it was received.
func post(path, body string, header http.Header) (status int, reply string) {
	req, err := http.NewRequest(http.MethodPost, endpoint(path), strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// An order is an event: it says what the function is to do.
type order struct {
	Do   string `json:"do"`
	Text string `json:"text,omitempty"`
}

func serveEvents() {
	for {
		event, header, _ := next()
		var o order
		if err := json.Unmarshal(event, &o); err != nil {
			panic(err)
		}
		obey(o, header)
	}
}

func obey(o order, header http.Header) {
	this := "invocation/" + header.Get("Lambda-Runtime-Aws-Request-Id")
	switch o.Do {
	case "echo":
		post(this+"/response", o.Text, nil)
	case "pid":
		post(this+"/response", fmt.Sprint(os.Getpid()), nil)
	case "environment":
		text, _ := json.Marshal(os.Environ())
		post(this+"/response", string(text), nil)
	case "headers":
		text, _ := json.Marshal(header)
		post(this+"/response", string(text), nil)
	case "print":
		fmt.Fprintln(os.Stderr, o.Text)
		post(this+"/response", "null", nil)
	case "fail":
		post(this+"/error", `{"errorType":"errorString","errorMessage":"out of ink","stackTrace":[]}`, nil)
	case "fail illegibly":
		post(this+"/error", `<html>`, http.Header{"Lambda-Runtime-Function-Error-Type": {"Odd"}})
	case "panic":
		post(this+"/error", `{"errorType":"string","errorMessage":"boom","stackTrace":[]}`, nil)
		os.Exit(2)
	case "exit":
		fmt.Fprintln(os.Stderr, "cannot go on")
		os.Exit(3)
	case "answer and exit":
		post(this+"/response", `"done"`, nil)
		os.Exit(0)
	case "hang":
		holdLifeline()
	case "hang with a child":
		startChild()
		holdLifeline()
	case "exit without its child":
		startChild()
		os.Exit(3)
	case "answer at length":
		post(this+"/response", strings.Repeat("x", 7<<20), nil)
	case "stream and fail":
		stream(this + "/response")
	case "answer others":
		s1, r1 := post("invocation/another/response", "1", nil)
		s2, r2 := post(this+"/response", "2", http.Header{"Lambda-Runtime-Invocation-Id": {"another"}})
		_, _, s3 := next()
		text, _ := json.Marshal([]any{s1, errorType(r1), s2, errorType(r2), s3})
		echo := http.Header{"Lambda-Runtime-Invocation-Id": header["Lambda-Runtime-Invocation-Id"]}
		if s, r := post(this+"/response", string(text), echo); s != http.StatusAccepted {
			panic(r)
		}
	default:
		panic("unknown order " + o.Do)
	}
}

func errorType(reply string) string {
	var doc struct{ ErrorType string }
	json.Unmarshal([]byte(reply), &doc)
	return doc.ErrorType
}

// stream answers in chunks and reports a failure in the trailers.
func stream(path string) {
	req, err := http.NewRequest(http.MethodPost, endpoint(path), io.MultiReader(bytes.NewBufferString(`{"half":`)))
	if err != nil {
		panic(err)
	}
	req.ContentLength = -1
	req.Trailer = http.Header{
		"Lambda-Runtime-Function-Error-Type": {"StreamError"},
		"Lambda-Runtime-Function-Error-Body": {"eyJlcnJvck1lc3NhZ2UiOiJicm9rZSBvZmYifQ=="}, // {"errorMessage":"broke off"}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		panic(err)
	}
	resp.Body.Close()
}

// waitFor bounds a wait for something that is expected soon.
const waitFor = 30 * time.Second
