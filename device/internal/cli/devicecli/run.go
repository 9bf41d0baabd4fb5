package devicecli

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
)

func newRunCmd(console *cli.Console) *cobra.Command {
	var s config.Sources
	cmd := cli.Command("run [flags]", cli.NoArgs, func(ctx context.Context, _ []string) error { return runAgent(ctx, console, s) })
	s.AddFlags(cmd.Flags())
	s.AddAuthorFlag(cmd.Flags(), "`NAME` recorded as the device's author")
	return cmd
}

// openShadows opens those that the agent keeps.
func (d *device) openShadows(console *cli.Console) error {
	d.shadows = map[string]*shadow.Shadow{}
	for _, c := range d.config.Agent.Shadows {
		s, err := shadow.New(shadow.Config{Name: c.Name, File: c.File, Program: c.Program, Dir: agentDir(d.config), Log: console.Log})
		if err != nil {
			return err
		}
		d.shadows[c.Name] = s
	}
	return nil
}

// routes returns the part of the local API that is not the agent's own.
func (d *device) routes(console *cli.Console) map[string]http.Handler {
	credentials, shadow := d.credentials(console), agent.Answer(d.answerShadow)
	return map[string]http.Handler{
		"GET /v1/credentials": agent.Answer(func(_ http.ResponseWriter, r *http.Request) (any, error) {
			return credentials.Get(r.Context(), r.URL.Query().Get("roleAlias"))
		}),
		// The classic shadow has no name, also with a slash behind the path.
		"GET /v1/shadows": shadow, "PATCH /v1/shadows": shadow,
		"GET /v1/shadows/{name...}": shadow, "PATCH /v1/shadows/{name...}": shadow,
	}
}

// answerShadow answers with a shadow that the agent keeps, after a change if there is one.
func (d *device) answerShadow(_ http.ResponseWriter, r *http.Request) (any, error) {
	name := r.PathValue("name")
	s := d.shadows[name]
	if s == nil {
		return nil, &agent.Error{StatusCode: 404, Message: fmt.Sprintf("the agent keeps no shadow %q (the classic one has no name); agent.shadows lists those that it keeps", name)}
	}
	if r.Method == http.MethodPatch {
		change, _ := io.ReadAll(r.Body) // which is in memory
		if e, ok := errors.AsType[*shadow.Error](s.Update(change)); ok {
			return nil, &agent.Error{StatusCode: e.StatusCode, Message: e.Error()}
		}
	}
	return s.Document(), nil
}

// agent translates the configuration for package agent. The shadows are open.
func (d *device) agent(console *cli.Console) agent.Config {
	a, dir := d.config.Agent, agentDir(d.config)
	c := agent.Config{
		Provision: d.provisioning(console, false), Dir: dir, Socket: a.Socket, RotateAfter: a.RotateAfter, Log: console.Log,
		Outbox: outbox.Config{MaxBytes: a.Outbox.MaxBytes, MaxAge: a.Outbox.MaxAge},
		Routes: d.routes(console),
	}
	use := func(key string, create func() agent.Service, set func(agent.Service)) {
		c.Services = append(c.Services, agent.ServiceConfig{Key: key, New: create, Set: set})
	}
	for _, s := range d.shadows {
		use(s.Name(), func() agent.Service { return s }, nil)
	}
	if j := a.Jobs; len(j.Allow) > 0 {
		use("jobs", func() agent.Service {
			return jobs.New(jobs.Config{
				Dir: dir, Session: c.Provision.Session,
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
		}, func(s agent.Service) {
			s.(*jobs.Service).Set(jobs.Settings(j))
		})
	}
	if len(a.Tunnel.Services) > 0 {
		use("tunnel "+a.Tunnel.Endpoint, func() agent.Service {
			host, port := a.Tunnel.HostPort()
			return tunnel.New(tunnel.Config{Endpoint: host, Port: port, Session: c.Provision.Session, Log: console.Log})
		}, func(s agent.Service) { s.(*tunnel.Service).SetServices(a.Tunnel.Addresses()) })
	}
	if a.Defender.Interval > 0 {
		use("defender "+a.Defender.Interval.String(), func() agent.Service { return &defender.Reporter{Interval: a.Defender.Interval} }, nil)
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
	outliveReaders()
	d, err := open(ctx, console, s, false, false)
	if err != nil {
		return err
	}
	var former *device // until the agent runs with the configuration that follows it
	for {
		changes := make(chan agent.Config)
		current, stop := context.WithCancel(ctx)
		err := d.openShadows(console)
		c := d.agent(console)
		var ready atomic.Bool // before, the device is being provisioned, and takes no changes
		var next *device
		var watching sync.WaitGroup
		c.Changes, c.OnStatus = changes, d.showStatus(current, console, &watching, func() { former = nil; ready.Store(true) })
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
					select {
					case changes <- changed.agent(console):
						d = changed
					case <-current.Done():
						return
					}
				}
				if ready.Load() {
					console.Notify(daemon.SdNotifyReady)
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
	console.Notify(daemon.SdNotifyReloading, daemon.SdNotifyMonotonicUsec())
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
	c, present := next.config, d.config
	server, presentServer := c.Server, present.Server
	server.CredentialsEndpoint, presentServer.CredentialsEndpoint = "", ""
	return server != presentServer || c.SerialNumber != present.SerialNumber || c.ThingName != present.ThingName || c.StateDir != present.StateDir ||
		c.Primary != present.Primary || c.Bootstrap.Keys != present.Bootstrap.Keys || c.Bootstrap.Afterwards != present.Bootstrap.Afterwards ||
		c.Agent.Socket != present.Agent.Socket || !slices.Equal(c.Agent.Shadows, present.Agent.Shadows) || !next.files.Roots.Equal(d.files.Roots)
}

// showStatus returns what the agent calls with its status. It calls ready when the agent answers
// programs, and has the watchdog run from then on until ctx ends.
func (d *device) showStatus(ctx context.Context, console *cli.Console, running *sync.WaitGroup, ready func()) func(text string, connected bool) {
	begun, verified := false, false
	return func(text string, connected bool) {
		if !begun {
			begun = true
			ready()
			console.Notify(daemon.SdNotifyReady, "STATUS="+text)
			console.Note(text + "; programs publish and subscribe at " + d.config.Agent.Socket)
			running.Go(func() { keepWatchdog(ctx, console, d.config.Agent.Socket) })
		}
		console.Notify("STATUS=" + text)
		if connected && !verified {
			verified = true
			console.Note(text)
			_ = d.forgetClaim(console, false) // it warns
		}
	}
}

// keepWatchdog notifies the service manager for as long as the agent answers at its own socket, as it
// would another program: on a connection that is kept it answers also where the socket is gone.
func keepWatchdog(ctx context.Context, console *cli.Console, socket string) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		console.Log.Debug("reading the service manager's watchdog failed", "error", err)
	}
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
		if _, err := client.Status(answer); err == nil {
			console.Notify(daemon.SdNotifyWatchdog)
		} else if ctx.Err() == nil { // else it is being stopped
			console.Log.Warn(fmt.Sprintf("the agent does not answer at %s", socket), "error", err)
		}
		cancel()
		client.Close()
	}
}
