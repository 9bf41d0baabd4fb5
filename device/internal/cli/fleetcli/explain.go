package fleetcli

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/aws/smithy-go"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/provision"
)

// An incompleteError tells that some devices have no identity. Which and why
// is in the report.
type incompleteError struct{ report *fleet.Report }

func (e *incompleteError) Error() string {
	r := e.report
	text := fmt.Sprintf("%d of %d devices failed", r.Counts.Failed, r.Counts.Devices)
	if len(r.Failures) > 0 {
		text += fmt.Sprintf("; most often (%d): %s: %s", r.Failures[0].Count, r.Failures[0].Stage, r.Failures[0].Cause)
	}
	return text
}

// explain judges an error by its type: the exit code, and what to do next.
func explain(err error) cli.Explanation {
	if problems, ok := errors.AsType[config.Problems](err); ok {
		return cli.Explanation{Code: cli.ExitCode(problems.Class())}
	}
	if e, ok := errors.AsType[*incompleteError](err); ok {
		return explainIncomplete(e)
	}
	switch {
	case cli.IsA[*config.ClaimTimeError](err):
		return cli.Explanation{Code: cli.ExitTemporary, Hint: "set this machine's clock, or get a new claim"}
	case cli.IsA[*awsError](err), cli.IsA[*fleet.ValueError](err), cli.IsA[*fleet.RangeError](err), cli.IsA[*reportError](err), cli.IsA[*fleet.MergeError](err):
		return cli.Explanation{Code: cli.ExitUsage}
	case cli.IsA[smithy.APIError](err):
		return cli.Explanation{Code: cli.ExitDenied, Hint: "run it again when the cause is gone: what is removed already is skipped"}
	case cli.IsA[*fleet.FilesError](err):
		return cli.Explanation{Code: cli.ExitFailed}
	case cli.IsA[*fleet.SpaceError](err), cli.IsA[*fs.PathError](err):
		return cli.Explanation{Code: cli.ExitFailed, Hint: "make room there, or name another place"}
	}
	return cli.Explanation{Code: cli.ExitFailed}
}

// explainIncomplete tells what is worst among the failures: what retrying
// cannot help comes first.
func explainIncomplete(e *incompleteError) cli.Explanation {
	classes := e.report.Classes()
	for _, c := range []struct {
		class provision.Class
		code  int
		hint  string
	}{
		{provision.Local, cli.ExitFailed, "the cause is on this machine: disk, memory or open files"},
		{provision.Misconfigured, cli.ExitUsage, "try one device first: iot_device bootstrap tells more of its cause"},
		{provision.Refused, cli.ExitDenied, "try one device first: iot_device bootstrap tells more of its cause"},
	} {
		if slices.Contains(classes, c.class.String()) {
			return cli.Explanation{Code: c.code, Hint: c.hint}
		}
	}
	return cli.Explanation{Code: cli.ExitTemporary, Hint: "go on with the same command; with --keep, devices that have their identity keep it"}
}
