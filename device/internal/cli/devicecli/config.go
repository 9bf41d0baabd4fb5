package devicecli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"github.com/spf13/cobra"
)

func newConfigCmd(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Write a configuration file",
		Long: `Config groups the commands about the configuration file of the device. Without
one of them it prints this help.`,
		Example: "  $ iot_device config init",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var path string
	initialize := &cobra.Command{
		Use:   "init [flags]",
		Short: "Write a commented configuration file",
		Long: `Init writes a configuration file that has every setting with a comment and its
default. Set server.endpoint, serialNumber and deviceLocation in it. An existing
file is never overwritten.`,
		Example: `  $ iot_device config init
  $ iot_device config init --config /etc/iot_device/config.yaml`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return initConfig(console, path) },
	}
	initialize.Flags().StringVarP(&path, "config", "c", config.DefaultPath, "write the configuration to `FILE`")
	cmd.AddCommand(initialize)
	return cmd
}

// initConfig writes the example with the mode of a file that may get a proxy's
// password.
func initConfig(console *cli.Console, path string) error {
	if err := writeNew(path, config.Example, 0o600); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(console.Out, path); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	console.Note("Set server.endpoint, serialNumber and deviceLocation in it, then run \"iot_device bootstrap\".")
	return nil
}

// writeNew writes a configuration to a file that must not exist.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return &cli.UsageError{Err: fmt.Errorf("%s exists and is not overwritten; name another file", path)}
	}
	if err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		os.Remove(path) // a part of it would be read
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return nil
}
