package devicecli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
)

// runAgent runs the agent until ctx ends. After SIGHUP it reads the configuration
// again, and runs the agent with the new one where it differs: what is stored stays,
// and AWS IoT keeps the session. A configuration that cannot be used leaves the
// present one in place.
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
		var next *device
		running, stop := context.WithCancel(ctx)
		var watching sync.WaitGroup
		watching.Go(func() {
			defer stop()
			for next == nil {
				select {
				case <-hangup:
					next = d.reload(ctx, console, s)
				case <-running.Done():
					return
				}
			}
		})
		err := d.runAgent(running, console, func() { former = nil })
		stop()
		watching.Wait()
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

// reload reads the configuration again. It returns nil where that is broken, and
// where it is the same.
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
	console.Reloaded()
	return nil
}
