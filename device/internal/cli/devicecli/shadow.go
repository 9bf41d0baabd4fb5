package devicecli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/session"
)

func newShadowCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	cmd := &cobra.Command{
		Use:   "shadow",
		Short: "Read and change the device's shadows, through the agent",
		Long: `Shadow works with the shadows that the running agent keeps, which are those in the
setting agent.shadows. Without a NAME it is the classic shadow.`,
		Example: `  $ iot_device shadow get config
  $ iot_device shadow update config '{"state": {"reported": {"led": "on"}}}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	get := &cobra.Command{
		Use:   "get [NAME] [flags]",
		Short: "Print a shadow",
		Long: `Get prints the state of a shadow as one JSON object: what AWS IoT is known to have,
with the changes that it has not acknowledged yet. Pending is true if there are
such changes.`,
		Example: `  $ iot_device shadow get
  $ iot_device shadow get config`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runShadow(cmd.Context(), console, s, args, nil)
		},
	}
	update := &cobra.Command{
		Use:   "update [NAME] [DOCUMENT] [flags]",
		Short: "Change a shadow",
		Long: `Update merges a change into a shadow, and ends when the agent has stored it: the
agent sends it as soon as there is a connection. The DOCUMENT has the form of AWS
IoT, {"state": {"reported": {…}, "desired": {…}}}, where null removes a key. Without
a DOCUMENT it is read from standard input.

The result is printed as by shadow get.`,
		Example: `  $ iot_device shadow update '{"state": {"reported": {"led": "on"}}}'
  $ iot_device shadow update config < change.json`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last := len(args) - 1; last >= 0 && (last == 1 || strings.HasPrefix(strings.TrimSpace(args[last]), "{")) {
				return runShadow(cmd.Context(), console, s, args[:last], []byte(args[last]))
			}
			change, err := io.ReadAll(io.LimitReader(console.In, session.MaxPayload+2)) // the agent rejects as much
			if err != nil {
				return fmt.Errorf("reading standard input: %w", err)
			}
			return runShadow(cmd.Context(), console, s, args, change)
		},
	}
	s.AddFlags(get.Flags())
	s.AddFlags(update.Flags())
	cmd.AddCommand(get, update)
	return cmd
}

// runShadow prints a shadow, after a change if there is one.
func runShadow(ctx context.Context, console *cli.Console, s config.Sources, args []string, change []byte) error {
	c, err := load(ctx, console, s)
	if err != nil {
		return err
	}
	name := strings.Join(args, "")
	client := agent.NewClient(c.Agent.Socket)
	defer client.Close()
	var document json.RawMessage
	if change == nil {
		document, err = client.Shadow(ctx, name)
	} else {
		document, err = client.UpdateShadow(ctx, name, change)
	}
	if err != nil {
		return err
	}
	return console.JSON(document)
}
