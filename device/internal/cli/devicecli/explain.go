package devicecli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
)

// A bootstrapError is an error of a bootstrap, with the configuration that its
// hint may have to name.
type bootstrapError struct {
	config *config.Config
	err    error
}

func (e *bootstrapError) Error() string { return e.err.Error() }
func (e *bootstrapError) Unwrap() error { return e.err }

// explain judges an error by its type: the exit code, and what to do next.
func explain(err error) cli.Explanation {
	if problems, ok := errors.AsType[config.Problems](err); ok {
		return cli.Explanation{Code: cli.ExitCode(problems.Class())}
	}
	e := cli.Explanation{Code: cli.ExitFailed, Hint: hintForDisk(err)}
	if b, ok := errors.AsType[*bootstrapError](err); ok {
		e.Code = exitCode(b.err)
		e.Hint = hint(b)
	}
	return e
}

func exitCode(err error) int {
	if cli.IsA[*identity.LockedError](err) {
		return cli.ExitTemporary // the other run will end
	}
	if cli.IsA[*config.ClaimTimeError](err) && !errors.Is(err, context.Canceled) {
		return cli.ExitTemporary
	}
	switch provision.ClassOf(err) {
	case provision.Misconfigured:
		return cli.ExitUsage
	case provision.Refused:
		return cli.ExitDenied
	case provision.Temporary:
		return cli.ExitTemporary
	case provision.Interrupted:
		return cli.ExitInterrupted
	}
	return cli.ExitFailed
}

// hint says what to do about a failed bootstrap. The most telling cause in the
// chain decides; "probably" marks what is inferred.
func hint(b *bootstrapError) string {
	if e, ok := errors.AsType[*awsiot.ErrorResponse](b.err); ok {
		return hintForRefusal(b.config, e)
	}
	if e, ok := errors.AsType[*provision.ThingNameError](b.err); ok {
		return fmt.Sprintf("set thingname to %q or remove it, then run again: the certificate is kept", e.Got)
	}
	if _, ok := errors.AsType[*identity.LockedError](b.err); ok {
		return "wait for the other run; \"iot_device status\" shows how far it is"
	}
	if _, ok := errors.AsType[*identity.BrokenError](b.err); ok {
		return "restore the file, or run again with --reprovision for a new identity"
	}
	if e, ok := errors.AsType[*identity.CorruptError](b.err); ok {
		return fmt.Sprintf("move %s away and run again: the device gets a new certificate", e.Path)
	}
	if e, ok := errors.AsType[*session.Error](b.err); ok {
		return hintForSession(b.config, e)
	}
	if _, ok := errors.AsType[*provision.TimeoutError](b.err); ok || errors.Is(b.err, context.DeadlineExceeded) {
		return "the network or AWS IoT is slow, or throttles; run again, it goes on where it stopped, or give it a longer --timeout"
	}
	return hintForDisk(b.err)
}

// hintForRefusal reads what AWS IoT answered. AWS documents no list of codes,
// so only the status counts.
func hintForRefusal(c *config.Config, e *awsiot.ErrorResponse) string {
	switch {
	case e.Temporary():
		return "AWS IoT is throttling or unwell; run again later, it goes on where it stopped"
	case e.StatusCode == 403 && strings.HasPrefix(c.SerialNumber, payload.SerialPrefix):
		return fmt.Sprintf("the pre-provisioning hook probably refused serial %q because its thing has another active certificate; its log says why, and by which command an operator lets the device in",
			c.SerialNumber)
	case e.StatusCode == 403:
		return fmt.Sprintf("the pre-provisioning hook probably refused serial %q (it admits serials that begin with %s); its log says why",
			c.SerialNumber, payload.SerialPrefix)
	case e.StatusCode == 404:
		return fmt.Sprintf("the template %q is probably not in this account and Region; compare bootstrap.provisioningTemplate with what was deployed",
			c.Bootstrap.ProvisioningTemplate)
	case e.StatusCode == 400:
		return fmt.Sprintf("the template probably has no use for one of the parameters: deviceLocation %q must be one that its mapping knows, and every parameter must have a value",
			c.DeviceLocation)
	}
	return "the error code above is AWS IoT's; its log (CloudWatch, AWSIotLogsV2) says more"
}

func hintForSession(c *config.Config, e *session.Error) string {
	switch {
	case cli.IsA[x509.UnknownAuthorityError](e):
		return fmt.Sprintf("%s does not hold the root of the server's certificate; run scripts/create-root-ca-bundle.sh, or check server.endpoint",
			c.Bootstrap.CACertificatePath)
	case errors.Is(e, session.ErrClosedSilently):
		return hintForSilence(e)
	case cli.IsA[x509.HostnameError](e):
		return "the server is not " + e.Endpoint + ": check server.endpoint, and for a proxy that answers in its place"
	case cli.IsA[*session.ValidityError](e):
		return "set the device's clock, if that is what is wrong"
	case cli.IsA[*session.ProxyError](e):
		return "check server.proxy, HTTPS_PROXY and NO_PROXY, and whether the proxy lets this host and port through"
	case cli.IsA[*session.ConnackError](e):
		return "the certificate's policy probably does not allow this client id, or the certificate is not active"
	}
	return hintForNetwork(c, e)
}

// hintForSilence names the likely reason of a connection that AWS IoT closed
// without a word, which is how it denies.
func hintForSilence(e *session.Error) string {
	switch e.After {
	case "CONNECT":
		return "the certificate is probably not active in this account and Region, or its policy does not allow this client id (claim sessions use claim-…); AWS IoT's log says which"
	case "SUBSCRIBE", "PUBLISH":
		return fmt.Sprintf("the certificate's policy probably does not allow %s; AWS IoT's log says which", strings.Join(e.Topics, ", "))
	}
	return "the network broke down, or AWS IoT denied something; its log says which"
}

func hintForNetwork(c *config.Config, e *session.Error) string {
	if dns, ok := errors.AsType[*net.DNSError](e.Err); ok {
		if dns.IsNotFound {
			return "no such host: check server.endpoint for a slip, and the network's DNS"
		}
		return "the name could not be looked up: check that the device is online and its DNS answers"
	}
	switch e.Stage {
	case session.StageDial:
		if c.Server.Port != 443 {
			return fmt.Sprintf("check that the device is online and that a firewall lets port %d out; server.port 443 often passes", c.Server.Port)
		}
		return "check that the device is online and that a firewall lets port 443 out, or set server.proxy"
	case session.StageTLS, session.StageConnect:
		if e.Class() == session.ClassRefused {
			return "AWS IoT did not take the certificate: it is probably not registered or not active in this account and Region"
		}
		return "check the network between here and AWS IoT; run again"
	}
	return "check the network; run again, it goes on where it stopped"
}

// hintForDisk covers what the local machine can get wrong.
func hintForDisk(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run as the user that owns the files, or change their owner"
	case cli.IsA[*fs.PathError](err):
		return "check the path, and that the disk is neither full nor read-only"
	}
	return ""
}
