package localcore_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/fleety/device/fleetapi"
	"example.com/fleety/device/localcore"
)

// buildHook builds the Lambda function for this machine.
func buildHook(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bootstrap")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "lambda.norpc", "-o", path, ".")
	build.Dir = "../../hook"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the hook: %v\n%s", err, out)
	}
	return path
}

func TestRealHookDecides(t *testing.T) {
	s := start(t, localcore.Config{Templates: templates, Hook: buildHook(t)})
	if name, _ := enrol(t, s, "2974685"); name != "fleety_2974685" {
		t.Errorf("thing name %q", name)
	}
	claim := dialClaim(t, s)
	got := rejected(t, registerTopic, claim.ask(t, registerTopic, registration(pending(t, claim).CertificateOwnershipToken, "1234567")))
	if want := (fleetapi.ErrorResponse{StatusCode: 403, ErrorCode: "AccessDenied", ErrorMessage: "Access denied"}); got != want {
		t.Errorf("rejected with %+v", got)
	}
}

func TestHookThatCannotRunIsOneClearLine(t *testing.T) {
	_, err := localcore.Start(t.Context(), localcore.Config{Templates: templates, Hook: "../../templates/claim_policy.json"})
	if err == nil || !strings.Contains(err.Error(), "claim_policy.json") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
}
