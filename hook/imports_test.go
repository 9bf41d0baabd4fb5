package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSharedPackagesStayLight keeps what the device and the emulator share with the hook free of
// dependencies: a device must not carry Lambda's library.
func TestSharedPackagesStayLight(t *testing.T) {
	for name, want := range map[string][]string{
		"./payload": {"example.com/fleety/hook/payload"},
		"./admit":   {"example.com/fleety/hook/payload", "example.com/fleety/hook/admit"},
	} {
		t.Run(name, func(t *testing.T) {
			list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", name)
			list.Env = append(os.Environ(), "GOWORK=off")
			output, err := list.Output()
			if err != nil {
				t.Fatalf("go list %s: %v", name, err)
			}
			if diff := cmp.Diff(want, strings.Fields(string(output))); diff != "" {
				t.Errorf("imports beyond the standard library differ (-want +got):\n%s", diff)
			}
		})
	}
}
