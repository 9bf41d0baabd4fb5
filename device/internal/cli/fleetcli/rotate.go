package fleetcli

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/fleet/controlplane"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

// jobName leaves room for what makes the id of a job unique.
var jobName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,51}$`)

func newRotateCmd(console *cli.Console) *cobra.Command {
	var o controlOptions
	var from selection
	var name string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "rotate {FILE.csv | --thing-type TYPE | --thing-group GROUP} [flags]",
		Short: "Have many devices replace their keys and certificates",
		Long: `Rotate creates jobs of AWS IoT Jobs, one for each hundred things, that have the
agents of the devices replace private key and certificate. Their configuration must
allow that: agent.jobs.allow has rotate. The old certificate stays until the new
one is verified. The devices are those of a CSV file, with a column thingName or
certificateId, or those of a thing type or thing group.

A repeated run with the same --job and things creates no job twice. This is a dry run
unless --apply is given. Credentials and Region are found as the aws CLI finds them.`,
		Example: `  # Which devices?
  $ iot_fleet rotate --thing-group berlin

  # Rotate them, five per second, and wait for the results
  $ iot_fleet rotate --thing-group berlin --rate 5 --wait 2h --apply --yes-this-is-aws

  # On the local emulator; run it again to resume
  $ iot_fleet rotate devices.csv --resume done.txt --apply --endpoint-url http://127.0.0.1:8480`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRotate(cmd.Context(), console, o, from, args, name, wait)
		},
	}
	o.addFlags(cmd.Flags(), "apply", "create the jobs")
	from.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&name, "job", time.Now().UTC().Format("rotate-20060102"), "begin the ids of the jobs with `NAME`")
	cmd.Flags().Lookup("job").DefValue = "rotate-DATE"
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait for the results, for `DURATION` at most")
	return cmd
}

func runRotate(ctx context.Context, console *cli.Console, o controlOptions, from selection, args []string, name string, wait time.Duration) error {
	if !jobName.MatchString(name) {
		return &fleet.ValueError{Name: "--job", Value: name, Want: "1 to 51 characters of a-z A-Z 0-9 _ -"}
	}
	source, targets, err := from.read(ctx, "rotate", args)
	if err != nil {
		return err
	}
	run, err := o.open(ctx, console, "rotation "+name+" of "+source, "")
	if err != nil {
		return err
	}
	defer run.Journal.Close()
	done, err := run.Rotate(ctx, targets(run), name)
	if err == nil && wait > 0 && o.apply {
		waiting, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("devices have not rotated within %s (--wait): %w", wait, context.DeadlineExceeded))
		defer cancel()
		err = run.AwaitJobs(waiting, &done)
	}
	if unsuccessful := len(done.Unsuccessful); err == nil && unsuccessful > 0 {
		err = fmt.Errorf("%d devices did not rotate", unsuccessful)
	}
	if o.json {
		if err != nil {
			return err
		}
		return console.JSON(struct {
			Applied bool `json:"applied"`
			controlplane.Rotation
		}{o.apply, done})
	}
	for _, u := range done.Unsuccessful {
		fmt.Fprintln(console.Out, term.Clean(fmt.Sprintf("%s: %s: %s", u.ThingName, u.Status, u.Reason)))
	}
	verb := "things have a job"
	if !o.apply {
		verb = "things would have a job (dry run)"
	}
	fmt.Fprintf(console.Out, "%d %s; %d no longer exist, %d failed, %d resumed\n", done.Things, verb, done.Gone, done.Failed, done.Resumed)
	for _, id := range done.Jobs {
		fmt.Fprintln(console.Out, "job "+id)
	}
	for _, status := range slices.Sorted(maps.Keys(done.Results)) {
		fmt.Fprintf(console.Out, "%d %s\n", done.Results[status], status)
	}
	return err
}
