// Package corecli holds the commands of iot_core_local.
package corecli

import (
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
	"github.com/spf13/cobra"
)

// Main runs iot_core_local and returns its exit code.
func Main(args []string, streams term.Streams) int {
	return cli.Main(Program(), args, streams)
}

// Program describes iot_core_local, also for its manual.
func Program() cli.Program {
	return cli.Program{
		Name:     "iot_core_local",
		Root:     newRootCmd,
		Explain:  explain,
		LogLevel: "info",
	}
}

func newRootCmd(console *cli.Console) *cobra.Command {
	return cli.NewRoot(console, &cobra.Command{
		Use:   "iot_core_local",
		Short: "Local emulator of AWS IoT Core",
		Long: `iot_core_local is a local emulator of AWS IoT Core: it runs the same
provisioning templates, policies and hook binary as the cloud, over mutual TLS,
without an AWS account. It rejects what AWS rejects and, unlike AWS, logs the
reason.`,
		Example: `  $ iot_core_local serve --hook none
  $ iot_core_local events
  $ iot_core_local explain --policy templates/device_policy.json \
      --as-thing fleety_2974685 --action iot:Publish --resource topic/fleet/fleety_2974685`,
	},
		newServeCmd(console),
		newWaitCmd(console),
		newEventsCmd(console),
		newExplainCmd(console),
		newConformanceCmd(console),
		newFidelityCmd(console),
	)
}
