// Package fleet enrolls many simulated devices at once and measures what that takes. Each device
// has its own key and identity and runs the same [provision.Run] as a real one; the fleet decides
// when each begins, keeps to AWS's quotas, and counts.
//
// It is not a load generator for MQTT traffic: devices that are held publish only as much as shows
// that they are alive.
package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"example.com/fleety/device/provision"
)

// Limits of what makes sense on one machine.
const (
	MaxDevices     = 10_000_000
	MaxConcurrency = 100_000
	MaxRate        = 100_000 // devices per second
	minQuota       = 0.01    // per second: a launch at a lower one takes centuries
	// MinInterval between two messages of one device: AWS IoT discards more than 100 per second on
	// one connection.
	// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
	MinInterval = 10 * time.Millisecond
	MaxWindow   = time.Hour
)

// Defaults of a [Config].
const (
	DefaultConcurrency = 50
	// DefaultInFlight bounds the devices in progress at a fixed rate.
	DefaultInFlight = 1000
	DefaultInterval = 30 * time.Second
	DefaultWindow   = 30 * time.Second
	// DefaultDeviceTimeout is that of iot_device bootstrap.
	DefaultDeviceTimeout = 2 * time.Minute
)

// Config says which devices to enroll, where, and how fast. Device and Serials are required.
type Config struct {
	// Device returns the provisioning of one device. Store and Progress, and of its Session OnConnect
	// and OnClose, are set by the fleet.
	Device  func(serial string) provision.Config
	Serials Serials // those of the whole launch, also when it is divided
	Shard   Shard   // this process's share; the zero value is all
	Load    Load
	Quotas  *Quotas // to keep to; nil for none
	// Keep is the directory for the identities, a folder for each serial number; empty means memory
	// only. It must be private to this user (mode 0700), and gets a .gitignore that excludes all of
	// it.
	Keep          string
	DeviceTimeout time.Duration // bounds the enrollment of one device, waits included; default [DefaultDeviceTimeout]

	// Hold is how long all devices stay connected after they are enrolled; they publish every
	// Interval, [DefaultInterval] if zero.
	Hold     time.Duration
	Interval time.Duration
	// ReconnectAfter closes all held connections at once, that long after the beginning of Hold;
	// zero does not. Devices reconnect as they do after any other loss of their connection.
	ReconnectAfter time.Duration
	// ReconnectWindow is the time within which a device that lost its connection makes its first
	// attempt, at random (full jitter); it doubles with each further attempt. Default
	// [DefaultWindow].
	ReconnectWindow time.Duration
	NoJitter        bool // makes the first attempt at once and repeats it after 1, 2, 4 … seconds, as devices without jitter do

	// Progress, if set, is called about ten times per second.
	Progress func(Progress)
	Log      *slog.Logger // receives the logs of single devices; nil discards them
}

// A Load says when devices begin. With Rate zero the loop is closed: a device begins when one of
// Concurrency others has ended. Otherwise it is open: devices begin at Rate whether others have
// ended or not, and latencies count from when a device was due, so that a stall shows in every
// device that it delayed.
type Load struct {
	// Concurrency is the greatest number of devices in progress. Zero means [DefaultConcurrency],
	// in an open loop [DefaultInFlight].
	Concurrency int
	Rate        float64 // in devices per second, of the whole launch
}

func (c Config) withDefaults() Config {
	concurrency := DefaultConcurrency
	if c.Load.Rate > 0 {
		concurrency = DefaultInFlight
	}
	c.Load.Concurrency = cmp.Or(c.Load.Concurrency, concurrency)
	c.Shard = cmp.Or(c.Shard, Shard{Index: 1, Of: 1})
	c.Interval = cmp.Or(c.Interval, DefaultInterval)
	c.ReconnectWindow = cmp.Or(c.ReconnectWindow, DefaultWindow)
	c.DeviceTimeout = cmp.Or(c.DeviceTimeout, DefaultDeviceTimeout)
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	return c
}

// Check reports everything that prevents the fleet from starting: settings out of range as a
// *[ValueError], too few file descriptors, a directory that cannot take the identities. It may
// raise the process's limit of open files. [Enroll] does the same first.
func (c Config) Check() error {
	c = c.withDefaults()
	errs := []error{c.Serials.check(), c.Shard.check(), c.Quotas.check()}
	if c.Device == nil {
		errs = append(errs, errors.New("fleet: Config.Device is missing"))
	}
	within := func(ok bool, name string, value any, want string) {
		if !ok {
			errs = append(errs, &ValueError{name, fmt.Sprint(value), want})
		}
	}
	const duration = "a duration of 0 or more"
	l := c.Load
	within(l.Concurrency > 0 && l.Concurrency <= MaxConcurrency, "concurrency", l.Concurrency, fmt.Sprintf("1 to %d", MaxConcurrency))
	within(l.Rate >= 0 && l.Rate <= MaxRate, "rate", l.Rate, fmt.Sprintf("more than 0 and at most %d devices per second", MaxRate)) // NaN is neither
	within(c.DeviceTimeout >= 0, "timeout", c.DeviceTimeout, "more than 0")
	within(c.Hold >= 0, "hold", c.Hold, duration)
	within(c.Interval >= MinInterval, "interval", c.Interval, fmt.Sprintf("%s or more: AWS IoT accepts 100 messages per second on one connection", MinInterval))
	within(c.ReconnectAfter >= 0 && (c.ReconnectAfter == 0 || c.ReconnectAfter < c.Hold), "reconnect-after", c.ReconnectAfter, "a duration shorter than that of --hold")
	within(c.ReconnectWindow > 0 && c.ReconnectWindow <= MaxWindow, "reconnect-window", c.ReconnectWindow, fmt.Sprintf("more than 0 and at most %s", MaxWindow))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	each := 2 // connections of a device in progress: the claim's, and its own, which is being prepared
	if c.Keep != "" {
		if err := prepareKeep(c.Keep); err != nil {
			return err
		}
		each = 4
	}
	devices := c.Shard.size(c.Serials.Count)
	open := each * min(l.Concurrency, devices)
	if c.Hold > 0 { // while a device reconnects, its old connection may not be closed yet
		open = max(open, 2*devices)
	}
	const others = 64
	return checkFiles(open + others)
}

// A ValueError is a setting that is out of range. Name is that of its flag of iot_fleet.
type ValueError struct{ Name, Value, Want string }

// Error names the setting, its value, and what it may be.
func (e *ValueError) Error() string { return fmt.Sprintf("--%s %s: want %s", e.Name, e.Value, e.Want) }

// prepareKeep makes the directory of the identities, which hold private keys: private to this user,
// and ignored by git.
func prepareKeep(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	info, statErr := os.Stat(dir)
	if err = cmp.Or(err, statErr); err != nil {
		return fmt.Errorf("making the directory of the identities: %w", err)
	}
	if open := info.Mode().Perm() & 0o077; open != 0 && runtime.GOOS != "windows" { // where access is not in the mode
		return fmt.Errorf("other users may use the directory of the identities %s (mode %#o), and private keys go there: name one that is yours alone (mode 0700), or that does not exist", dir, info.Mode().Perm())
	}
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o600); err != nil {
		return fmt.Errorf("writing into the directory of the identities: %w", err)
	}
	return nil
}
