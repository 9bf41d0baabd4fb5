package devicecli

import (
	"context"
	"fmt"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/doctor"
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
		Short: "Diagnose problems",
		Long: `Doctor runs diagnostic checks, most fundamental first: configuration, files,
disk, clock, network, server, policies and template. It reports for each what
was found, why, and what to do. It changes nothing and registers nothing, but it
does connect: with the claim certificate and, unless the agent is connected, under
the device's own client id, which ends a session that the device has.

The exit code is that of the worst finding; 0 means that no check failed.`,
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
	o.Environ = console.Environ
	c, problems := config.Load(ctx, o.Sources)
	checks := doctor.Config{Settings: c, Problems: problems, Log: console.Log}
	if c != nil && c.Agent.Socket != "" {
		client := agent.NewClient(c.Agent.Socket)
		defer client.Close()
		checks.Connected = func(ctx context.Context, thing string) bool {
			ctx, cancel := context.WithTimeout(ctx, doctor.DefaultTimeout)
			defer cancel()
			status, err := client.Status(ctx)
			return err == nil && status.Connected && status.ThingName == thing
		}
	}
	if !o.json {
		checks.Progress = func(c doctor.Check) { fmt.Fprint(console.Out, c) } // as they are made
	}
	report := doctor.Run(ctx, checks)
	if err := ctx.Err(); err != nil {
		return err
	}
	var err error
	if o.json {
		err = console.JSON(report)
	} else if _, err = fmt.Fprintf(console.Out, "\nVerdict: %s.\n", report.Verdict()); err != nil {
		err = fmt.Errorf("writing the result: %w", err)
	}
	if err != nil {
		return err
	}
	if _, class, failed := report.Worst(); failed {
		return cli.Reported(cli.ExitCode(class))
	}
	return nil
}
