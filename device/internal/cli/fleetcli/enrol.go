package fleetcli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/hook/payload"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type enrolOptions struct {
	settings
	output
	serials serialOptions
	quotas  quotaOptions
	shard   string
	load    fleet.Load
	fleet   fleet.Config
}

// serialOptions are the flags that choose serial numbers.
type serialOptions struct {
	devices int
	prefix  string
	first   string
}

func (o *serialOptions) addFlags(flags *pflag.FlagSet) {
	flags.IntVarP(&o.devices, "devices", "n", 0, "enrol `N` devices")
	flags.StringVar(&o.prefix, "prefix", payload.SerialPrefix, "begin serial numbers with `PREFIX`, the hook's")
	flags.StringVar(&o.first, "first", "", "begin with this `SERIAL` and count up (default: PREFIX0000001)")
}

func newEnrolCmd(console *cli.Console) *cobra.Command {
	var o enrolOptions
	cmd := &cobra.Command{
		Use:   "enrol --devices N [flags]",
		Short: "Enrol N devices, and report what it took",
		Long: `Enrol provisions N simulated devices with serial numbers in a row, each with a
key of its own, and proves each identity, as "iot_device bootstrap" does.

A device begins when another has ended (--concurrency), or at a fixed --rate;
then latencies count from when the device was due, so that a stall shows.
Identities live in memory, or in --keep, with which an interrupted launch goes
on where it stopped. With --hold all stay connected afterwards and publish.

The configuration is that of iot_device; its serialNumber, thingname and primary
paths are not used. An endpoint of AWS needs --yes-this-is-aws, and is spared:
--quotas is aws there unless told otherwise.`,
		Example: `  # A thousand devices against a local core, fifty at a time
  $ iot_fleet enrol --devices 1000

  # Twenty a second, with a report to keep and a page to look at
  $ iot_fleet enrol --devices 1000 --rate 20 --ramp 10s --report launch.json --html launch.html

  # Five thousand that stay connected for ten minutes
  $ iot_fleet enrol --devices 5000 --hold 10m --interval 1m

  # The second of four machines, against AWS
  $ iot_fleet enrol --devices 100000 --shard 2/4 --yes-this-is-aws --report 2.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := refuseZeros(cmd.Flags(), "concurrency", "rate", "interval", "timeout"); err != nil {
				return err
			}
			return runEnrol(cmd.Context(), console, o)
		},
	}
	flags := cmd.Flags()
	o.settings.addFlags(flags)
	o.serials.addFlags(flags)
	o.quotas.addFlags(flags)
	o.output.addFlags(flags)
	flags.IntVar(&o.load.Concurrency, "concurrency", 0, fmt.Sprintf("`N` devices under way at most (default %d, with --rate %d)", fleet.DefaultConcurrency, fleet.DefaultInFlight))
	flags.Float64Var(&o.load.Rate, "rate", 0, "begin `R` devices a second, whatever becomes of them")
	flags.DurationVar(&o.load.Ramp, "ramp", 0, "let concurrency or rate grow over this `DURATION`")
	flags.DurationVar(&o.load.Duration, "duration", 0, "begin no more devices after this `DURATION`")
	flags.DurationVar(&o.fleet.Hold, "hold", 0, "keep all connected for this `DURATION` afterwards")
	flags.DurationVar(&o.fleet.Interval, "interval", fleet.DefaultInterval, "`DURATION` between two messages of a device that is held")
	flags.DurationVar(&o.fleet.DeviceTimeout, "timeout", fleet.DefaultDeviceTimeout, "give a device up after this `DURATION`")
	flags.StringVar(&o.fleet.Keep, "keep", "", "keep the identities in `DIR`, a folder each (default: in memory)")
	flags.StringVar(&o.shard, "shard", "", "do one share of the launch: `I/N`, as in 2/5")
	return cmd
}

func runEnrol(ctx context.Context, console *cli.Console, o enrolOptions) error {
	c, err := o.config(console)
	if err != nil {
		return err
	}
	if err := o.output.check(); err != nil {
		return err
	}
	bar := newBar(console)
	c.Progress = bar.show
	report, err := fleet.Enrol(ctx, c)
	bar.end()
	if report == nil {
		return err
	}
	if writeErr := o.output.write(console, report); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	if err == nil && report.Counts.Failed > 0 {
		return &incompleteError{report}
	}
	return err
}

// config checks the flags first, so that what is wrong with them is told
// before any file is read.
func (o *enrolOptions) config(console *cli.Console) (c fleet.Config, err error) {
	c = o.fleet
	c.Load = o.load
	if err := c.Load.Check(); err != nil {
		return c, err
	}
	if c.Serials, err = fleet.NewSerials(o.serials.prefix, o.serials.first, o.serials.devices); err != nil {
		return c, err
	}
	if o.shard != "" {
		if c.Shard, err = fleet.ParseShard(o.shard); err != nil {
			return c, err
		}
	}
	base, files, err := o.settings.load(console)
	if err != nil {
		return c, err
	}
	if err := checkSerial(c.Serials, base); err != nil {
		return c, err
	}
	c.Device = device(base, files)
	if c.Quotas, err = o.quotas.quotas(base.Server.Endpoint); err != nil {
		return c, err
	}
	if console.Log.Enabled(context.Background(), slog.LevelInfo) {
		c.Log = console.Log // thousands of devices log only when asked to
	}
	return c, nil
}

// refuseZeros refuses zeros that were given: in a [fleet.Config] they mean the
// default.
func refuseZeros(flags *pflag.FlagSet, names ...string) error {
	for _, name := range names {
		f := flags.Lookup(name)
		if f.Changed && (f.Value.String() == "0" || f.Value.String() == "0s") {
			return &fleet.ValueError{Name: "--" + name, Value: f.Value.String(), Want: "more than 0"}
		}
	}
	return nil
}

// checkSerial makes sure that the last serial number can be one.
func checkSerial(s fleet.Serials, base *config.Config) error {
	if last := s.At(s.Count - 1); len(last) > payload.MaxSerialLength {
		return &fleet.RangeError{Serial: last, Reason: fmt.Sprintf("has more than %d characters", payload.MaxSerialLength)}
	}
	return nil
}

// quotaOptions are the flags that hold the fleet to AWS's rates.
type quotaOptions struct {
	mode string
	sets []string
}

func (o *quotaOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.mode, "quotas", "auto", "keep to AWS's `RATES`: aws (most Regions), large (the Regions with higher ones), off, or auto: aws on AWS, else off")
	flags.StringArrayVar(&o.sets, "quota", nil, "change one rate: `NAME=PER_SECOND`, as in RegisterThing=50 (repeatable)")
}

// quotas returns the quotas to keep to, nil for none.
func (o *quotaOptions) quotas(endpoint string) (*fleet.Quotas, error) {
	mode := o.mode
	if mode == "auto" {
		mode = "off"
		if onAWS(endpoint) {
			mode = "aws"
		}
	}
	var q fleet.Quotas
	switch mode {
	case "off":
		if len(o.sets) == 0 {
			return nil, nil
		}
	case "aws":
		q = fleet.OtherRegionQuotas()
	case "large":
		q = fleet.LargeRegionQuotas()
	default:
		return nil, &fleet.ValueError{Name: "--quotas", Value: o.mode, Want: "aws, large, off or auto"}
	}
	for _, set := range o.sets {
		if err := q.Set(set); err != nil {
			return nil, err
		}
	}
	return &q, nil
}

// round makes a duration of a report readable.
func round(seconds float64) time.Duration {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d > time.Hour:
		return d.Round(time.Minute)
	case d > time.Minute:
		return d.Round(time.Second)
	}
	return d.Round(10 * time.Millisecond)
}
