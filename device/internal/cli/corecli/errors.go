package corecli

import (
	"errors"
	"io/fs"
	"syscall"

	"example.com/fleety/device/conformance"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/template"
)

// explain classifies an error by its type. What fails a command is the
// configuration, unless the machine says otherwise.
func explain(err error) cli.Explanation {
	switch {
	case cli.IsA[*lambdahost.BinaryError](err):
		return cli.Explanation{Code: cli.ExitUsage, Hint: "name another one with --hook, or allow every device with --hook none"}
	case cli.IsA[*policy.SyntaxError](err), cli.IsA[*template.SyntaxError](err):
		return cli.Explanation{Code: cli.ExitUsage}
	case errors.Is(err, localcore.ErrBeyondLoopback):
		return cli.Explanation{Code: cli.ExitUsage, Hint: "the control API does not authenticate callers; if other machines may reach it nevertheless, add --unsafe-allow-any-address"}
	case errors.Is(err, conformance.ErrDenied):
		return cli.Explanation{Code: cli.ExitDenied, Hint: "name other AWS credentials in the environment, for example with AWS_PROFILE"}
	case errors.Is(err, conformance.ErrUnreachable):
		return cli.Explanation{Code: cli.ExitTemporary, Hint: "check --endpoint and --api"}
	case errors.Is(err, registry.ErrLocked):
		return cli.Explanation{Code: cli.ExitFailed}
	case errors.Is(err, errAbsent), errors.Is(err, errEnded):
		return cli.Explanation{Code: cli.ExitTemporary, Hint: "start one with \"iot_core_local serve\", or give the control API's address in its ready line to --api"}
	}
	return explainSystem(err)
}

// explainSystem classifies an error by what the operating system says.
func explainSystem(err error) cli.Explanation {
	errno, ok := errors.AsType[syscall.Errno](err)
	switch {
	case !ok || errors.Is(err, fs.ErrNotExist):
		return cli.Explanation{Code: cli.ExitUsage, Hint: "for each flag, run the command with --help"}
	case errno == syscall.EADDRINUSE:
		return cli.Explanation{Code: cli.ExitFailed, Hint: "another program listens there, perhaps another iot_core_local; port 0 takes any free one"}
	case errors.Is(err, fs.ErrPermission), errno == syscall.ENOTDIR, errno == syscall.EROFS:
		return cli.Explanation{Code: cli.ExitFailed, Hint: "choose a place that this user may use"}
	}
	return cli.Explanation{Code: cli.ExitFailed}
}
