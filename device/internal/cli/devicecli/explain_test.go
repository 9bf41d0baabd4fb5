package devicecli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// Scripts rely on the codes; people on the hints. Both follow the error's type,
// however deep it is wrapped.
func TestErrorsGetTheirCodeAndHint(t *testing.T) {
	refused := func(status int) error {
		return &awsiot.ErrorResponse{StatusCode: status, ErrorCode: "Code", ErrorMessage: "message"}
	}
	at := func(stage session.Stage, err error) error {
		return &session.Error{Stage: stage, Endpoint: "localhost:8883", Authenticated: stage == session.StageConnect, Err: err}
	}
	after := func(packet string, topics ...string) error {
		return &session.Error{Stage: session.StageConnect, Endpoint: "localhost:8883", After: packet, Topics: topics, Err: session.ErrClosedSilently}
	}
	tests := map[string]struct {
		err  error
		code int
		hint string // a part of it
	}{
		"hook":               {refused(403), 3, `probably refused serial "1234567"`},
		"template":           {refused(404), 3, `template "T" is probably not in this account`},
		"parameters":         {refused(400), 3, `deviceLocation "Atlantis"`},
		"throttled":          {refused(429), 4, "throttling"},
		"server error":       {refused(503), 4, "run again later"},
		"another refusal":    {refused(409), 3, "AWSIotLogsV2"},
		"another thing name": {&provision.ThingNameError{Want: "a", Got: "b"}, 2, `set thingname to "b"`},
		"no answer":          {&provision.TimeoutError{To: "RegisterThing"}, 4, "--timeout"},
		"time-out":           {context.DeadlineExceeded, 4, "--timeout"},
		"interrupted":        {context.Canceled, 130, ""},

		"another run":         {&identity.LockedError{PID: 7}, 4, "wait for the other run"},
		"broken identity":     {&identity.BrokenError{Path: "p", Reason: "r"}, 1, "--reprovision"},
		"damaged journal":     {&identity.CorruptError{Path: "the/journal", Reason: "r"}, 1, "move the/journal away"},
		"permission":          {&fs.PathError{Op: "open", Path: "p", Err: fs.ErrPermission}, 1, "owns the files"},
		"full disk":           {&fs.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}, 1, "full"},
		"defect":              {errors.New("surprise"), 1, ""},
		"no such host":        {at(session.StageResolve, &net.DNSError{Err: "no such host", IsNotFound: true}), 4, "check server.endpoint"},
		"no name service":     {at(session.StageResolve, &net.DNSError{Err: "timeout", IsTimeout: true}), 4, "DNS answers"},
		"nobody listens":      {at(session.StageDial, syscall.ECONNREFUSED), 4, "lets port 8883 out; server.port 443"},
		"proxy":               {at(session.StageProxy, &session.ProxyError{StatusCode: 407, Status: "407 Proxy Authentication Required"}), 4, "check server.proxy"},
		"unknown root":        {at(session.StageTLS, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), 4, "roots.pem does not hold the root"},
		"another server":      {at(session.StageTLS, &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}}), 4, "the server is not localhost:8883"},
		"unknown certificate": {at(session.StageConnect, tls.AlertError(42)), 3, "not registered or not active"},
		"client id":           {at(session.StageConnect, &session.ConnackError{Code: 5}), 3, "does not allow this client id"},
		"silence on CONNECT":  {after("CONNECT"), 4, "does not allow this client id"},
		"silence on PUBLISH":  {after("PUBLISH", "fleet/x"), 4, "does not allow fleet/x"},
		"often silent":        {&provision.DeniedError{Role: "claim", Packet: "SUBSCRIBE", Err: after("SUBSCRIBE", "a/b")}, 3, "does not allow a/b"},
	}
	c := &config.Config{SerialNumber: "1234567", DeviceLocation: "Atlantis"}
	c.Server.Port = 8883
	c.Bootstrap.ProvisioningTemplate = "T"
	c.Bootstrap.CACertificatePath = "roots.pem"
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := explain(&bootstrapError{config: c, err: fmt.Errorf("registering thing: %w", tt.err)})
			if got.Code != tt.code {
				t.Errorf("code %d, want %d", got.Code, tt.code)
			}
			if !strings.Contains(got.Hint, tt.hint) || (tt.hint == "") != (got.Hint == "") {
				t.Errorf("hint %q, want %q in it", got.Hint, tt.hint)
			}
		})
	}
}

func TestRefusalOfOurOwnSerialPointsToItsThing(t *testing.T) {
	err := &awsiot.ErrorResponse{StatusCode: 403, ErrorCode: "AccessDenied", ErrorMessage: "Access denied"}
	got := explain(&bootstrapError{config: &config.Config{SerialNumber: "2974685"}, err: err})
	if want := "another active certificate"; got.Code != 3 || !strings.Contains(got.Hint, want) {
		t.Errorf("code %d, hint %q, want code 3 and a hint with %q", got.Code, got.Hint, want)
	}
}
