// Package devicecli holds the commands of iot_device. Each command reads its
// flags, calls the package that does the work, and prints its result. What an
// error means for the user is in package doctor's table of causes.
package devicecli

import (
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
	"github.com/spf13/cobra"
)

// Main runs iot_device and returns its exit code.
func Main(args []string, streams term.Streams) int {
	return cli.Main(Program(), args, streams)
}

// Program describes iot_device, also for its manual.
func Program() cli.Program {
	return cli.Program{
		Name:        "iot_device",
		Root:        newRootCmd,
		Explain:     explain,
		Interrupted: "run it again: an interrupted run is resumed",
	}
}

func newRootCmd(console *cli.Console) *cobra.Command {
	return cli.NewRoot(console, &cobra.Command{
		Use:   "iot_device",
		Short: "Provisions this device with AWS IoT Core",
		Long: `Iot_device exchanges a claim certificate, which many devices share, for a
certificate of this device alone (fleet provisioning by claim), stores it safely,
and verifies that the device can connect to AWS IoT Core with it.`,
		Example: `  $ iot_device bootstrap --author "Wilford Brimley"
  $ iot_device status`,
	},
		newBootstrapCmd(console),
		newRunCmd(console),
		newPublishCmd(console),
		newSubscribeCmd(console),
		newCredentialsCmd(console),
		newExportCmd(console),
		newShadowCmd(console),
		newRotateCmd(console),
		newStatusCmd(console),
		newDoctorCmd(console),
		newConfigCmd(console),
	)
}
