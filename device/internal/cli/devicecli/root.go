// Package devicecli holds the commands of iot_device. Each command reads its
// flags, calls the package that does the work, and prints its result; what an
// error means for the user is in one place, [explain].
package devicecli

import (
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
	"github.com/spf13/cobra"
)

// Main runs iot_device and returns its exit code.
func Main(args []string, streams term.Streams) int {
	return cli.Main(cli.Program{
		Name:        "iot_device",
		Root:        newRootCmd,
		Explain:     explain,
		Interrupted: "run it again: it goes on where it stopped",
	}, args, streams)
}

func newRootCmd(console *cli.Console) *cobra.Command {
	return cli.NewRoot(console, &cobra.Command{
		Use:   "iot_device",
		Short: "Give this device its own identity in AWS IoT Core, and use it",
		Long: `iot_device trades a claim certificate, which many devices share, for a
certificate of this device alone (fleet provisioning by claim), keeps it
safely, and connects to AWS IoT Core with it.`,
		Example: `  $ iot_device bootstrap --author "Wilford Brimley"
  $ iot_device status`,
	},
		newBootstrapCmd(console),
		newStatusCmd(console),
		newDoctorCmd(console),
	)
}
