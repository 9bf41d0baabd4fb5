package doctor_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/identity/tpm"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/doctor"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// A cause goes by the error's type and by operation and code, however deep it is wrapped, and never
// by the status alone.
func TestCausesOfErrors(t *testing.T) {
	rejected := func(operation awsiot.Operation, status int, code string) error {
		return &awsiot.ErrorResponse{Operation: operation, StatusCode: status, ErrorCode: code, ErrorMessage: "message"}
	}
	at := func(stage session.Stage, err error) error {
		return &session.Error{Stage: stage, Endpoint: "localhost:8883", Address: "proxy:3128", Err: err}
	}
	after := func(packet string, topics ...string) error {
		return &session.Error{Stage: session.StageConnect, Endpoint: "localhost:8883", After: packet, Topics: topics, Err: session.ErrClosedSilently}
	}
	certificate := &x509.Certificate{NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)}
	create := awsiot.CreateCertificateFromCSR
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"hook denies":                    {rejected(awsiot.RegisterThing, 403, "AccessDenied"), "hook-denied"},
		"create is denied":               {rejected(create, 403, "AccessDenied"), "create-denied"},
		"template":                       {rejected(awsiot.RegisterThing, 404, "ResourceNotFound"), "template-missing"},
		"create finds nothing":           {rejected(create, 404, "ResourceNotFound"), "rejected"},
		"parameters":                     {rejected(awsiot.RegisterThing, 400, "InvalidParameters"), "parameter-invalid"},
		"CSR":                            {rejected(create, 400, "InvalidCertificateSigningRequest"), "rejected"},
		"token":                          {rejected(awsiot.RegisterThing, 400, "InvalidCertificateOwnershipToken"), "token-expired"},
		"throttled with status 400":      {rejected(awsiot.RegisterThing, 400, "ThrottlingException"), "throttled"},
		"conflicting update":             {rejected(awsiot.RegisterThing, 409, "ConflictingResourceUpdate"), "throttled"},
		"server error":                   {rejected(create, 503, "ServiceUnavailable"), "throttled"},
		"conflict":                       {rejected(awsiot.RegisterThing, 409, "ResourceAlreadyExists"), "rejected"},
		"another thing name":             {&provision.ThingNameError{Want: "a", Got: "b"}, "thing-name"},
		"no response":                    {&provision.TimeoutError{To: "RegisterThing"}, "no-response"},
		"time-out":                       {context.DeadlineExceeded, "no-response"},
		"interrupted":                    {context.Canceled, ""},
		"claim's time":                   {&awsiot.ValidityError{Certificate: certificate}, "clock"},
		"claim that looks too new":       {fmt.Errorf("%w (%w)", &awsiot.ValidityError{Certificate: certificate}, at(session.StageConnect, &session.ConnackError{Code: 5})), "clock"},
		"another run":                    {&identity.LockedError{PID: 7}, "locked"},
		"damaged identity":               {&identity.FileError{Kind: identity.ErrBroken, Path: "p", Reason: "r"}, "identity-damaged"},
		"damaged journal":                {&identity.FileError{Kind: identity.ErrCorrupt, Path: "the/journal", Reason: "r"}, "journal-damaged"},
		"no TPM":                         {fmt.Errorf("opening key: %w", tpm.ErrNoTPM), "tpm-missing"},
		"cleared TPM":                    {tpm.ErrOtherTPM, "tpm-other"},
		"TPM after an update":            {tpm.ErrPolicy, "tpm-policy"},
		"locked TPM":                     {tpm.ErrLockout, "tpm-busy"},
		"TPM with an owner":              {tpm.ErrOwner, "tpm-owner"},
		"key that does not sign":         {at(session.StageTLS, fmt.Errorf("%w: %w", session.ErrSigning, errors.New("CKR_FUNCTION_FAILED"))), "key-failed"},
		"TPM gone in the handshake":      {at(session.StageTLS, fmt.Errorf("%w: %w", session.ErrSigning, tpm.ErrNoTPM)), "tpm-missing"},
		"permission":                     {&fs.PathError{Op: "open", Path: "p", Err: fs.ErrPermission}, "permission"},
		"socket of another user":         {&net.OpError{Op: "listen", Net: "unix", Err: os.NewSyscallError("bind", syscall.EACCES)}, "agent-socket"},
		"agent of another user":          {&net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}, "agent-access"},
		"full disk":                      {&fs.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}, "disk-full"},
		"quota":                          {&fs.PathError{Op: "write", Path: "p", Err: syscall.EDQUOT}, "disk-full"},
		"rename that is not permitted":   {&os.LinkError{Op: "rename", Old: "o", New: "p", Err: syscall.EPERM}, "permission"},
		"file in place of a folder":      {&fs.PathError{Op: "mkdir", Path: "p/q", Err: syscall.ENOTDIR}, "no-folder"},
		"read-only":                      {&fs.PathError{Op: "open", Path: "p", Err: syscall.EROFS}, "read-only"},
		"FAT":                            {&fs.PathError{Op: "chmod", Path: "p", Err: syscall.EPERM}, "no-permission-bits"},
		"NFS without locks":              {&fs.PathError{Op: "flock", Path: "p", Err: syscall.ENOLCK}, "no-locks"},
		"mount of a single file":         {&os.LinkError{Op: "rename", Old: "p", New: "q", Err: syscall.EBUSY}, "mount-point"},
		"another error of the disk":      {&fs.PathError{Op: "read", Path: "p", Err: syscall.EIO}, "file"},
		"standard output on a full disk": {&fs.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.ENOSPC}, ""},
		"defect":                         {errors.New("surprise"), ""},
		"no such host":                   {at(session.StageResolve, &net.DNSError{Err: "no such host", IsNotFound: true}), "name-unknown"},
		"no name service":                {at(session.StageResolve, &net.DNSError{Err: "timeout", IsTimeout: true}), "name-service"},
		"nobody listens":                 {at(session.StageDial, syscall.ECONNREFUSED), "connection-refused"},
		"firewall of this machine":       {at(session.StageDial, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EPERM)}), "network-denied"},
		"SELinux, with a proxy":          {at(session.StageProxy, os.NewSyscallError("connect", syscall.EACCES)), "network-denied"},
		"no route":                       {at(session.StageDial, syscall.ENETUNREACH), "unreachable"},
		"dropped packets":                {at(session.StageDial, context.DeadlineExceeded), "connection-timeout"},
		"proxy wants a password":         {at(session.StageProxy, &session.ProxyError{StatusCode: 407}), "proxy-authentication"},
		"proxy denies":                   {at(session.StageProxy, &session.ProxyError{StatusCode: 403}), "proxy-denied"},
		"proxy is down":                  {at(session.StageProxy, syscall.ECONNREFUSED), "proxy-down"},
		"proxy is unknown":               {at(session.StageProxy, &net.DNSError{IsNotFound: true}), "proxy-down"},
		"unknown root":                   {at(session.StageTLS, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), "unknown-root"},
		"another server":                 {at(session.StageTLS, &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: certificate, Host: "x"}}), "wrong-server"},
		"clock against the server":       {at(session.StageTLS, &awsiot.ValidityError{Certificate: certificate}), "server-time"},
		"captive portal":                 {at(session.StageTLS, tls.RecordHeaderError{}), "not-tls"},
		"silence in the handshake":       {at(session.StageTLS, session.ErrClosedSilently), "tls-silence"},
		"no ServerHello":                 {at(session.StageTLS, session.ErrNoServerHello), "tls-silence"}, // not even without ML-KEM
		"address without SNI":            {&session.Error{Stage: session.StageTLS, Endpoint: "192.0.2.1:8883", Err: session.ErrClosedSilently}, "no-sni"},
		"client id":                      {at(session.StageConnect, &session.ConnackError{Code: 5}), "connect-denied"},
		"unavailable":                    {at(session.StageConnect, &session.ConnackError{Code: 3}), "throttled"},
		"no ALPN":                        {at(session.StageTLS, tls.AlertError(120)), "tls-alert"},
		"unknown name":                   {at(session.StageTLS, tls.AlertError(112)), "tls-alert"},
		"silence on CONNECT":             {after("CONNECT"), "connect-denied"},
		"silence on PUBLISH":             {after("PUBLISH", "fleet/x"), "topic-denied"},
		"silence with nothing in flight": {at(session.StageLost, session.ErrClosedSilently), "connection-lost"},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := doctor.CauseOf(fmt.Errorf("doing: %w", tt.err), nil)
			if got.ID != tt.want || ok != (tt.want != "") {
				t.Errorf("cause %q, want %q", got.ID, tt.want)
			}
			if strings.ContainsAny(got.Hint(), "{}") {
				t.Errorf("a word is not filled in: %s", got.Hint())
			}
		})
	}
}

// A hint names the roots that are used, and repeats no list of topics that its error has.
func TestHintsNameWhatIsUsed(t *testing.T) {
	unknown := &session.Error{Stage: session.StageTLS, Err: x509.UnknownAuthorityError{}}
	denied := &session.Error{Stage: session.StageConnect, After: "SUBSCRIBE", Topics: []string{"a", "b"}, Err: session.ErrClosedSilently}
	bundle := filepath.Join(t.TempDir(), "roots.pem")
	settings := config.Config{Bootstrap: config.Bootstrap{CACertificatePath: bundle, ProvisioningTemplate: "Typo"}}
	hint := func(err error) string {
		c, _ := doctor.CauseOf(err, &settings)
		return c.Hint()
	}
	if got := hint(unknown); strings.Contains(got, bundle) || !strings.Contains(got, "no root in this program") {
		t.Errorf("without a bundle: %s", got)
	}
	if err := os.WriteFile(bundle, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := hint(unknown); !strings.Contains(got, "no root in "+bundle) {
		t.Errorf("with a bundle: %s", got)
	}
	if got := hint(denied); !strings.Contains(got, "does not allow one of these topics;") || !strings.Contains(got, "provisioningTemplate, Typo,") {
		t.Errorf("several topics: %s", got)
	}
}

// What is advised is done by people under pressure. It must not destroy, must work on a device, and
// must not know what only the hook knows.
func TestRemediesHarmNothing(t *testing.T) {
	forbidden := regexp.MustCompile(`297468|scripts/|templates/|infra/|example-config|\.md\b|\brm\b|delete|INACTIVE|update-certificate|move .* away`)
	seen := map[string]bool{}
	for _, c := range doctor.Causes() {
		if seen[c.ID] || c.Message == "" || c.Why == "" || c.Remedy == "" {
			t.Errorf("%s is there twice or incomplete", c.ID)
		}
		seen[c.ID] = true
		if m := forbidden.FindString(c.Hint()); m != "" {
			t.Errorf("%s: %q in: %s", c.ID, m, c.Hint())
		}
	}
}

// markdown returns the table as docs/troubleshooting.md.
func markdown() string {
	var b strings.Builder
	b.WriteString("# Troubleshooting\n\n" +
		"`iot_device doctor` diagnoses most problems and suggests a fix for each. This is its table of causes, which the hints of errors use too;\n" +
		"the program generates this page. `iot_device help exit-codes` has what a script can rely on.\n\n" +
		"| Message | Cause | What to do | ID |\n|---|---|---|---|\n")
	words := regexp.MustCompile(`\{([a-z]+)\}`)
	cell := func(text string) string {
		text = words.ReplaceAllStringFunc(text, func(w string) string { return strings.ToUpper(strings.Trim(w, "{}")) })
		return strings.ReplaceAll(text, "|", `\|`)
	}
	for _, c := range doctor.Causes() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` |\n", c.Message, cell(c.Why), cell(c.Remedy), c.ID)
	}
	return b.String()
}

// The page has the table as the program has it; with UPDATE_GOLDEN set it is written.
func TestTroubleshootingPageIsTheTable(t *testing.T) {
	page := filepath.Join("..", "..", "..", "docs", "troubleshooting.md")
	want := markdown()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is out of date; run: UPDATE_GOLDEN=1 go test ./internal/doctor -run Troubleshooting", page)
	}
}

func TestFindingsFitATerminal(t *testing.T) {
	c := doctor.Check{Name: "claim-certificate", Result: doctor.Fail, Found: strings.Repeat("word ", 40) + strings.Repeat("0a", 32), Cause: strings.Repeat("why ", 40), Remedy: "do"}
	for line := range strings.Lines(c.String()) {
		if len(strings.TrimRight(line, "\n")) > 80 {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
	if strings.Contains(c.String(), strings.Repeat("0a", 32)) {
		t.Error("a certificate ID is not shortened")
	}
}

func TestFileSystemWithoutPermissionBitsIsNamed(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the types of file systems are known on Linux")
	}
	err := &fs.PathError{Op: "chmod", Path: filepath.Join(t.TempDir(), "not", "there", "p"), Err: syscall.EPERM}
	if c, _ := doctor.CauseOf(fmt.Errorf("storing: %w", err), nil); strings.Contains(c.Why, "unknown") || strings.Contains(c.Why, "{") {
		t.Errorf("the file system is not named: %s", c.Why)
	}
}
