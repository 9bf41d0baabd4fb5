package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// The GitHub Action starts the emulator for the steps that follow, and describes
// it in its outputs and in their environment.
func TestActionStartsTheEmulator(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../.github/actions/iot-core-local/action.yml")
	if err != nil {
		t.Fatal(err)
	}
	var action struct {
		Inputs  map[string]struct{ Default string }
		Outputs map[string]struct{ Value string }
		Runs    struct {
			Steps []struct {
				ID, Uses, Run string
				Env           map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &action); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	path, err := filepath.Abs("../../.github/actions/iot-core-local")
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]string{} // outputs
	for _, step := range action.Runs.Steps {
		if step.Run == "" {
			if !regexp.MustCompile(`@[0-9a-f]{40}$`).MatchString(step.Uses) {
				t.Errorf("%s is not pinned", step.Uses)
			}
			continue
		}
		script := exec.CommandContext(t.Context(), "bash", "-e", "-o", "pipefail", "-c", step.Run)
		script.Env = append(os.Environ(), "GITHUB_ACTION_PATH="+path, "RUNNER_TEMP="+dir,
			"GITHUB_OUTPUT="+file("output"), "GITHUB_ENV="+file("env"), "GITHUB_PATH="+file("path"))
		for name, value := range step.Env {
			input := strings.TrimSuffix(strings.TrimPrefix(value, "${{ inputs."), " }}")
			script.Env = append(script.Env, name+"="+action.Inputs[input].Default)
		}
		out, err := script.CombinedOutput()
		t.Cleanup(func() { endProcess(t, file("iot_core_local/pid")) })
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for name, value := range readVariables(t, file("output")) {
			set["${{ steps."+step.ID+".outputs."+name+" }}"] = value
		}
	}
	for name, output := range action.Outputs {
		if set[output.Value] == "" {
			t.Errorf("output %s is empty", name)
		}
	}
	environment := readVariables(t, file("env"))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, environment["AWS_ENDPOINT_URL"]+"/_local/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Error(response.Status)
	}
	if _, err := os.Stat(filepath.Join(set["${{ steps.start.outputs.credentials }}"], "device.yaml")); err != nil {
		t.Error(err)
	}
}

// readVariables reads lines of the form NAME=VALUE.
func readVariables(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		all[name] = value
	}
	return all
}

// endProcess ends the process whose id a file has.
func endProcess(t *testing.T, path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return // none was started
	}
	id, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(id)
	if err == nil {
		err = process.Kill()
	}
	if err != nil {
		t.Error(err)
	}
}
