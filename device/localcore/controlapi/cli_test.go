package controlapi_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/fleety/device/localcore/registry"
)

// A cli runs the AWS command line against the API.
type cli struct {
	url string
	env []string
}

func newCLI(t *testing.T, url string) cli {
	t.Helper()
	if testing.Short() {
		t.Skip("the AWS command line takes a second for each command")
	}
	if _, err := exec.LookPath("aws"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("the aws command line is not installed")
		}
		t.Skip("the aws command line is not installed")
	}
	none := filepath.Join(t.TempDir(), "none")
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	return cli{url, append(env,
		"AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1", "AWS_PAGER=",
		"AWS_MAX_ATTEMPTS=1", "AWS_CONFIG_FILE="+none, "AWS_SHARED_CREDENTIALS_FILE="+none)}
}

// run returns what the command prints, decoded where it is JSON, and its
// standard error.
func (c cli) run(t *testing.T, service string, arguments ...string) (out map[string]any, stderr string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "aws", append([]string{service, "--endpoint-url", c.url, "--output", "json"}, arguments...)...)
	command.Env = c.env
	var stdout, errout bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &errout
	if err := command.Run(); err != nil {
		return nil, err.Error() + ": " + errout.String()
	}
	if stdout.Len() > 0 {
		if err := json.Unmarshal(stdout.Bytes(), &out); err != nil {
			t.Fatalf("%v: %s", arguments, stdout.Bytes())
		}
	}
	return out, ""
}

func (c cli) must(t *testing.T, service string, arguments ...string) map[string]any {
	t.Helper()
	out, stderr := c.run(t, service, arguments...)
	if stderr != "" {
		t.Fatalf("aws %s %v: %s", service, arguments, stderr)
	}
	return out
}

func TestAWSCommandLineIsServed(t *testing.T) {
	t.Parallel()
	e := start(t)
	aws := newCLI(t, e.url)

	made := aws.must(t, "iot", "create-keys-and-certificate", "--set-as-active")
	id := made["certificateId"].(string)
	for _, name := range []string{"a", "b"} {
		must(e.registry.CreateThing(registry.Thing{Name: name}))(t)
	}
	if listed := aws.must(t, "iot", "list-things", "--page-size", "1"); len(listed["things"].([]any)) != 2 {
		t.Errorf("listed %v", listed)
	}
	if _, stderr := aws.run(t, "iot", "delete-certificate", "--certificate-id", id); !strings.Contains(stderr, "(CertificateStateException)") {
		t.Errorf("deleting an active certificate: %s", stderr)
	}
	aws.must(t, "iot-data", "publish", "--topic", "a/b", "--qos", "1", "--payload", "aGVsbG8=")
	if len(e.core.published) != 1 || e.core.published[0].Topic != "a/b" {
		t.Errorf("published %+v", e.core.published)
	}
}
