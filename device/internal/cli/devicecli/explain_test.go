package devicecli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// Service managers and scripts rely on the codes. Only the configuration itself is a 2, and only
// what an authenticated AWS IoT answers is a 3.
func TestExitCodesFollowTheClassOfAnError(t *testing.T) {
	rejected := func(status int, code string) error {
		return &awsiot.ErrorResponse{Operation: awsiot.RegisterThing, StatusCode: status, ErrorCode: code}
	}
	unauthenticated := func(err error) error {
		return &session.Error{Stage: session.StageTLS, Endpoint: "localhost:8883", Err: err}
	}
	for name, tt := range map[string]struct {
		err  error
		want int
	}{
		"problem of the file":      {config.Problems{{What: "w"}}, 2},
		"file that is not ours":    {config.Problems{{What: "w", Machine: true}}, 1},
		"one of each":              {config.Problems{{What: "w", Machine: true}, {What: "w"}}, 2},
		"time of the claim":        {&awsiot.ValidityError{Certificate: &x509.Certificate{}}, 4},
		"another thing name":       {&provision.ThingNameError{Want: "a", Got: "b"}, 2},
		"no thing":                 {&provision.ThingNameError{CertificateID: "ab"}, 2},
		"conflict of files":        {&identity.FileError{Kind: identity.ErrConflict}, 2},
		"another run":              {&identity.LockedError{}, 4},
		"damaged identity":         {&identity.FileError{Kind: identity.ErrBroken}, 1},
		"permission":               {&fs.PathError{Op: "open", Path: "p", Err: fs.ErrPermission}, 1},
		"full disk":                {awsiot.WithClass(awsiot.Temporary, &fs.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}), 4},
		"denial by the hook":       {rejected(403, "AccessDenied"), 3},
		"throttling":               {rejected(400, "Throttling"), 4},
		"captive portal":           {unauthenticated(errors.New("not TLS")), 4},
		"silence over minutes":     {awsiot.WithClass(awsiot.Denied, unauthenticated(session.ErrClosedSilently)), 3},
		"time-out":                 {context.DeadlineExceeded, 4},
		"interrupt":                {context.Canceled, 130},
		"defect":                   {errors.New("surprise"), 1},
		"no identity to forget at": {identity.ErrNone, 1},
	} {
		t.Run(name, func(t *testing.T) {
			got := explain(&deviceError{error: fmt.Errorf("doing: %w", tt.err), config: &config.Config{}})
			if got.Code != tt.want {
				t.Errorf("exit code %d, want %d", got.Code, tt.want)
			}
			if class := awsiot.ClassOf(tt.err); cli.ExitCode(class) != tt.want {
				t.Errorf("class %s", class)
			}
		})
	}
}

func TestAgentThatDoesNotRunIsStarted(t *testing.T) {
	if hint := explain(fmt.Errorf("%w: socket s", agent.ErrNotRunning)).Hint; !strings.Contains(hint, `"iot_device run"`) {
		t.Errorf("the hint is %q", hint)
	}
}
