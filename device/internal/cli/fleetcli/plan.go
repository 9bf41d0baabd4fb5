package fleetcli

import (
	"cmp"
	"context"
	"fmt"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/provision"
	"github.com/spf13/cobra"
)

func newPlanCmd(console *cli.Console) *cobra.Command {
	var devices int
	var quotas quotaOptions
	var keys string
	var asJSON bool
	cmd := cli.Command("plan --devices N [flags]", cli.NoArgs, func(context.Context, []string) error {
		if _, err := fleet.NewSerials("", "", devices); err != nil {
			return err
		}
		if keys := provision.Keys(keys); keys != provision.DeviceKeys && keys != provision.ServiceKeys {
			return &fleet.ValueError{Name: "keys", Value: string(keys), Want: "device or service"}
		}
		q, err := quotas.quotas(true)
		if err != nil {
			return err
		}
		f := fleet.PlanLaunch(devices, *cmp.Or(q, new(fleet.Quotas)), provision.Keys(keys))
		if len(f.Limits) == 0 {
			return &fleet.ValueError{Name: "quotas", Value: quotas.mode, Want: "aws or large, or a --quota that is not 0: a plan follows from the quotas"}
		}
		if asJSON {
			return console.JSON(f)
		}
		first := f.Limits[0]
		t := cli.Table{
			{"devices", fmt.Sprint(f.Devices)},
			{"minimum duration", fmt.Sprintf("%s, at %.1f devices per second", fleet.FormatSeconds(f.Seconds), f.Rate)},
			{"limited by", fmt.Sprintf("%s, %g per second", f.Binding, first.PerSecond)},
		}
		if first.QuotaIncreaseTarget > first.PerSecond {
			t = append(t, cli.Row{"best improvement", fmt.Sprintf("raise %s to %.6g per second: %s", first.Quota, first.QuotaIncreaseTarget, fleet.FormatSeconds(first.SecondsAfter))})
		}
		limits := cli.Table{{}, {"quota", "per second", "devices per second", "duration at this quota alone"}}
		for _, l := range f.Limits {
			limits = append(limits, cli.Row{l.Quota, fmt.Sprint(l.PerSecond), fmt.Sprintf("%.1f", l.DevicesPerSecond), fleet.FormatSeconds(l.Seconds)})
		}
		return cmp.Or(console.Table(t), console.Table(limits))
	})
	flags := cmd.Flags()
	flags.IntVarP(&devices, "devices", "n", 0, "plan for `N` devices")
	_ = cmd.MarkFlagRequired("devices")
	quotas.addFlags(flags)
	flags.StringVar(&keys, "keys", string(provision.DeviceKeys), "who generates the private keys, `FLOW`: device or service")
	flags.BoolVar(&asJSON, "json", false, "print the plan as one JSON object")
	return cmd
}
