package localcore_test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore"
)

// AWS's SDK for Python, unmodified, finds what it expects: pages, dates, its own exceptions,
// streams.
func TestSDKForPython(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("Python takes seconds for the SDK")
	}
	python := ""
	for _, candidate := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(candidate, "-c", "import boto3").Run() == nil {
			python = candidate
			break
		}
	}
	if python == "" {
		missing(t, "boto3", "apt-get install python3-boto3")
	}
	s := start(t, localcore.Config{})
	csr, _ := newCSR(t)
	command := exec.CommandContext(t.Context(), python, "testdata/sdk_for_python.py", s.APIURL())
	command.Env, command.Stderr, command.Stdin = awsEnvironment(t, s), t.Output(), strings.NewReader(csr)
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	things := []any{"one", "three", "two"}
	want := map[string]any{
		"things": things, "group": things, "principals": true, "created": true,
		"exceptions": []any{
			"ResourceNotFoundException", "ResourceAlreadyExistsException", "CertificateStateException", "DeleteConflictException",
			"VersionConflictException", "ResourceNotFoundException", "InvalidRequestException", "ResourceNotFoundException",
		},
		"shadow":  map[string]any{"desired": map[string]any{"rate": 5.0}, "delta": map[string]any{"rate": 5.0}},
		"shadows": []any{"config"}, "job": "COMPLETED", "execution": "SUCCEEDED", "tunnel": "OPEN", "retained": "hello", "rule": 200.0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
