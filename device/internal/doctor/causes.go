package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/identity/tpm"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// A Cause is one reason why a device does not work. Words in braces stand for what is known of the
// device, such as {serial}; outside of a table they are filled in.
type Cause struct {
	ID      string // for tests and for links
	Message string // how the error reads, for the docs
	Why     string // "probably" marks what is inferred
	Remedy  string // what to do; it destroys nothing, and names nothing that is not on the device or in the AWS account
}

// Hint returns cause and remedy in one line.
func (c Cause) Hint() string { return strings.TrimPrefix(c.Why+"; "+c.Remedy, "; ") }

const (
	askForEndpoint = `set server.endpoint to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`
	readLog        = "AWS IoT's log (CloudWatch, log group AWSIotLogsV2) has the reason"
	retries        = "the device tries again; to try now, run the command again: an interrupted run is resumed"
)

//go:embed causes.json
var causesJSON []byte

// Causes returns the one table of causes: of the hints of errors, of the doctor's findings, and of
// docs/troubleshooting.md. It is JSON, because a bootstrap has no room for a decoder of YAML.
var Causes = sync.OnceValue(func() (causes []Cause) {
	if err := json.Unmarshal(causesJSON, &causes); err != nil {
		panic(err) // a test reads them
	}
	for i := range causes {
		causes[i].Remedy = strings.NewReplacer("{log}", readLog, "{retries}", retries).Replace(causes[i].Remedy)
	}
	return causes
})

// cause returns an entry of the table with its words filled in: facts are pairs of a word and its
// value. An unknown word stays out of sight.
func cause(id string, facts ...string) Cause {
	c := Causes()[slices.IndexFunc(Causes(), func(c Cause) bool { return c.ID == id })]
	var pairs []string
	for i := 0; i < len(facts); i += 2 {
		pairs = append(pairs, "{"+facts[i]+"}", facts[i+1])
	}
	fill := strings.NewReplacer(pairs...)
	c.Why, c.Remedy = fill.Replace(c.Why), fill.Replace(c.Remedy)
	return c
}

// CauseOf returns the cause of an error, by its type and the operation and code that AWS IoT answered,
// never by its text. ok is false for an error that says all there is to say. c may be nil.
func CauseOf(err error, c *config.Config) (found Cause, ok bool) {
	id, facts := identify(err)
	if id == "" {
		return Cause{}, false
	}
	if c == nil {
		c = &config.Config{}
	}
	facts = append(facts,
		"serial", fmt.Sprintf("%q", c.SerialNumber), "location", fmt.Sprintf("%q", c.DeviceLocation),
		"template", c.Bootstrap.ProvisioningTemplate, "roots", c.RootsFrom(),
		"endpoint", c.Server.Endpoint, "host", c.Server.Endpoint, "port", fmt.Sprint(c.Server.Port),
		"topics", "the request", "proxy", "", "path", "it")
	return cause(id, facts...), true
}

// identify returns the ID of the most specific cause in an error's chain, and the facts that it has.
func identify(err error) (id string, facts []string) {
	for _, key := range []struct {
		target error
		id     string
	}{
		{tpm.ErrLockout, "tpm-busy"}, {tpm.ErrBusy, "tpm-busy"}, {tpm.ErrOtherTPM, "tpm-other"}, {tpm.ErrPolicy, "tpm-policy"},
		{tpm.ErrNoTPM, "tpm-missing"}, {tpm.ErrOwner, "tpm-owner"}, {identity.ErrUnavailable, "key-unavailable"},
	} {
		if errors.Is(err, key.target) {
			return key.id, nil
		}
	}
	rejection, rejected := errors.AsType[*awsiot.ErrorResponse](err)
	name, named := errors.AsType[*provision.ThingNameError](err)
	connection, connecting := errors.AsType[*session.Error](err)
	unusable, isUnusable := errors.AsType[*identity.FileError](err)
	socket, _ := errors.AsType[*net.OpError](err)
	unix := socket != nil && strings.HasPrefix(socket.Net, "unix")
	file, isFile := errors.AsType[*fs.PathError](err)
	if link, renaming := errors.AsType[*os.LinkError](err); renaming {
		file, isFile = &fs.PathError{Op: link.Op, Path: link.New, Err: link.Err}, true
	}
	switch {
	case rejected:
		return identifyRejection(rejection), nil
	case named && name.Got == "":
		return "no-thing-name", nil
	case named:
		return "thing-name", []string{"got", fmt.Sprintf("%q", name.Got)}
	case isA[*awsiot.ValidityError](err) && (!connecting || !isA[*awsiot.ValidityError](connection)): // not the server's
		return "clock", nil
	case connecting:
		// AWS IoT does not say which of several topics it denied; the error lists them.
		topics := [...]string{"the request", strings.Join(connection.Topics, ""), "one of these topics"}[min(len(connection.Topics), 2)]
		return identifyConnection(connection), []string{"proxy", connection.Address, "topics", topics}
	case isUnusable:
		return map[error]string{
			identity.ErrBroken: "identity-damaged", identity.ErrConflict: "file-conflict", identity.ErrAccess: "not-private", identity.ErrCorrupt: "journal-damaged",
		}[unusable.Kind], []string{"path", unusable.Path}
	case unix && socket.Op == "listen":
		return "agent-socket", nil
	case unix && errors.Is(socket, fs.ErrPermission):
		return "agent-access", nil
	case isA[*identity.LockedError](err):
		return "locked", nil
	case isFile && file.Path == os.Stdout.Name(): // the work is done, and nobody reads what is printed
		return "", nil
	case isFile:
		return identifyDisk(file), []string{"path", file.Path, "filesystem", fileSystem(filepath.Dir(file.Path))}
	case isA[*provision.TimeoutError](err), errors.Is(err, context.DeadlineExceeded):
		return "no-response", nil
	}
	return "", nil
}

// when returns the ID of a cause if it applies.
func when(id string, applies bool) string {
	if !applies {
		return ""
	}
	return id
}

// identifyRejection goes by operation and code. AWS publishes no list of the codes: the status
// counts where the code is not known.
func identifyRejection(e *awsiot.ErrorResponse) string {
	code := func(known ...string) bool {
		return slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(e.ErrorCode, k) })
	}
	register, credentials := e.Operation == awsiot.RegisterThing, e.Operation == awsiot.AssumeRoleWithCertificate
	denied := code("AccessDenied", "Unauthorized", "Forbidden")
	return cmp.Or(
		when("throttled", e.Class() == awsiot.Temporary),
		when("credentials-denied", credentials && code("AccessDenied")),
		when("role-alias-missing", credentials && e.StatusCode == 404),
		when("role-not-assumed", credentials),
		when("token-expired", register && code("InvalidCertificateOwnershipToken")),
		when("hook-denied", register && denied),
		when("template-missing", register && code("ResourceNotFound")),
		when("parameter-invalid", register && code("InvalidParameters", "InvalidRequest", "InvalidParameter", "Validation")),
		when("create-denied", denied),
		"rejected",
	)
}

// identifyConnection goes by the stage and the cause of a failed connection.
func identifyConnection(e *session.Error) string {
	dns, _ := errors.AsType[*net.DNSError](e)
	proxy, _ := errors.AsType[*session.ProxyError](e)
	connack, _ := errors.AsType[*session.ConnackError](e)
	unknownRoot, otherName, time := isA[x509.UnknownAuthorityError](e), isA[x509.HostnameError](e), isA[*awsiot.ValidityError](e)
	alert, silent := isA[tls.AlertError](e), errors.Is(e, session.ErrClosedSilently)
	host, _, _ := net.SplitHostPort(e.Endpoint)
	isTLS := e.Stage == session.StageTLS
	return cmp.Or(
		when("key-failed", errors.Is(e, session.ErrSigning)),
		when("proxy-scheme", proxy != nil && proxy.StatusCode == 407 && len(proxy.Schemes) > 0 &&
			!slices.ContainsFunc(proxy.Schemes, func(s string) bool { return strings.EqualFold(s, "Basic") })),
		when("proxy-authentication", proxy != nil && proxy.StatusCode == 407),
		when("proxy-denied", proxy != nil),
		when("name-unknown", dns != nil && dns.IsNotFound && e.Stage != session.StageProxy),
		when("name-service", dns != nil && e.Stage != session.StageProxy),
		when("server-time", time),
		when("network-denied", errors.Is(e, syscall.EPERM) || errors.Is(e, syscall.EACCES) || errors.Is(e, syscall.EAFNOSUPPORT)),
		when("proxy-down", e.Stage == session.StageProxy && !unknownRoot && !otherName),
		when("proxy-address", e.Stage == session.StageOptions && strings.Contains(e.Err.Error(), "proxy")),
		when("unknown-root", unknownRoot),
		when("wrong-server", otherName),
		when("not-tls", isA[tls.RecordHeaderError](e)),
		when("certificate-rejected", alert && awsiot.ClassOf(e) == awsiot.Denied),
		when("no-sni", isTLS && net.ParseIP(host) != nil),
		when("tls-alert", isTLS && alert),
		when("throttled", connack != nil && connack.Code == 3), // server unavailable
		when("connect-denied", connack != nil || silent && e.After == "CONNECT"),
		when("topic-denied", silent && (e.After == "SUBSCRIBE" || e.After == "PUBLISH")),
		when("tls-silence", isTLS),
		when("connection-refused", errors.Is(e, syscall.ECONNREFUSED)),
		when("unreachable", errors.Is(e, syscall.ENETUNREACH) || errors.Is(e, syscall.EHOSTUNREACH) || errors.Is(e, syscall.ENETDOWN)),
		when("connection-timeout", e.Stage == session.StageDial),
		when("connection-lost", e.Stage != session.StageOptions),
	)
}

// identifyDisk covers what the local machine can get wrong.
func identifyDisk(e *fs.PathError) string {
	return cmp.Or(
		when("no-permission-bits", strings.HasSuffix(e.Op, "chmod")),
		when("no-locks", e.Op == "flock"),
		when("mount-point", e.Op == "rename" && errors.Is(e, syscall.EBUSY)),
		when("permission", errors.Is(e, fs.ErrPermission)),
		when("disk-full", errors.Is(e, syscall.ENOSPC) || errors.Is(e, syscall.EDQUOT)),
		when("no-folder", errors.Is(e, syscall.ENOTDIR)),
		when("read-only", errors.Is(e, syscall.EROFS)),
		"file",
	)
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
