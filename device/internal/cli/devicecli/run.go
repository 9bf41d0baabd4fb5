package devicecli

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/agent/defender"
	"example.com/fleety/device/agent/jobs"
	"example.com/fleety/device/agent/outbox"
	"example.com/fleety/device/agent/shadow"
	"example.com/fleety/device/agent/tunnel"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"github.com/spf13/cobra"
)

func newRunCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	cmd := cli.Command("run [flags]", cobra.NoArgs, func(ctx context.Context, _ []string) error { return runAgent(ctx, console, s) })
	s.AddFlags(cmd.Flags())
	s.AddAuthorFlag(cmd.Flags(), "`NAME` recorded as the device's author")
	return cmd
}

// openShadows opens those that the agent keeps.
func (d *device) openShadows(console *cli.Console) error {
	d.shadows = nil
	for _, c := range d.config.Agent.Shadows {
		s, err := shadow.New(shadow.Config{Name: c.Name, File: c.File, Program: c.Program, Dir: agentDir(d.config), Log: console.Log})
		if err != nil {
			return err
		}
		d.shadows = append(d.shadows, s)
	}
	return nil
}

// agent translates the configuration for package agent. The shadows are open.
func (d *device) agent(console *cli.Console) agent.Config {
	a, dir := d.config.Agent, agentDir(d.config)
	c := agent.Config{
		Provision: d.provisioning(console, false), Dir: dir, Socket: a.Socket, RotateAfter: a.RotateAfter, Log: console.Log,
		Outbox: outbox.Config{MaxBytes: a.Outbox.MaxBytes, MaxAge: a.Outbox.MaxAge},
		Routes: shadow.Routes(d.shadows),
	}
	credentials := d.credentials(console)
	c.Routes["GET /v1/credentials"] = agent.Answer(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return credentials.Get(r.Context(), r.URL.Query().Get("roleAlias"))
	})
	use := func(settings any, create func() agent.Service) {
		c.Services = append(c.Services, agent.ServiceConfig{Key: fmt.Sprintf("%T%+[1]v", settings), New: create})
	}
	for _, s := range d.shadows {
		use(s.Name(), func() agent.Service { return s })
	}
	if j := a.Jobs; len(j.Allow) > 0 {
		use(j, func() agent.Service {
			return jobs.New(jobs.Config{
				Dir: dir, Handlers: j.Handlers, Allow: j.Allow, Downloads: j.Downloads, PublicKey: j.PublicKey, StepTimeout: j.StepTimeout,
				Session: c.Provision.Session,
				Replace: func(ctx context.Context) error { // as iot_device rotate does
					client := agent.NewClient(a.Socket)
					defer client.Close()
					return client.Rotate(ctx, "")
				},
				CertificateID: func() (string, error) {
					id, err := d.store.Load()
					if err != nil {
						return "", err
					}
					return id.Record.CertificateID, nil
				},
				Log: console.Log,
			})
		})
	}
	if len(a.Tunnel.Services) > 0 {
		if d.tunnels == nil {
			host, port := a.Tunnel.HostPort()
			d.tunnels = tunnel.New(tunnel.Config{Endpoint: host, Port: port, Session: c.Provision.Session, Log: console.Log})
		}
		d.tunnels.SetServices(a.Tunnel.Addresses())
		tunnels := d.tunnels
		use(struct{ tunnel string }{a.Tunnel.Endpoint}, func() agent.Service { return tunnels })
	}
	if a.Defender.Interval > 0 {
		use(a.Defender, func() agent.Service { return defender.New(defender.Config{Interval: a.Defender.Interval}) })
	}
	return c
}

// runAgent runs the agent until ctx ends. After SIGHUP it reads the configuration again. Where that
// leaves the connection as it is, the agent continues with the new one; else another agent follows
// in this process: what is stored stays, and AWS IoT keeps the session. A configuration that cannot
// be used leaves the present one in place.
func runAgent(ctx context.Context, console *cli.Console, s config.Sources) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	d, err := open(ctx, console, s, false, false)
	if err != nil {
		return err
	}
	var former *device // until the agent runs with the configuration that follows it
	for {
		changes := make(chan agent.Config)
		current, stop := context.WithCancel(ctx)
		err := d.openShadows(console)
		d.tunnels = nil
		c := d.agent(console)
		var ready atomic.Bool // before, the device is being provisioned, and takes no changes
		c.Changes, c.OnStatus = changes, d.showStatus(current, console, func() { former = nil; ready.Store(true) })
		var next *device
		var watching sync.WaitGroup
		watching.Go(func() {
			defer stop()
			for {
				select {
				case <-hangup:
				case <-current.Done():
					return
				}
				changed := d.reload(ctx, console, s)
				if changed != nil && (!ready.Load() || changed.needsConnection(d)) {
					next = changed
					return
				}
				if changed != nil {
					changed.shadows = d.shadows
					if changed.config.Agent.Tunnel.Endpoint == d.config.Agent.Tunnel.Endpoint {
						changed.tunnels = d.tunnels
					}
					select {
					case changes <- changed.agent(console):
						d = changed
					case <-current.Done():
						return
					}
				}
				if ready.Load() {
					console.Reloaded()
				}
			}
		})
		if err == nil {
			err = agent.Run(current, c)
		}
		stop()
		watching.Wait()
		if err != nil {
			err = &deviceError{error: err, config: d.config}
		}
		switch {
		case ctx.Err() != nil:
			return err
		case next != nil:
			former, d = d, next
		case err != nil && former != nil:
			console.Log.Error("the agent cannot run with the new configuration and goes on with the former one", "error", err)
			d, former = former, nil
		default:
			return err
		}
	}
}

// reload reads the configuration again. It returns nil where that is broken, and where it is the
// same.
func (d *device) reload(ctx context.Context, console *cli.Console, s config.Sources) *device {
	console.Reloading()
	next, err := open(ctx, console, s, false, false)
	switch {
	case err != nil:
		console.Log.Error("reading the configuration again failed; the present one stays", "error", err)
	case next.config.Equal(d.config) && next.files.Roots.Equal(d.files.Roots):
		console.Log.Info("the configuration is the same")
	default:
		console.Log.Info("the configuration has changed")
		return next
	}
	return nil
}

// needsConnection reports whether the agent, which runs with the configuration of d, cannot change
// to that of next while it is connected. A shadow has changes that are not sent yet, so that what
// the agent keeps of it is read again.
func (next *device) needsConnection(d *device) bool {
	type settings struct {
		server                                    config.Server
		serialNumber, thingName, stateDir, socket string
		primary                                   config.Primary
		keys                                      config.Keys
		afterwards                                config.Afterwards
	}
	of := func(c *config.Config) settings {
		server := c.Server
		server.CredentialsEndpoint = ""
		return settings{server, c.SerialNumber, c.ThingName, c.StateDir, c.Agent.Socket, c.Primary, c.Bootstrap.Keys, c.Bootstrap.Afterwards}
	}
	return of(next.config) != of(d.config) || !next.files.Roots.Equal(d.files.Roots) || !slices.Equal(next.config.Agent.Shadows, d.config.Agent.Shadows)
}

// showStatus returns what the agent calls with its status. It calls ready when the agent answers
// programs.
func (d *device) showStatus(ctx context.Context, console *cli.Console, ready func()) func(text string, connected bool) {
	begun, verified := false, false
	return func(text string, connected bool) {
		if !begun {
			begun = true
			ready()
			console.Ready(text)
			console.Note(text + "; programs publish and subscribe at " + d.config.Agent.Socket)
			go keepWatchdog(ctx, console, d.config.Agent.Socket)
		}
		console.Status(text)
		if connected && !verified {
			verified = true
			console.Note(text)
			_ = d.forgetClaim(console, false) // it warns
		}
	}
}

// keepWatchdog notifies the service manager for as long as the agent answers at its own socket.
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
