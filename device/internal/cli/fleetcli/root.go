// Package fleetcli holds the commands of iot_fleet. Each command reads its flags,
// calls package fleet or controlplane, and prints the result; exit codes and hints
// of all errors are in [explain].
package fleetcli

import (
	_ "embed"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
	"github.com/spf13/cobra"
)

// Main runs iot_fleet and returns its exit code.
func Main(args []string, streams term.Streams) int {
	return cli.Main(Program(args), args, streams)
}

// Program describes iot_fleet, also for its manual; a report has the args.
func Program(args []string) cli.Program {
	return cli.Program{
		Name:        "iot_fleet",
		Root:        func(console *cli.Console) *cobra.Command { return newRootCmd(console, args) },
		Explain:     explain,
		Interrupted: "the report has the results so far; with --keep the same command resumes",
	}
}

// help is what the commands say about themselves.
//
//go:embed help.txt
var help string

func newRootCmd(console *cli.Console, args []string) *cobra.Command {
	enroll, british := newEnrollCmd(console, args), newEnrollCmd(console, args)
	british.Use, british.Hidden = "enrol --devices N [flags]", true
	root := cli.Describe(cli.NewRoot(console, &cobra.Command{Use: "iot_fleet"},
		newPlanCmd(console),
		enroll,
		british,
		newReportCmd(console),
		newCleanupCmd(console),
		newRevokeCmd(console),
		newRotateCmd(console),
	), help)
	british.Short, british.Long, british.Example = enroll.Short, enroll.Long, enroll.Example
	return root
}
