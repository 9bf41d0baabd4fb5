// Package corecli holds the commands of iot_core_local.
package corecli

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"example.com/fleety/device/conformance"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/lambdahost"
	"example.com/fleety/device/localcore/policy"
	"example.com/fleety/device/localcore/records"
	"example.com/fleety/device/localcore/template"
	"github.com/spf13/cobra"
)

// Program describes iot_core_local, to run it and for its manual.
func Program() cli.Program {
	return cli.Program{Name: "iot_core_local", Help: help, Explain: explain, LogLevel: "info", Commands: func(c *cli.Console) []*cobra.Command {
		return []*cobra.Command{newServeCmd(c), newWaitCmd(c), newEventsCmd(c), newExplainCmd(c), newConformanceCmd(c), newFidelityCmd(c)}
	}}
}

// help is what the commands say about themselves.
//
//go:embed help.txt
var help string

// explain classifies an error by its type. What fails a command is the configuration, unless the
// machine says otherwise.
func explain(err error) cli.Explanation {
	errno, system := errors.AsType[syscall.Errno](err)
	switch {
	case cli.IsA[*lambdahost.BinaryError](err):
		return cli.Explanation{Code: cli.ExitUsage, Hint: "name another one with --hook, --certificate-provider or --function; --hook none allows every device"}
	case cli.IsA[*policy.SyntaxError](err), cli.IsA[*template.SyntaxError](err):
		return cli.Explanation{Code: cli.ExitUsage}
	case errors.Is(err, localcore.ErrBeyondLoopback):
		return cli.Explanation{Code: cli.ExitUsage, Hint: "the control API does not authenticate callers; if other machines may reach it nevertheless, add --unsafe-allow-any-address"}
	case errors.Is(err, conformance.ErrDenied):
		return cli.Explanation{Code: cli.ExitDenied, Hint: "name other AWS credentials in the environment, for example with AWS_PROFILE"}
	case errors.Is(err, conformance.ErrUnreachable):
		return cli.Explanation{Code: cli.ExitTemporary, Hint: "check --endpoint, --api and --root"}
	case errors.Is(err, records.ErrLocked):
		return cli.Explanation{Code: cli.ExitFailed}
	case errors.Is(err, errAbsent), errors.Is(err, errEnded):
		return cli.Explanation{Code: cli.ExitTemporary, Hint: "start one with \"iot_core_local serve\", or give the control API's address in its ready line to --api"}
	case !system || errors.Is(err, fs.ErrNotExist):
		return cli.Explanation{Code: cli.ExitUsage, Hint: "for each flag, run the command with --help"}
	case errno == syscall.EADDRINUSE:
		return cli.Explanation{Code: cli.ExitFailed, Hint: "another program listens there, perhaps another iot_core_local; other ports are set with --listen and --api, and port 0 is any free one"}
	case errno == syscall.EACCES && cli.IsA[*net.OpError](err):
		return cli.Explanation{Code: cli.ExitFailed, Hint: "ports below 1024 may be for root alone: choose others with --listen and --api; port 0 is any free one"}
	case errors.Is(err, fs.ErrPermission), errno == syscall.ENOTDIR, errno == syscall.EROFS:
		return cli.Explanation{Code: cli.ExitFailed, Hint: "choose a place that this user may use"}
	}
	return cli.Explanation{Code: cli.ExitFailed}
}

func newFidelityCmd(console *cli.Console) *cobra.Command {
	var b strings.Builder
	b.WriteString("Where AWS IoT Core is documented, iot_core_local does the same. These are the\nquestions that AWS's documentation leaves open, and how each is emulated:\n")
	for _, c := range localcore.Ambiguities() {
		fmt.Fprintf(&b, "\n  %-4s ", c.ID)
		term.Fold(&b, c.Question, 7)
		b.WriteString("       -> ")
		term.Fold(&b, c.Answer, 10)
		if c.Switch != "" {
			fmt.Fprintf(&b, "       In Go: localcore %s\n", c.Switch)
		}
	}
	return &cobra.Command{
		Use:     "fidelity",
		Short:   "Undocumented AWS behavior and how it is emulated",
		Long:    strings.TrimSuffix(b.String(), "\n"),
		Example: "  $ " + console.Name + " help fidelity",
	}
}
