package cli

import (
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"example.com/fleety/device/internal/term"
)

// Ready notifies the service manager that start-up is complete, with a short
// status. Without a service manager it does nothing.
//
// Page: https://www.freedesktop.org/software/systemd/man/sd_notify.html
func (c *Console) Ready(status string) { c.notify("READY=1\n" + statusLine(status)) }

// Reloading notifies the service manager that the configuration is read again, until
// [Console.Ready] or [Console.Reloaded].
func (c *Console) Reloading() {
	c.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Reloaded notifies the service manager that nothing has changed.
func (c *Console) Reloaded() { c.notify(daemon.SdNotifyReady) }

// Status sets the status that the service manager shows.
func (c *Console) Status(status string) { c.notify(statusLine(status)) }

func statusLine(text string) string { return "STATUS=" + term.Clean(text) }

func (c *Console) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		c.Log.Debug("notifying the service manager failed", "error", err)
	}
}

// WatchdogInterval is within which the service manager expects [Console.Watchdog],
// 0 for never.
func (c *Console) WatchdogInterval() time.Duration {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		c.Log.Debug("reading the service manager's watchdog failed", "error", err)
	}
	return interval
}

// Watchdog notifies the service manager that the program works.
func (c *Console) Watchdog() { c.notify(daemon.SdNotifyWatchdog) }
