package stack_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTemplatesAreCleanUnderCfnLint leaves out W3005 alone: the CDK makes a function wait for its
// role, which it refers to anyway.
func TestTemplatesAreCleanUnderCfnLint(t *testing.T) {
	lint, err := exec.LookPath("cfn-lint")
	if err != nil {
		t.Skip("cfn-lint is not installed: pip install cfn-lint")
	}
	for name, synth := range map[string]func() (template, error){"by default": byDefault, "with options": withOptions} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "template.json")
			if err := os.WriteFile(file, synthesized(t, synth).Text, 0o600); err != nil {
				t.Fatal(err)
			}
			found, err := exec.CommandContext(t.Context(), lint, "--ignore-checks", "W3005", "--template", file).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, found)
			}
		})
	}
}
