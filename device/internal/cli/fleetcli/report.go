package fleetcli

import (
	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"github.com/spf13/cobra"
)

func newReportCmd(console *cli.Console) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:  "report FILE.json... [flags]",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, paths []string) (err error) {
			if err := o.check(); err != nil {
				return err
			}
			reports := make([]*fleet.Report, len(paths))
			for i, path := range paths {
				if reports[i], err = readFile(path, fleet.ReadReport); err != nil {
					return err
				}
			}
			merged, err := fleet.Merge(reports...)
			if err != nil {
				return err
			}
			return o.write(console, merged)
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}
