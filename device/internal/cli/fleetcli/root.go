// Package fleetcli holds the commands of iot_fleet. Each command reads its
// flags, calls package fleet, and prints the report; what an error means for
// the user is in one place, [explain].
package fleetcli

import (
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
	"github.com/spf13/cobra"
)

// Main runs iot_fleet and returns its exit code.
func Main(args []string, streams term.Streams) int {
	return cli.Main(cli.Program{
		Name:        "iot_fleet",
		Root:        newRootCmd,
		Explain:     explain,
		Interrupted: "the report tells how far it came; with --keep the same command goes on from there",
	}, args, streams)
}

func newRootCmd(console *cli.Console) *cobra.Command {
	return cli.NewRoot(console, &cobra.Command{
		Use:   "iot_fleet",
		Short: "Enrol thousands of simulated devices for real, and measure it",
		Long: `iot_fleet enrols simulated devices in AWS IoT Core or iot_core_local. Each has
its own key and its own identity, and goes through the same provisioning as
iot_device. The report tells throughput, latencies by stage, and failures by
cause.`,
		Example: `  # A local core, and a thousand devices
  $ iot_core_local serve &
  $ iot_fleet enrol --devices 1000 --config device.yaml

  # How long would a launch take on AWS?
  $ iot_fleet plan --devices 1000000`,
	},
		newPlanCmd(console),
		newEnrolCmd(console),
		newStormCmd(console),
		newReportCmd(console),
		newCleanupCmd(console),
	)
}
