package devicecli

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/provision"
)

func newRotateCmd(console *cli.Console) *cobra.Command {
	o := bootstrapOptions{rotate: true}
	cmd := &cobra.Command{
		Use:   "rotate [flags]",
		Short: "Replace the device's key and certificate",
		Long: `Rotate replaces the private key and the certificate of this device. The device
connects with its present certificate, which proves that it has the present key,
and requests a new one; the claim certificate is not used.

The present identity stays until a connection with the new one has worked, and an
interrupted rotation is resumed when the command is run again. In the cloud, the
stack's rotation option allows this, and deactivates the old certificate once the
new one is in use. If the agent (iot_device run) has the device's connection, it
does the work. Where keys are made follows bootstrap.keys, so that a rotation
can move a key from a file into a TPM.`,
		Example: `  $ iot_device rotate
  $ iot_device rotate --config device.yaml --json | jq -r .notAfter`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBootstrap(cmd.Context(), console, o)
		},
	}
	flags := cmd.Flags()
	o.AddFlags(flags)
	flags.BoolVar(&o.json, "json", false, "print the result as one JSON object")
	flags.DurationVar(&o.timeout, "timeout", 2*time.Minute, "give up after this `DURATION`")
	return cmd
}

// provision is [provision.Run], but for a rotation while the agent runs: AWS IoT
// allows one connection for the client id, and the agent has it.
func (d *device) provision(ctx context.Context, c provision.Config) (*provision.Result, error) {
	if !c.Rotate || d.identity == nil {
		return provision.Run(ctx, c)
	}
	client := agent.NewClient(d.config.Agent.Socket)
	defer client.Close()
	err := client.Rotate(ctx, d.identity.Record.ThingName)
	if e, ok := errors.AsType[*agent.Error](err); errors.Is(err, agent.ErrNotRunning) || ok && e.StatusCode == http.StatusConflict {
		return provision.Run(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	id, err := d.store.Load()
	if err != nil {
		return nil, err
	}
	return &provision.Result{Identity: id, Provisioned: true}, nil
}
