package localcore_test

import (
	"os/exec"
	"strings"
	"testing"
)

// The emulator ships in a binary, where package testing would add its flags. It shares wire types
// and the reading of files with the device, and nothing else: only then does testing one against the other mean something.
func TestImportsStayOnThisSide(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for path := range strings.FieldsSeq(string(out)) {
		switch {
		case path == "testing":
			t.Error("package testing is linked")
		case strings.HasPrefix(path, "example.com/fleety/device/localcore"), path == "example.com/fleety/device/awsiot",
			path == "example.com/fleety/device/internal/osfile", path == "example.com/fleety/hook/payload":
		case strings.HasPrefix(path, "example.com/fleety/"):
			t.Errorf("%s is imported", path)
		}
	}
}
