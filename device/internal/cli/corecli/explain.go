package corecli

import (
	"errors"
	"io/fs"
	"syscall"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/localcore/lambdahost"
)

// explain judges an error by its type. What keeps the core from starting is
// the configuration, unless the machine says otherwise.
func explain(err error) cli.Explanation {
	if _, ok := errors.AsType[*lambdahost.BinaryError](err); ok {
		return cli.Explanation{Code: cli.ExitUsage, Hint: "name another one with --hook, or admit every device with --hook none"}
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	switch {
	case !ok || errors.Is(err, fs.ErrNotExist):
		return cli.Explanation{Code: cli.ExitUsage, Hint: "\"iot_core_local serve --help\" tells what each flag wants"}
	case errno == syscall.EADDRINUSE:
		return cli.Explanation{Code: cli.ExitFailed, Hint: "another program listens there, perhaps another iot_core_local; port 0 takes any free one"}
	case errors.Is(err, fs.ErrPermission):
		return cli.Explanation{Code: cli.ExitFailed, Hint: "choose a place that this user may use"}
	}
	return cli.Explanation{Code: cli.ExitFailed}
}
