// Package program has what services of the agent need to run programs of the device's owner: which
// may run, what they see of the agent, and how they end.
package program

import (
	"os"
	"slices"
	"strings"
)

// Environment returns the agent's environment without what is the agent's own: its settings and the
// service manager's.
func Environment() []string {
	return slices.DeleteFunc(os.Environ(), func(pair string) bool {
		return strings.HasPrefix(pair, "IOT_DEVICE_") || strings.HasPrefix(pair, "NOTIFY_SOCKET=") || strings.HasPrefix(pair, "WATCHDOG_")
	})
}
