package stack_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A rehearsal runs the stack with the hook built for another machine: nothing else may differ from
// what is deployed.
func TestMachineOfTheHookChangesNothingElse(t *testing.T) {
	rehearsed, err := synth(map[string]any{"certificateArn": arnA, "hookArchitecture": "x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	deployed := synthesized(t, byDefault).Text
	if diff := cmp.Diff(string(deployed), string(bytes.ReplaceAll(rehearsed.Text, []byte(`"x86_64"`), []byte(`"arm64"`)))); diff != "" {
		t.Errorf("deployed (-), rehearsed (+):\n%s", diff)
	}
}
