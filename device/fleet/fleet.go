// Package fleet enrols many simulated devices at once and measures what that
// takes. Each device has a key and an identity of its own and goes through the
// same [provision.Run] as a real one; the fleet adds when each begins, keeps
// to quotas, and counts.
//
// It is not a load generator for MQTT traffic: while devices are held they
// publish as much as shows that they are alive.
package fleet

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"example.com/fleety/device/provision"
)

// Limits of what makes sense on one machine.
const (
	MaxDevices     = 10_000_000
	MaxConcurrency = 100_000
	MaxRate        = 100_000 // devices per second
	// MinInterval between two messages of one device: AWS IoT discards more
	// than 100 a second on one connection, which is also what a device needs.
	// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
	MinInterval = 10 * time.Millisecond
)

// Defaults of a [Config].
const (
	DefaultConcurrency = 50
	// DefaultInFlight bounds the devices under way at a fixed rate.
	DefaultInFlight = 1000
	DefaultInterval = 30 * time.Second
	// DefaultDeviceTimeout is what iot_device bootstrap grants one device.
	DefaultDeviceTimeout = 2 * time.Minute
)

// Config says which devices to enrol, where, and how fast. Device and Serials
// are required.
type Config struct {
	// Device returns the provisioning of one device. Store and Progress, and of
	// its Session DialContext and OnConnect, are the fleet's own.
	Device func(serial string) provision.Config
	// Serials are those of the whole launch, also when it is shared.
	Serials Serials
	// Shard is this process's share; the zero value is all.
	Shard Shard
	Load  Load
	// Quotas to keep to; nil keeps to none.
	Quotas *Quotas
	// Keep is the directory that keeps the identities, each in a folder named
	// after its serial number; empty means memory only.
	Keep string
	// Hold is how long all devices stay connected once they are enrolled; they
	// publish every Interval, [DefaultInterval] if zero.
	Hold     time.Duration
	Interval time.Duration
	// DeviceTimeout bounds one device's enrolment, waits included; default
	// [DefaultDeviceTimeout], and with Quotas what the launch should take more.
	DeviceTimeout time.Duration

	// Progress, if set, is called about ten times a second.
	Progress func(Progress)
	// Log receives what single devices log; nil discards.
	Log *slog.Logger
}

// A Load says when devices begin. With Rate zero the loop is closed: a device
// begins when one of Concurrency others has ended. Otherwise it is open:
// devices begin at Rate whether others have ended or not, and how long each
// took counts from when it was due, so that a stall shows in every device that
// it delayed.
type Load struct {
	// Concurrency is how many devices are under way at most. Zero means
	// [DefaultConcurrency], in an open loop [DefaultInFlight].
	Concurrency int
	// Rate is in devices per second, of the whole launch.
	Rate float64
	// Ramp is how long concurrency or rate grows from zero.
	Ramp time.Duration
	// Duration ends the beginning of new devices; zero means no end.
	Duration time.Duration
}

func (l Load) withDefaults() Load {
	switch {
	case l.Concurrency != 0:
	case l.Rate > 0:
		l.Concurrency = DefaultInFlight
	default:
		l.Concurrency = DefaultConcurrency
	}
	return l
}

// Check reports numbers that make no sense.
func (l Load) Check() error {
	var errs []error
	if l.Concurrency < 0 || l.Concurrency > MaxConcurrency {
		errs = append(errs, &ValueError{"concurrency", fmt.Sprint(l.Concurrency), fmt.Sprintf("1 to %d", MaxConcurrency)})
	}
	if !(l.Rate >= 0 && l.Rate <= MaxRate) || math.IsNaN(l.Rate) {
		errs = append(errs, &ValueError{"rate", fmt.Sprint(l.Rate), fmt.Sprintf("more than 0 and at most %d devices a second", MaxRate)})
	}
	if l.Ramp < 0 {
		errs = append(errs, &ValueError{"ramp", l.Ramp.String(), "a duration of 0 or more"})
	}
	if l.Duration < 0 {
		errs = append(errs, &ValueError{"duration", l.Duration.String(), "a duration of 0 or more"})
	}
	return errors.Join(errs...)
}

// due returns when device number i, from 0, begins in an open loop. During the
// ramp the rate grows in a straight line, so that the devices begun grow with
// the square of the time.
func (l Load) due(i int) time.Duration {
	ramp := l.Ramp.Seconds()
	during := l.Rate * ramp / 2
	at := ramp + (float64(i)-during)/l.Rate
	if float64(i) < during {
		at = math.Sqrt(2 * ramp * float64(i) / l.Rate)
	}
	return time.Duration(at * float64(time.Second))
}

func (c Config) withDefaults() Config {
	c.Load = c.Load.withDefaults()
	c.Shard = c.Shard.withDefaults()
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.DeviceTimeout == 0 {
		c.DeviceTimeout = DefaultDeviceTimeout
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	return c
}

// Check reports everything that keeps the fleet from starting: numbers that
// make no sense, too few file descriptors, a directory that cannot take the
// identities. It may raise the process's limit of open files. [Enrol] does the
// same first.
func (c Config) Check() error {
	c = c.withDefaults()
	errs := []error{c.Load.Check(), c.Shard.check(), c.Serials.check(), c.Quotas.check()}
	if c.Device == nil {
		errs = append(errs, errors.New("fleet: no devices described"))
	}
	if c.Hold < 0 {
		errs = append(errs, &ValueError{"hold", c.Hold.String(), "a duration of 0 or more"})
	}
	if c.Interval < MinInterval {
		errs = append(errs, &ValueError{"interval", c.Interval.String(), fmt.Sprintf("%s or more: AWS IoT takes 100 messages a second of one connection", MinInterval)})
	}
	if c.DeviceTimeout < 0 {
		errs = append(errs, &ValueError{"device timeout", c.DeviceTimeout.String(), "more than 0"})
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.Join(checkFiles(c.files()), c.checkKeep())
}

// files returns how many files may be open at once. A device under way has two
// connections: the claim's, and its own, which is being prepared.
func (c Config) files() int {
	const own = 64
	devices := c.Shard.size(c.Serials.Count)
	each := 2
	if c.Keep != "" {
		each = 4
	}
	open := each * min(c.Load.Concurrency, devices)
	if c.Hold > 0 {
		open = max(open, 2*min(c.Load.Concurrency, devices)+devices)
	}
	return own + open
}

// A ValueError tells that a setting makes no sense.
type ValueError struct{ Name, Value, Want string }

// Error names the setting, its value, and what it may be.
func (e *ValueError) Error() string { return fmt.Sprintf("%s %s: want %s", e.Name, e.Value, e.Want) }
