package fleetcli

import (
	"fmt"
	"text/tabwriter"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/provision"
	"github.com/spf13/cobra"
)

type planOptions struct {
	devices int
	quotas  quotaOptions
	keys    string
	json    bool
}

func newPlanCmd(console *cli.Console) *cobra.Command {
	o := planOptions{quotas: quotaOptions{mode: "aws"}}
	cmd := &cobra.Command{
		Use:   "plan --devices N [flags]",
		Short: "Estimate how long a launch takes on AWS",
		Long: `Plan estimates from AWS's quotas the minimum duration of a launch of N devices,
which quota limits it, and what an increase of that quota gains. It connects to
nothing.`,
		Example: `  $ iot_fleet plan --devices 1000000

  # With quotas that AWS raised for your account
  $ iot_fleet plan --devices 1000000 --quota RegisterThing=100 --quota CreateCertificateFromCsr=100`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runPlan(console, o) },
	}
	flags := cmd.Flags()
	flags.IntVarP(&o.devices, "devices", "n", 0, "plan for `N` devices")
	o.quotas.addFlags(flags)
	flags.StringVar(&o.keys, "keys", string(provision.DeviceKeys), "who generates the private keys, `FLOW`: device or service")
	flags.BoolVar(&o.json, "json", false, "print the plan as one JSON object")
	return cmd
}

func runPlan(console *cli.Console, o planOptions) error {
	if _, err := fleet.NewSerials("", "", o.devices); err != nil {
		return err
	}
	keys := provision.Keys(o.keys)
	if keys != provision.DeviceKeys && keys != provision.ServiceKeys {
		return &fleet.ValueError{Name: "--keys", Value: o.keys, Want: "device or service"}
	}
	if o.quotas.mode == "auto" {
		o.quotas.mode = "aws"
	}
	q, err := o.quotas.quotas("")
	if err != nil {
		return err
	}
	if q == nil {
		return &fleet.ValueError{Name: "--quotas", Value: o.quotas.mode, Want: "aws or large: a plan follows from the quotas"}
	}
	f := fleet.PlanLaunch(o.devices, *q, keys)
	if o.json {
		return console.JSON(f)
	}
	return printPlan(console, f)
}

func printPlan(console *cli.Console, f fleet.Forecast) error {
	first := f.Limits[0]
	t := cli.Table{
		{"devices", fmt.Sprint(f.Devices)},
		{"minimum duration", fmt.Sprintf("%s, at %.1f devices per second", fleet.FormatSeconds(f.Seconds), f.Rate)},
		{"limited by", fmt.Sprintf("%s, %g per second", f.Binding, first.PerSecond)},
	}
	if first.QuotaIncreaseTarget > first.PerSecond {
		t = append(t, cli.Row{"best improvement", fmt.Sprintf("raise %s to %.4g per second: %s", first.Quota, first.QuotaIncreaseTarget, fleet.FormatSeconds(first.SecondsAfter))})
	}
	if err := console.Table(t); err != nil {
		return err
	}
	w := tabwriter.NewWriter(console.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nquota\tper second\tdevices per second\tduration at this quota alone")
	for _, l := range f.Limits {
		fmt.Fprintf(w, "%s\t%g\t%.1f\t%s\n", l.Quota, l.PerSecond, l.DevicesPerSecond, fleet.FormatSeconds(l.Seconds))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}
