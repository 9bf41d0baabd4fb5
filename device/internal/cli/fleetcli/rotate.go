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
		Use:  "rotate {FILE.csv | --thing-type TYPE | --thing-group GROUP} [flags]",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !jobName.MatchString(name) {
				return &fleet.ValueError{Name: "--job", Value: name, Want: "1 to 51 characters of a-z A-Z 0-9 _ -"}
			}
			source, err := from.read(cmd, args)
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			run, err := o.open(ctx, console, "rotation "+name+" of "+source, "")
			if err != nil {
				return err
			}
			defer run.Journal.Close()
			targets, err := from.targets(ctx, run)
			if err != nil {
				return err
			}
			done, err := run.Rotate(ctx, targets, name)
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
		},
	}
	o.addFlags(cmd.Flags(), "apply", "create the jobs")
	from.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&name, "job", time.Now().UTC().Format("rotate-20060102"), "begin the ids of the jobs with `NAME`")
	cmd.Flags().Lookup("job").DefValue = "rotate-DATE"
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait for the results, for `DURATION` at most")
	return cmd
}
