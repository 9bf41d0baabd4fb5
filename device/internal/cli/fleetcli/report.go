package fleetcli

import (
	"os"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"github.com/spf13/cobra"
)

func newReportCmd(console *cli.Console) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "report FILE.json... [flags]",
		Short: "Show a report, or merge those of the shards of one launch",
		Long: `Report reads the files of "enroll --report" and prints them or writes them as a
page. Several are merged into one: those of the shards of one launch. Latencies
are merged value by value.`,
		Example: `  $ iot_fleet report launch.json --html launch.html
  $ iot_fleet report 1.json 2.json 3.json --report launch.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, paths []string) error { return runReport(console, o, paths) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func runReport(console *cli.Console, o output, paths []string) error {
	if err := o.check(); err != nil {
		return err
	}
	reports := make([]*fleet.Report, len(paths))
	for i, path := range paths {
		var err error
		if reports[i], err = readReport(path); err != nil {
			return err
		}
	}
	report := reports[0]
	if len(reports) > 1 {
		var err error
		if report, err = fleet.Merge(reports...); err != nil {
			return err
		}
	}
	return o.write(console, report)
}

func readReport(path string) (*fleet.Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &fileError{path, cause(err)}
	}
	defer f.Close()
	r, err := fleet.ReadReport(f)
	if err != nil {
		return nil, &fileError{path, err}
	}
	return r, nil
}
