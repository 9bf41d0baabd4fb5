package cli

import (
	"github.com/coreos/go-systemd/v22/daemon"

	"example.com/fleety/device/internal/term"
)

// Ready tells the service manager that the program has reached what it was
// started for, and in a few words what that is. Without one it does nothing.
//
// Page: https://www.freedesktop.org/software/systemd/man/sd_notify.html
func (c *Console) Ready(status string) { c.notify("READY=1\n" + statusLine(status)) }

// notifyStatus shows in the service manager what is going on.
func (c *Console) notifyStatus(status string) { c.notify(statusLine(status)) }

func statusLine(text string) string { return "STATUS=" + term.Clean(text) }

func (c *Console) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		c.Log.Debug("the service manager could not be told", "error", err)
	}
}
