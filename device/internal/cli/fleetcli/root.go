// Package fleetcli holds the commands of iot_fleet. Each command reads its flags, calls package
// fleet or controlplane, and prints the result; exit codes and hints of all errors are in
// [explain].
package fleetcli

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/spf13/cobra"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/fleet"
	"example.com/fleety/device/fleet/controlplane"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
)

// Program describes iot_fleet, to run it and for its manual.
func Program() cli.Program {
	return cli.Program{
		Name: "iot_fleet",
		Help: help,
		Commands: func(c *cli.Console) []*cobra.Command {
			return []*cobra.Command{newPlanCmd(c), newEnrollCmd(c), newReportCmd(c), newCleanupCmd(c), newRevokeCmd(c), newRotateCmd(c)}
		},
		Explain:     explain,
		Interrupted: "with --keep or --resume the same command resumes; a report has the results so far",
		Hangup:      true,
	}
}

// help is what the commands say about themselves.
//
//go:embed help.txt
var help string

// An incompleteError is a run in which devices failed, or were not connected at the end. The report
// has the causes.
type incompleteError struct{ report *fleet.Report }

func (e *incompleteError) Error() string {
	r := e.report
	text := r.Headline()
	if len(r.Failures) > 0 {
		text += fmt.Sprintf("; most often (%d): %s: %s", r.Failures[0].Count, r.Failures[0].Stage, r.Failures[0].Cause)
	}
	return text
}

// explain returns the exit code of an error, by its type, and what to do next.
func explain(err error) cli.Explanation {
	if problems, ok := errors.AsType[config.Problems](err); ok {
		return cli.Explanation{Code: cli.ExitCode(problems.Class())}
	}
	if e, ok := errors.AsType[*incompleteError](err); ok {
		return explainIncomplete(e.report)
	}
	switch {
	case cli.IsA[*awsiot.ValidityError](err):
		return cli.Explanation{Code: cli.ExitTemporary, Hint: "set this machine's clock, or get a new claim"}
	case cli.IsA[*fleet.ValueError](err), errors.Is(err, fleet.ErrMerge):
		return cli.Explanation{Code: cli.ExitUsage}
	}
	if code := cloudCode(err); code != 0 {
		return cli.Explanation{Code: code, Hint: "run it again when the cause is fixed; with --resume completed devices are skipped"}
	}
	if errors.Is(err, errNotRotated) {
		return cli.Explanation{Code: cli.ExitTemporary, Hint: "the jobs stay; run the same command again to wait for their results"}
	}
	return cli.Explanation{Code: cli.ExitFailed}
}

// cloudCode returns the exit code of an error of the AWS SDK, by the response of AWS, and 0 for any
// other error. No instance metadata means that there are no credentials, not that AWS has denied them.
func cloudCode(err error) int {
	if errors.Is(err, controlplane.ErrIncomplete) {
		return cli.ExitTemporary
	}
	operation, ok := errors.AsType[*smithy.OperationError](err)
	response, responded := errors.AsType[*smithyhttp.ResponseError](err)
	switch {
	case !ok, operation.ServiceID == "ec2imds":
		return 0
	case !responded: // as no credentials any more, or a Region that is none
		return cli.ExitUsage
	}
	e := awsiot.ErrorResponse{StatusCode: response.HTTPStatusCode()}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		e.ErrorCode = api.ErrorCode()
	}
	if e.StatusCode < 300 || e.Class() == awsiot.Temporary { // the former is a response that was cut off, or none (0)
		return cli.ExitTemporary
	}
	return cli.ExitDenied
}

// explainIncomplete returns the worst class of the failures: those that retrying does not help come
// first.
func explainIncomplete(r *fleet.Report) cli.Explanation {
	hints := [...]string{
		awsiot.Failed:        "the cause is on this machine: disk, memory, open files, or damaged files of --keep",
		awsiot.Misconfigured: "try one device: iot_device bootstrap shows more of the cause",
		awsiot.Denied:        "try one device: iot_device bootstrap shows more of the cause; if an earlier launch has these serial numbers, choose others with --first",
	}
	for class, hint := range hints {
		name := awsiot.Class(class).String()
		if slices.ContainsFunc(r.Devices, func(d fleet.Device) bool { return d.Outcome == fleet.Failed && d.Class == name }) {
			return cli.Explanation{Code: cli.ExitCode(awsiot.Class(class)), Hint: hint}
		}
	}
	if h := r.Hold; r.Counts.Failed == 0 && h != nil && h.Reconnect != nil && h.Reconnect.Rejected > 0 {
		return cli.Explanation{Code: cli.ExitDenied, Hint: hints[awsiot.Denied]}
	}
	return cli.Explanation{Code: cli.ExitTemporary, Hint: "run the same command again; with --keep, devices that have their identity keep it"}
}
