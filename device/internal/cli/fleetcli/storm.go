package fleetcli

import (
	"context"
	"errors"
	"fmt"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"github.com/spf13/cobra"
)

type stormOptions struct {
	settings
	output
	keep  string
	storm fleet.StormConfig
}

func newStormCmd(console *cli.Console) *cobra.Command {
	var o stormOptions
	cmd := &cobra.Command{
		Use:   "storm --keep DIR [flags]",
		Short: "Let all devices lose their connection at once, and come back",
		Long: `Storm connects the devices that "enrol --keep" has left, waits until the broker
ends their connections (restart it), and measures how they come back: each
after a random delay within --window, which doubles with each attempt (full
jitter). The report has the peak of connections a second beside the ideal.

With --cut the connections are ended from here, for a broker that cannot be
restarted. With --no-jitter all come back at once, to see the difference.`,
		Example: `  $ iot_fleet enrol --devices 2000 --keep fleet
  $ iot_fleet storm --keep fleet --window 20s --html storm.html`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := refuseZeros(cmd.Flags(), "window", "concurrency"); err != nil {
				return err
			}
			return runStorm(cmd.Context(), console, o)
		},
	}
	flags := cmd.Flags()
	o.settings.addFlags(flags)
	o.output.addFlags(flags)
	flags.StringVar(&o.keep, "keep", "", "the devices' identities are in `DIR` (required)")
	flags.DurationVar(&o.storm.Window, "window", fleet.DefaultWindow, "spread first attempts over this `DURATION`")
	flags.IntVar(&o.storm.Concurrency, "concurrency", fleet.DefaultConcurrency, "connect `N` devices at a time before the storm")
	flags.BoolVar(&o.storm.NoJitter, "no-jitter", false, "come back at once, as a naive device does")
	flags.BoolVar(&o.storm.Cut, "cut", false, "end the connections from here")
	return cmd
}

func runStorm(ctx context.Context, console *cli.Console, o stormOptions) error {
	c := o.storm
	if o.keep == "" {
		return &fleet.ValueError{Name: "--keep", Value: `""`, Want: "the directory of \"iot_fleet enrol --keep\""}
	}
	base, files, err := o.settings.load(console)
	if err != nil {
		return err
	}
	if err := o.output.check(); err != nil {
		return err
	}
	if c.Identities, err = fleet.Kept(o.keep); err != nil {
		return err
	}
	c.Device = device(base, files)
	bar := newBar(console)
	c.Progress = bar.show
	report, err := fleet.Storm(ctx, c)
	bar.end()
	if report == nil {
		return err
	}
	return errors.Join(err, o.output.write(console, report))
}

// stormSummary is what a person wants to know of a storm.
func stormSummary(r *fleet.Report) cli.Table {
	s := r.Storm
	jitter := fmt.Sprintf("full, first attempts within %s", round(s.WindowSeconds))
	if s.WindowSeconds == 0 {
		jitter = "none"
	}
	attempts := 0
	for _, n := range s.Attempts {
		attempts += n
	}
	return cli.Table{
		{"endpoint", r.Endpoint},
		{"jitter", jitter},
		{"lost", fmt.Sprintf("%d of %d devices", s.Devices, r.Counts.Devices)},
		{"came back", fmt.Sprintf("%d within %s, in %d attempts", s.Returned, round(s.ReturnSeconds), attempts)},
		{"refused", count(s.Refused)},
		{"peak", fmt.Sprintf("%d connections a second", s.PeakConnects)},
		{"ideal", fmt.Sprintf("%.1f connections a second", s.IdealConnects)},
	}
}
