package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/identity/tpm"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// A Cause is one reason why a device does not work. Words in braces stand for
// what is known of the device, such as {serial}; outside of a table they are
// filled in.
type Cause struct {
	ID      string // for tests and for links
	Message string // how the error reads, for the docs
	Why     string // "probably" marks what is inferred
	// Remedy is what to do. It destroys nothing, and names nothing that is not on
	// the device or in the AWS account.
	Remedy string
}

// Hint returns cause and remedy in one line.
func (c Cause) Hint() string {
	if c.Why == "" {
		return c.Remedy
	}
	return c.Why + "; " + c.Remedy
}

const (
	askForEndpoint = `set server.endpoint to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`
	readLog        = "AWS IoT's log (CloudWatch, log group AWSIotLogsV2) has the reason"
	retries        = "the device tries again; to try now, run the command again: an interrupted run is resumed"
)

// Causes is the one table of causes: of the hints of errors, of the doctor's
// findings, and of docs/troubleshooting.md.
var Causes = []Cause{
	// What AWS IoT answers.
	{"hook-denied", "registering thing: rejected by AWS IoT: AccessDenied (403)",
		"the pre-provisioning hook denied serial number {serial}, because it is not allowed or its thing has another active certificate, or the hook failed: AWS IoT answers all alike",
		"read the hook's log: it has the reason, and which command allows the device, if an operator can"},
	{"template-missing", "registering thing: rejected by AWS IoT: ResourceNotFound (404)",
		"the template {template} is probably not in this account and Region",
		"compare bootstrap.provisioningTemplate with the outputs of the deployed stack, and server.endpoint with its account and Region"},
	{"parameter-invalid", "registering thing: rejected by AWS IoT: InvalidParameters (400)",
		"a template parameter is probably invalid, most often deviceLocation: the template does not know {location}, or a parameter has no value",
		"set deviceLocation to one that the template's mapping has, and every template parameter to a value"},
	{"token-expired", "registering thing: rejected by AWS IoT: InvalidCertificateOwnershipToken (400)",
		"the certificate ownership token is probably no longer valid: it expires after an hour",
		"run the command again: the device requests a new certificate"},
	{"throttled", "rejected by AWS IoT: Throttling (400)",
		"AWS IoT is throttling requests or is unavailable", retries},
	{"create-denied", "creating certificate: rejected by AWS IoT: AccessDenied (403)",
		"the claim certificate is probably not allowed to request certificates in this account and Region",
		"have the claim policy attached to the claim certificate; " + readLog},
	{"credentials-denied", "requesting credentials of role alias …: rejected by AWS IoT: AccessDenied (403)",
		"the device's policies do not allow iot:AssumeRoleWithCertificate on the role alias, or its thing is not attached to its certificate",
		"have an operator allow it in a policy of the device, and attach the thing"},
	{"role-alias-missing", "requesting credentials of role alias …: rejected by AWS IoT: ResourceNotFound (404)",
		"the role alias is not in this account and Region", "compare --role-alias with the output of \"aws iot list-role-aliases\", and server.endpoint with its account and Region"},
	{"role-not-assumed", "requesting credentials of role alias …: rejected by AWS IoT: any other code",
		"the role does not exist, its trust policy does not name credentials.iot.amazonaws.com, or its maximum session duration is less than that of the role alias",
		"have an operator compare the role with the role alias"},
	{"rejected", "rejected by AWS IoT: any other code",
		"the code and the message are AWS IoT's", readLog},
	{"no-response", "no response within …",
		"the network or AWS IoT is slow, or AWS IoT is throttling requests",
		"run the command again: an interrupted run is resumed; or set a longer --timeout"},
	{"thing-name", "AWS IoT named the thing …, the configuration demands …",
		"the template gives the thing another name than the configuration",
		"set thingname to {got} or remove it, then run the command again: the certificate is kept"},

	{"no-thing-name", "AWS IoT registered certificate … without naming a thing",
		"the template creates no thing, or gives it no name", "set thingname to the name that the thing has, then run the command again: the certificate is kept"},

	// What the server's silence, its alerts and its CONNACK mean.
	{"certificate-rejected", "server sent a TLS alert: …",
		"AWS IoT rejected the certificate: it is probably not registered or not active in this account and Region",
		"have an operator check the certificate's status in the account and Region of server.endpoint"},
	{"connect-denied", "connecting to …: server closed the connection without a response; or CONNACK return code 5",
		"the certificate is probably not active in this account and Region, or its policy does not allow this client id (claim sessions use claim-…); a bad network and an exceeded quota look alike",
		"have an operator check the certificate's status and policy; " + readLog},
	{"topic-denied", "subscribing or publishing to …: server closed the connection without a response",
		"the certificate's policy probably does not allow {topics}; a bad network and an exceeded quota look alike",
		"have an operator compare the certificate's policy with the deployed one; " + readLog},
	{"connection-lost", "connection to … lost",
		"the network failed, or AWS IoT denied a request", retries + "; " + readLog},

	// The way to the server.
	{"name-unknown", "no such host",
		"the name server knows no {host}: it has a typo, or the uplink of the network is not up yet",
		"check server.endpoint for a typo; else wait for the network"},
	{"name-service", "lookup …: i/o timeout, server misbehaving",
		"{host} cannot be looked up: the device is offline, or its name server does not respond",
		"check that the device is online and that the name server of its network responds"},
	{"unreachable", "network is unreachable, no route to host",
		"the device has no route to the network", "check that the device is online"},
	{"connection-refused", "connection refused",
		"nothing listens there, or a firewall rejects the connection",
		"check server.endpoint and server.port; server.port 443 often passes a firewall"},
	{"connection-timeout", "opening a connection to …: no response within …",
		"a firewall probably drops the packets", "have port {port} opened, or use server.port 443 or server.proxy"},
	{"port-blocked", "opening a connection to …: any error, while the other port of AWS IoT is open",
		"a firewall probably blocks port {port}", "set server.port to {other}, which is open"},
	{"proxy-down", "asking proxy … for a tunnel: connection refused, i/o timeout, no such host",
		"the proxy {proxy} cannot be reached", "check the proxy, and server.proxy or HTTPS_PROXY and NO_PROXY"},
	{"proxy-authentication", "proxy answered 407",
		"the proxy requires a user and a password", "add them to server.proxy: http://USER:PASSWORD@HOST:PORT"},
	{"proxy-scheme", "proxy answered 407; it accepts only NTLM",
		"the proxy does not offer Basic authentication, the only kind that this program has", "have the proxy's administrator allow this device without authentication, or with Basic"},
	{"proxy-denied", "proxy answered 403, 405, 502",
		"the proxy does not open a tunnel to this host and port", "have the proxy's administrator allow it, or use server.port 443"},
	{"proxy-address", "the proxy's address is not of the form …",
		"server.proxy, or HTTPS_PROXY, is no address of a proxy", "write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"},

	// TLS with the server.
	{"client-hello", "no response to the TLS ClientHello",
		"the network drops or resets TLS connections that begin with two segments, as with ML-KEM key exchange, or packets above a certain size (MTU)",
		"have the firewall or VPN on the way updated, or its MTU corrected; smaller handshakes, without ML-KEM, are tried by themselves"},
	{"tls-silence", "negotiating TLS with …: no response within …, closed by the server",
		"a proxy or firewall on the way blocks TLS; the server did not respond", "check the network between here and the endpoint"},
	{"tls-alert", "negotiating TLS with …: server sent a TLS alert: …",
		"the server, or a proxy or firewall in its place, ended the TLS handshake before it proved its name", "check server.endpoint and server.port, and the network between here and the endpoint"},
	{"not-tls", "first record does not look like a TLS handshake",
		"a captive portal or a proxy probably answers in place of the server, or the port is wrong",
		"log in to the network, set server.proxy, or correct server.port"},
	{"unknown-root", "certificate signed by unknown authority",
		"the server's certificate leads to no root in {roots}",
		"check server.endpoint; for AWS, remove bootstrap.cacertificatepath to use the Amazon roots of this program; log in to the network if it has a captive portal"},
	{"wrong-server", "certificate is valid for …, not …",
		"another server answers in place of {endpoint}: the endpoint is wrong, or a proxy or a captive portal intercepts the connection",
		"check server.endpoint; log in to the network"},
	{"server-time", "server certificate … is not valid before, expired on …",
		"the clock of this device is wrong, or the server's certificate is out of date", "set the clock: start an NTP client, or wait until the one that runs has set it"},
	{"no-sni", "an address sends no SNI",
		"TLS sends no server name (SNI) for an address, and AWS IoT requires one", "set server.endpoint to a host name"},

	// This device.
	{"clock", "the claim … is not valid before, expired on …; the clock is …",
		"the clock of this device is wrong, or the claim has expired",
		"set the clock: start an NTP client, or wait until the one that runs has set it; if the clock is right, the device needs a new claim"},
	{"locked", "another run, process …, is provisioning this device",
		"two runs at once cannot provision one device", `wait for the other run; "iot_device status" shows its progress`},
	{"identity-damaged", "device identity: …: is missing, is not the key of …",
		"files of the device's identity are missing or damaged",
		`restore them from a backup; without one, "iot_device bootstrap --reprovision" gets a new identity, and keeps what it replaces until the new one is verified`},
	{"file-conflict", "device identity: …: is also …, is the identity of serial number …",
		"{path} is needed for something else, or belongs to another device, such as the one that the image was copied from; that device's certificate must stay active",
		"set stateDir, or the paths in the section primary, to a place for this device alone; keep the file, which may be the only copy of a key"},
	{"not-private", "device identity: … belongs to user …, can be written by …",
		"another user can write {path}, and could have put it there",
		"check who made it, then correct its owner and mode: the user that runs iot_device, and writable for that user alone"},
	{"journal-damaged", "provisioning journal … is damaged",
		"what an interrupted run has stored cannot be read",
		"rename {path} and run the command again: the device requests a new certificate"},
	{"key-unavailable", "the private key's hardware cannot be used",
		"the key is in a PKCS #11 token that is not there or does not open, or this program is built without PKCS #11; the identity is whole", "connect the token, check its module and PIN, and use a program from make device-pkcs11"},
	{"tpm-missing", "no TPM 2.0 can be opened",
		"bootstrap.keys is tpm, and this device has no TPM 2.0 that this user may open", "enable the TPM in the firmware, load its driver, and let the user open /dev/tpmrm0 (group tss)"},
	{"tpm-other", "the key belongs to another TPM, or this TPM was cleared",
		"the private key cannot be used on this hardware any more", "have an operator allow the device to provision again, then run \"iot_device bootstrap --reprovision\""},
	{"tpm-policy", "the platform configuration registers differ",
		"the key is bound to registers that an update of firmware, boot loader or kernel has changed", "go back to the former version, or have an operator allow the device to provision again, then run \"iot_device bootstrap --reprovision\""},
	{"tpm-busy", "the TPM is locked, the TPM is in use",
		"the TPM does not serve this program now", "use the resource manager /dev/tpmrm0, and wait: the lock ends by itself; the device tries again"},
	{"no-permission-bits", "chmod …: operation not permitted",
		"{path} is on a file system without permission bits ({filesystem}), such as FAT, exFAT or CIFS, where a private key is not protected",
		"set stateDir to a folder on another file system, such as ext4"},
	{"no-locks", "flock …: no locks available, function not implemented",
		"{path} is on a file system without file locks ({filesystem}), such as some NFS", "set stateDir to a folder on a local file system"},
	{"permission", "permission denied",
		"this user may not use {path}", "run as the user that owns the files, or change their owner or mode"},
	{"agent-socket", "listening for programs (agent.socket): any error",
		"the agent cannot listen at agent.socket: this user may not create it, or its path has more than 107 characters",
		"run as the user of the service, or set agent.socket to a short path in a folder of this user"},
	{"agent-access", "asking the agent: … permission denied",
		"this user may not use the agent's socket: it is for the agent's user and group", "add the user to that group, as in: usermod -aG iot_device USER"},
	{"disk-full", "no space left on device, disk quota exceeded",
		"the file system of {path} is full", "free space there: an identity needs less than 1 MB; the device tries again"},
	{"read-only", "read-only file system",
		"{path} is on a read-only file system", "set stateDir to a writable folder, or mount the file system for writing"},
	{"file", "open, read, write, rename: any other error",
		"{path} cannot be used", "check the path and the state of the disk"},
}

// Markdown returns the table as docs/troubleshooting.md.
func Markdown() string {
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
	for _, c := range Causes {
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` |\n", c.Message, cell(c.Why), cell(c.Remedy), c.ID)
	}
	return b.String()
}

// cause returns an entry of the table with its words filled in: facts are pairs
// of a word and its value. An unknown word stays out of sight.
func cause(id string, facts ...string) Cause {
	i := slices.IndexFunc(Causes, func(c Cause) bool { return c.ID == id })
	c := Causes[i]
	var pairs []string
	for i := 0; i < len(facts); i += 2 {
		pairs = append(pairs, "{"+facts[i]+"}", facts[i+1])
	}
	fill := strings.NewReplacer(pairs...)
	c.Why, c.Remedy = fill.Replace(c.Why), fill.Replace(c.Remedy)
	return c
}

// CauseOf returns the cause of an error, by its type and by the operation and
// code that AWS IoT answered, never by its text. ok is false for an error that
// says all there is to say. c may be nil.
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
		"template", c.Bootstrap.ProvisioningTemplate, "roots", c.Bootstrap.CACertificatePath,
		"endpoint", c.Server.Endpoint, "host", c.Server.Endpoint, "port", fmt.Sprint(c.Server.Port),
		"topics", "the request", "proxy", "", "path", "it", "filesystem", "unknown")
	return cause(id, facts...), true
}

// identify returns the ID of an error's cause, the most specific one of its
// chain, with the facts that the error has.
func identify(err error) (id string, facts []string) {
	for _, key := range []struct {
		target error
		id     string
	}{
		{tpm.ErrLockout, "tpm-busy"}, {tpm.ErrBusy, "tpm-busy"}, {tpm.ErrOtherTPM, "tpm-other"}, {tpm.ErrPolicy, "tpm-policy"},
		{tpm.ErrNoTPM, "tpm-missing"}, {identity.ErrUnavailable, "key-unavailable"},
	} {
		if errors.Is(err, key.target) {
			return key.id, nil
		}
	}
	if e, ok := errors.AsType[*awsiot.ErrorResponse](err); ok {
		return identifyRejection(e), nil
	}
	if e, ok := errors.AsType[*provision.ThingNameError](err); ok {
		return "thing-name", []string{"got", fmt.Sprintf("%q", e.Got)}
	}
	if isA[*provision.NoThingNameError](err) {
		return "no-thing-name", nil
	}
	if isA[*provision.ClockError](err) || isA[*config.ClaimTimeError](err) {
		return "clock", nil
	}
	if e, ok := errors.AsType[*identity.CorruptError](err); ok {
		return "journal-damaged", []string{"path", e.Path}
	}
	if e, ok := errors.AsType[*session.Error](err); ok {
		return identifyConnection(e)
	}
	if e, ok := errors.AsType[*identity.ConflictError](err); ok {
		return "file-conflict", []string{"path", e.Path}
	}
	if e, ok := errors.AsType[*identity.AccessError](err); ok {
		return "not-private", []string{"path", e.Path}
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && strings.HasPrefix(e.Net, "unix") {
		switch {
		case e.Op == "listen":
			return "agent-socket", nil
		case errors.Is(e, fs.ErrPermission):
			return "agent-access", nil
		}
	}
	switch {
	case isA[*identity.LockedError](err):
		return "locked", nil
	case isA[*identity.BrokenError](err):
		return "identity-damaged", nil
	case isA[*fs.PathError](err):
		return identifyDisk(err)
	case isA[*provision.TimeoutError](err), errors.Is(err, context.DeadlineExceeded):
		return "no-response", nil
	}
	return "", nil
}

// identifyRejection goes by operation and code. AWS publishes no list of the
// codes: the status counts where the code is not known.
func identifyRejection(e *awsiot.ErrorResponse) string {
	code := func(known ...string) bool {
		return slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(e.ErrorCode, k) })
	}
	register := e.Operation == awsiot.RegisterThing
	switch {
	case e.Temporary():
		return "throttled"
	case e.Operation == awsiot.AssumeRoleWithCertificate && code("AccessDenied"):
		return "credentials-denied"
	case e.Operation == awsiot.AssumeRoleWithCertificate && e.StatusCode == 404:
		return "role-alias-missing"
	case e.Operation == awsiot.AssumeRoleWithCertificate:
		return "role-not-assumed"
	case register && code("InvalidCertificateOwnershipToken"):
		return "token-expired"
	case register && code("AccessDenied", "Unauthorized", "Forbidden"):
		return "hook-denied"
	case register && code("ResourceNotFound"):
		return "template-missing"
	case register && code("InvalidParameters", "InvalidRequest", "InvalidParameter", "Validation"):
		return "parameter-invalid"
	case code("AccessDenied", "Unauthorized", "Forbidden"):
		return "create-denied"
	}
	return "rejected"
}

// identifyConnection goes by the stage and the cause of a failed connection.
func identifyConnection(e *session.Error) (string, []string) {
	if p, ok := errors.AsType[*session.ProxyError](e); ok {
		return identifyProxy(p), nil
	}
	if dns, ok := errors.AsType[*net.DNSError](e); ok && e.Stage != session.StageProxy {
		if dns.IsNotFound {
			return "name-unknown", nil
		}
		return "name-service", nil
	}
	invalid := isA[x509.HostnameError](e) || isA[x509.UnknownAuthorityError](e) || isA[*session.ValidityError](e)
	connack, _ := errors.AsType[*session.ConnackError](e)
	switch host, _, _ := net.SplitHostPort(e.Endpoint); {
	case isA[*session.ValidityError](e):
		return "server-time", nil
	case e.Stage == session.StageProxy && !invalid:
		return "proxy-down", []string{"proxy", e.Address}
	case e.Stage == session.StageOptions && strings.Contains(e.Err.Error(), "proxy"):
		return "proxy-address", nil
	case isA[x509.UnknownAuthorityError](e):
		return "unknown-root", nil
	case isA[x509.HostnameError](e):
		return "wrong-server", nil
	case isA[tls.RecordHeaderError](e):
		return "not-tls", nil
	case errors.Is(e, session.ErrNoServerHello):
		return "client-hello", nil
	case isA[tls.AlertError](e) && awsiot.ClassOf(e) == awsiot.Denied:
		return "certificate-rejected", nil
	case e.Stage == session.StageTLS && net.ParseIP(host) != nil:
		return "no-sni", nil
	case e.Stage == session.StageTLS && isA[tls.AlertError](e):
		return "tls-alert", nil
	case connack != nil && connack.Code == 3: // server unavailable
		return "throttled", nil
	case connack != nil:
		return "connect-denied", nil
	case errors.Is(e, session.ErrClosedSilently):
		switch e.After {
		case "CONNECT":
			return "connect-denied", nil
		case "SUBSCRIBE", "PUBLISH":
			return "topic-denied", []string{"topics", strings.Join(e.Topics, ", ")}
		}
	}
	switch {
	case e.Stage == session.StageTLS:
		return "tls-silence", nil
	case errors.Is(e, syscall.ECONNREFUSED):
		return "connection-refused", nil
	case errors.Is(e, syscall.ENETUNREACH), errors.Is(e, syscall.EHOSTUNREACH), errors.Is(e, syscall.ENETDOWN):
		return "unreachable", nil
	case e.Stage == session.StageDial:
		return "connection-timeout", nil
	case e.Stage == session.StageOptions:
		return "", nil
	}
	return "connection-lost", nil
}

func identifyProxy(p *session.ProxyError) string {
	basic := slices.ContainsFunc(p.Schemes, func(s string) bool { return strings.EqualFold(s, "Basic") })
	switch {
	case p.StatusCode == 407 && len(p.Schemes) > 0 && !basic:
		return "proxy-scheme"
	case p.StatusCode == 407:
		return "proxy-authentication"
	}
	return "proxy-denied"
}

// identifyDisk covers what the local machine can get wrong.
func identifyDisk(err error) (string, []string) {
	e, _ := errors.AsType[*fs.PathError](err)
	facts := []string{"path", e.Path}
	if d, ok := errors.AsType[*identity.DiskError](err); ok && d.FileSystem != "" {
		facts = append(facts, "filesystem", d.FileSystem)
	}
	switch {
	case strings.HasSuffix(e.Op, "chmod"):
		return "no-permission-bits", facts
	case e.Op == "flock":
		return "no-locks", facts
	case errors.Is(err, fs.ErrPermission):
		return "permission", facts
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "disk-full", facts
	case errors.Is(err, syscall.EROFS):
		return "read-only", facts
	}
	return "file", facts
}

func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
