package devicecli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/agent/defender"
	"example.com/fleety/device/agent/jobs"
	"example.com/fleety/device/agent/outbox"
	"example.com/fleety/device/agent/shadow"
	"example.com/fleety/device/agent/tunnel"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
)

func newRunCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	cmd := &cobra.Command{
		Use:   "run [flags]",
		Short: "Stay connected, and let programs use the connection",
		Long: `Run is the agent: it provisions the device if it has no identity yet, and then
keeps it connected to AWS IoT Core until it is stopped. Programs on the device
publish and subscribe through it, with the commands publish and subscribe or with
HTTP on the Unix socket agent.socket.

A message that was accepted is on stable storage. It is sent, in order, as soon as
there is a connection, also after a crash or a power cut. The private key and the
certificate are replaced after agent.rotateAfter, if that is set.

After SIGHUP the agent reads its configuration again.`,
		Example: `  $ iot_device run --config device.yaml
  $ curl --unix-socket /run/iot_device/api.sock http://agent/v1/status`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), console, s) },
	}
	s.AddFlags(cmd.Flags())
	s.AddAuthorFlag(cmd.Flags(), "`NAME` recorded as the device's author")
	return cmd
}

// runAgent runs the agent with one configuration. It calls ready when the agent
// answers programs.
func (d *device) runAgent(ctx context.Context, console *cli.Console, ready func()) error {
	a := d.config.Agent
	provisioning := d.provisioning(console, false)
	dir := agentDir(d.config)
	client := agent.NewClient(a.Socket)
	defer client.Close()
	var services []agent.Service
	var shadows []*shadow.Shadow
	for _, s := range a.Shadows {
		kept, err := shadow.New(shadow.Config{Name: s.Name, File: s.File, Program: s.Program, Dir: dir, Log: console.Log})
		if err != nil {
			return err
		}
		shadows, services = append(shadows, kept), append(services, kept)
	}
	if j := a.Jobs; len(j.Allow) > 0 {
		services = append(services, jobs.New(jobs.Config{
			Dir: dir, Handlers: j.Handlers, Allow: j.Allow, Downloads: j.Downloads, PublicKey: j.PublicKey, StepTimeout: j.StepTimeout,
			Replace: func(ctx context.Context) error { return client.Rotate(ctx, "") }, // as iot_device rotate does
			CertificateID: func() (string, error) {
				id, err := d.store.Load()
				if err != nil {
					return "", err
				}
				return id.Record.CertificateID, nil
			},
			Log: console.Log,
		}))
	}
	if len(a.Tunnel.Services) > 0 {
		host, port := a.Tunnel.HostPort()
		services = append(services, tunnel.New(tunnel.Config{
			Services: a.Tunnel.Addresses(), Endpoint: host, Port: port, Session: provisioning.Session, Log: console.Log,
		}))
	}
	if a.Defender.Interval > 0 {
		services = append(services, defender.New(defender.Config{Interval: a.Defender.Interval}))
	}
	routes := shadow.Routes(shadows)
	routes["GET /v1/credentials"] = d.credentials(console)
	begun, forgotten := false, false
	err := agent.Run(ctx, agent.Config{
		Provision:   provisioning,
		Dir:         dir,
		Socket:      a.Socket,
		Outbox:      outbox.Config{MaxBytes: a.Outbox.MaxBytes, MaxAge: a.Outbox.MaxAge},
		RotateAfter: a.RotateAfter,
		Services:    services,
		Routes:      routes,
		Log:         console.Log,
		OnStatus: func(text string, connected bool) {
			if !begun {
				begun = true
				ready()
				console.Ready(text)
				console.Note(text + "; programs publish and subscribe at " + a.Socket)
				go keepWatchdog(ctx, console, a.Socket)
			}
			console.Status(text)
			if connected && !forgotten { // the identity is verified
				forgotten = true
				console.Note(text)
				_ = d.forgetClaim(console, false) // it warns
			}
		},
	})
	if err != nil {
		return &bootstrapError{config: d.config, err: err}
	}
	return nil
}

// keepWatchdog notifies the service manager for as long as the agent answers at
// its own socket.
func keepWatchdog(ctx context.Context, console *cli.Console, socket string) {
	interval := console.WatchdogInterval()
	if interval == 0 {
		return
	}
	client := agent.NewClient(socket)
	for tick := time.Tick(interval / 3); ; {
		select {
		case <-tick:
		case <-ctx.Done():
			return
		}
		answer, cancel := context.WithTimeout(ctx, interval/3)
		if err := client.Ping(answer); err == nil {
			console.Watchdog()
		} else {
			console.Log.Warn(fmt.Sprintf("the agent does not answer at %s", socket), "error", err)
		}
		cancel()
	}
}
