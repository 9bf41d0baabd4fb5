package localcore_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
)

// hookFolder holds the hook's executable alone, once hookBinary has built it.
var hookFolder string

var hookBinary = sync.OnceValues(func() (path string, err error) {
	if hookFolder, err = os.MkdirTemp("", "hook"); err != nil {
		return "", err
	}
	path = filepath.Join(hookFolder, "bootstrap")
	return path, buildFunction(path, ".")
})

// buildFunction builds a function of the hook's module as it is deployed, for this machine.
func buildFunction(path, pkg string) error {
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", path, pkg)
	build.Dir = "../../hook"
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the function %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// buildHook builds the Lambda function for this machine, once for all tests.
func buildHook(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the hook")
	}
	path, err := hookBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html:
// the hook is a Lambda function, run from the same executable as in the cloud.
func TestRealHookDecides(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{Templates: templates, Hook: buildHook(t)})
	if name, _ := enroll(t, s, "2974685"); name != "fleety_2974685" {
		t.Errorf("thing name %q", name)
	}
	claim := dialClaim(t, s)
	got := rejected(t, registerTopic, claim.ask(t, registerTopic, registration(pending(t, claim).CertificateOwnershipToken, "1234567")))
	if want := (awsiot.ErrorResponse{StatusCode: 403, ErrorCode: "AccessDenied", ErrorMessage: "Access denied"}); got != want {
		t.Errorf("rejected with %+v", got)
	}
}

// TestRealHookProtectsThingsInUse has the hook ask this server's control API.
func TestRealHookProtectsThingsInUse(t *testing.T) {
	t.Parallel()
	hook := buildHook(t)
	s := start(t, localcore.Config{Templates: templates, Hook: hook})
	_, first := enroll(t, s, "2974685")
	claim := dialClaim(t, s)
	again := func() paho.Message {
		return claim.ask(t, registerTopic, registration(pending(t, claim).CertificateOwnershipToken, "2974685"))
	}
	if got := rejected(t, registerTopic, again()); got.StatusCode != 403 {
		t.Errorf("a second certificate for a thing in use: rejected with %+v", got)
	}
	digest := sha256.Sum256(first.Certificates[0].Certificate[0])
	if err := s.Registry().UpdateCertificate(hex.EncodeToString(digest[:]), registry.Inactive); err != nil {
		t.Fatal(err)
	}
	accepted[awsiot.RegisterThingResponse](t, registerTopic, again())

	t.Run("without the control API nothing is asked", func(t *testing.T) {
		s := start(t, localcore.Config{Templates: templates, Hook: hook, API: localcore.NoAPI})
		enroll(t, s, "2974685")
		enroll(t, s, "2974685")
	})
}

func TestHookThatCannotRunIsOneClearLine(t *testing.T) {
	t.Parallel()
	_, err := localcore.Start(t.Context(), localcore.Config{Templates: templates, Hook: "../../templates/claim_policy.json"})
	if err == nil || !strings.Contains(err.Error(), "claim_policy.json") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
}
