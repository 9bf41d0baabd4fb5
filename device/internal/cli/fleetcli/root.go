// Package fleetcli holds the commands of iot_fleet. Each command reads its flags,
// calls package fleet or controlplane, and prints the result; exit codes and hints
// of all errors are in [explain].
package fleetcli

import (
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

func newRootCmd(console *cli.Console, args []string) *cobra.Command {
	enrol := newEnrollCmd(console, args)
	enrol.Use, enrol.Hidden = "enrol --devices N [flags]", true
	return cli.NewRoot(console, &cobra.Command{
		Use:   "iot_fleet",
		Short: "Enroll thousands of simulated devices and measure it",
		Long: `iot_fleet enrolls simulated devices in AWS IoT Core or iot_core_local. Each has
its own key and identity, and is provisioned as iot_device is. The report has
throughput, latencies by stage, and failures by cause. Other commands work on
many devices in AWS IoT.`,
		Example: `  # A thousand devices on the local emulator
  $ iot_core_local serve &
  $ iot_fleet enroll --devices 1000 --config device.yaml

  # How long does a launch take on AWS?
  $ iot_fleet plan --devices 1000000`,
	},
		newPlanCmd(console),
		newEnrollCmd(console, args),
		enrol, // the British spelling
		newReportCmd(console),
		newCleanupCmd(console),
		newRevokeCmd(console),
		newRotateCmd(console),
	)
}
