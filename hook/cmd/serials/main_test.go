package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	gocmp "github.com/google/go-cmp/cmp"

	"example.com/fleety/hook/internal/dynamotest"
	"example.com/fleety/hook/serials"
)

// run runs the command against a DynamoDB.
func run(t *testing.T, under aws.Config, stdin string, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	command := newCommand(func(_ context.Context, name string) (*serials.Table, error) {
		return serials.New(under, name), nil
	})
	command.SetArgs(args)
	command.SetIn(strings.NewReader(stdin))
	command.SetOut(&out)
	command.SetErr(&out)
	err = command.ExecuteContext(t.Context())
	return out.String(), err
}

func TestLoadAddsAFile(t *testing.T) {
	under := dynamotest.Serve(t)
	file := filepath.Join(t.TempDir(), "delivery.csv")
	if err := os.WriteFile(file, []byte("serialNumber,model\n2974681,A\n2974682,B\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"added 2 of 2 serial numbers\n", "added 0 of 2 serial numbers\n"} {
		if got, err := run(t, under, "", "load", "--table", dynamotest.Table, file); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	want := map[string]map[string]string{"2974681": {"serialNumber": "2974681"}, "2974682": {"serialNumber": "2974682"}}
	if diff := gocmp.Diff(want, dynamotest.Items(t, under)); diff != "" {
		t.Errorf("items differ (-want +got):\n%s", diff)
	}
}

func TestLoadTakesStandardInputAndAnotherPrefix(t *testing.T) {
	under := dynamotest.Serve(t)
	if got, err := run(t, under, "ACME-1\n", "load", "--table", dynamotest.Table, "--prefix", "ACME-", "-"); err != nil || got != "added 1 of 1 serial numbers\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestReleaseSaysWhatItReleased(t *testing.T) {
	under := dynamotest.Serve(t)
	if _, err := run(t, under, "2974681\n", "load", "--table", dynamotest.Table, "-"); err != nil {
		t.Fatal(err)
	}
	got, err := run(t, under, "", "release", "--table", dynamotest.Table, "2974681", "2974689")
	if got != "released 2974681\n" || err == nil || !strings.Contains(err.Error(), "2974689") {
		t.Errorf("%q, %v", got, err)
	}
}

// A full disk, or a reader that is gone, does not hide what was done.
func TestResultThatCannotBePrintedIsAnError(t *testing.T) {
	under := dynamotest.Serve(t)
	reader, closed := io.Pipe()
	reader.Close()
	for _, test := range []struct {
		want string
		args []string
	}{
		{"added 1 of 1 serial numbers, which", []string{"load", "--table", dynamotest.Table, "-"}},
		{"released 2974681, which", []string{"release", "--table", dynamotest.Table, "2974681", "2974682"}},
	} {
		command := newCommand(func(_ context.Context, name string) (*serials.Table, error) { return serials.New(under, name), nil })
		command.SetArgs(test.args)
		command.SetIn(strings.NewReader("2974681\n"))
		command.SetOut(closed)
		if err := command.ExecuteContext(t.Context()); !errors.Is(err, io.ErrClosedPipe) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q", err, test.want)
		}
	}
}

func TestFailuresAddNothing(t *testing.T) {
	tests := map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"no table":        {"2974681\n", []string{"load", "-"}, `required flag(s) "table" not set`},
		"another table":   {"2974681\n", []string{"load", "--table", "other", "-"}, "ResourceNotFoundException"},
		"bad line":        {"2974681\n1234567\n", []string{"load", "--table", dynamotest.Table, "-"}, "nothing was added:\nline 2"},
		"empty":           {"", []string{"load", "--table", dynamotest.Table, "-"}, "no serial number"},
		"heading alone":   {"serialNumber\n", []string{"load", "--table", dynamotest.Table, "-"}, "no serial number"},
		"no file":         {"", []string{"load", "--table", dynamotest.Table, "missing.csv"}, "missing.csv"},
		"no serial":       {"", []string{"release", "--table", dynamotest.Table}, "requires at least 1 arg"},
		"unknown":         {"", []string{"delete", "--table", dynamotest.Table, "2974681"}, "unknown"},
		"not on the list": {"", []string{"release", "--table", dynamotest.Table, "2974681"}, "not in the list"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			under := dynamotest.Serve(t)
			_, err := run(t, under, test.stdin, test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if items := dynamotest.Items(t, under); len(items) != 0 {
				t.Errorf("added %v", items)
			}
		})
	}
}

func TestLoadStopsWhenInterrupted(t *testing.T) {
	under := dynamotest.Serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	added, err := addAll(ctx, serials.New(under, dynamotest.Table), []string{"2974681"})
	if added != 0 || err == nil {
		t.Errorf("added %d, error %v", added, err)
	}
}

func TestSilentServerIsNotWaitedForEver(t *testing.T) {
	released := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	defer silent.Close()
	defer close(released)
	for name, value := range map[string]string{
		"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_ENDPOINT_URL": silent.URL, "AWS_MAX_ATTEMPTS": "1",
	} {
		t.Setenv(name, value)
	}
	defer func(d time.Duration) { requestTimeout = d }(requestTimeout)
	requestTimeout = 50 * time.Millisecond
	command := newCommand(openTable)
	command.SetArgs([]string{"release", "--table", "T", "2974685"})
	if err := command.ExecuteContext(t.Context()); err == nil {
		t.Error("a silent server released a serial number")
	}
}

// TestMain is also the program, for tests that send it a signal.
func TestMain(m *testing.M) {
	if os.Getenv("SERIALS_MAIN") != "" {
		main()
		return
	}
	m.Run()
}

// start starts the program with a DynamoDB.
func start(t *testing.T, endpoint string, args ...string) (program *exec.Cmd, stdin io.Writer, errs *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	program, errs = exec.CommandContext(ctx, os.Args[0], args...), new(bytes.Buffer)
	program.Env = append(os.Environ(), "SERIALS_MAIN=1", "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_ENDPOINT_URL="+endpoint)
	program.Stderr = errs
	stdin, err := program.StdinPipe()
	if err = cmp.Or(err, program.Start()); err != nil {
		t.Fatal(err)
	}
	return program, stdin, errs
}

// Ctrl-C also ends a load that waits for what is typed.
func TestInterruptEndsLoadThatReadsATerminal(t *testing.T) {
	program, stdin, _ := start(t, "http://127.0.0.1:1", "load", "--table", "T", "-")
	if _, err := io.WriteString(stdin, strings.Repeat("\n", 1<<20)); err != nil { // more than the system keeps: it is read
		t.Fatal(err)
	}
	interrupted := program.Process.Signal(os.Interrupt)
	if err := program.Wait(); interrupted != nil || program.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
		t.Errorf("%v, %v", interrupted, err)
	}
}

// Who interrupts a load learns how far it came.
func TestInterruptedLoadSaysWhatItAdded(t *testing.T) {
	var requests atomic.Int32
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) <= 3 {
			_, _ = io.WriteString(w, "{}")
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case asked <- struct{}{}:
			<-r.Context().Done()
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	list := filepath.Join(t.TempDir(), "list.csv")
	if err := os.WriteFile(list, []byte("2974681\n2974682\n2974683\n2974684\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	program, _, errs := start(t, server.URL, "load", "--table", "T", list)
	<-asked
	interrupted := program.Process.Signal(os.Interrupt)
	if err := program.Wait(); interrupted != nil || err == nil || !strings.Contains(errs.String(), " of 4 serial numbers, run it again") {
		t.Errorf("%v, %v: %s", interrupted, err, errs)
	}
}
