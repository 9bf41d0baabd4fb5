package devicecli

import (
	"context"
	"fmt"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/doctor"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
	"github.com/spf13/cobra"
)

type doctorOptions struct {
	config.Sources
	json bool
}

func newDoctorCmd(console *cli.Console) *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Find out why the device does not work",
		Long: `Doctor makes the checks that a support engineer would make, in the order of
their causes: configuration, files, clock, network, server, policies, template
and disk. For each it tells what was found, why, and what to do. It changes
nothing and registers nothing, but it does connect: with the claim, and under
the device's own client id, which ends a session that the device has.

The exit code is that of the worst finding; 0 means that all is well.`,
		Example: `  $ iot_device doctor

  # For scripts: all findings that are not well
  $ iot_device doctor --json | jq '.checks[] | select(.result != "ok")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd.Context(), console, o) },
	}
	o.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&o.json, "json", false, "print the report as one JSON object")
	return cmd
}

func runDoctor(ctx context.Context, console *cli.Console, o doctorOptions) error {
	c, problems := load(console, o.Sources)
	if cli.IsA[*cli.UsageError](problems) {
		return problems
	}
	examination := doctor.Config{Settings: c, Problems: problems, Log: console.Log}
	if c != nil && c.Bootstrap.ProvisioningTemplate == config.DefaultTemplate {
		examination.SerialPrefix = payload.SerialPrefix // our own hook decides
	}
	report := doctor.Run(ctx, examination)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := printReport(console, o, report); err != nil {
		return err
	}
	if _, class, failed := report.Worst(); failed {
		return cli.Reported(exitCodeOfClass(class))
	}
	return nil
}

func printReport(console *cli.Console, o doctorOptions, report doctor.Report) error {
	if o.json {
		return console.JSON(report)
	}
	if err := report.WriteText(console.Out); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

func exitCodeOfClass(c session.Class) int {
	switch c {
	case session.ClassConfig:
		return cli.ExitUsage
	case session.ClassRefused:
		return cli.ExitDenied
	case session.ClassTemporary:
		return cli.ExitTemporary
	}
	return cli.ExitFailed
}
