package localcore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// childTask is the variable that makes this test binary do something else in a process of its own:
// measure its first start, or serve what is to be killed.
const childTask = "LOCALCORE_TEST_CHILD"

// A childReport is what a child writes to its standard output.
type childReport struct {
	Port    int
	PID     int
	Root    []byte
	Claim   localcore.Credential
	Started time.Duration // what Start took
}

// runChild starts a server. Its task is the state directory, or "measure".
func runChild(task string) (code int) {
	c := localcore.Config{State: task}
	if task == "measure" {
		c = localcore.Config{Templates: templates, Credentials: os.Getenv(childTask + "_CREDENTIALS")}
	}
	before := time.Now()
	s, err := localcore.Start(context.Background(), c)
	took := time.Since(before)
	if err == nil && task != "measure" {
		err = allowAll(s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, port := s.Endpoint()
	if err := json.NewEncoder(os.Stdout).Encode(childReport{port, os.Getpid(), s.RootPEM(), s.Claim(), took}); err != nil {
		return 1
	}
	if task != "measure" {
		select {} // until it is killed
	}
	if err := s.Close(); err != nil {
		return 1
	}
	return 0
}

// allowAll lets the claim do everything.
func allowAll(s *localcore.Server) error {
	if _, err := s.Registry().GetPolicy("all"); err == nil {
		return nil
	}
	const document = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`
	if _, err := s.Registry().CreatePolicy("all", document); err != nil {
		return err
	}
	return s.Registry().AttachPolicy("all", registry.CertificateTarget(s.Claim().CertificateID))
}

// startChild runs a server in a process of its own. kill ends that at once, as kill -9 does, and
// returns when it is gone.
func startChild(t testing.TB, task string, env ...string) (report childReport, kill func()) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(append(os.Environ(), childTask+"="+task), env...)
	var complaint strings.Builder
	child.Stderr = &complaint
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = child.Process.Kill() // it may have ended by itself
		_ = child.Wait()
	}
	if err := json.NewDecoder(out).Decode(&report); err != nil {
		kill()
		t.Fatalf("the child: %v: %s", err, complaint.String())
	}
	t.Cleanup(kill)
	return report, kill
}
