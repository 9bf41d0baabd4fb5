package fleetcli

import (
	"context"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/fleet"
	"example.com/fleety/device/fleet/controlplane"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

// controlOptions are what the commands of the control plane share.
type controlOptions struct {
	endpointURL string
	apply       bool
	aws         bool
	rate        float64
	resume      string
	json        bool
}

func (o *controlOptions) addFlags(flags *pflag.FlagSet, apply, usage string) {
	flags.StringVar(&o.endpointURL, "endpoint-url", "", "`URL` of the control API (default: that of AWS)")
	flags.BoolVar(&o.apply, apply, false, usage+"; without it this is a dry run")
	flags.BoolVar(&o.aws, "yes-this-is-aws", false, "change devices in AWS itself")
	flags.Float64Var(&o.rate, "rate", controlplane.DefaultRate, "at most `R` devices per second")
	flags.StringVar(&o.resume, "resume", "", "record completed devices in `FILE`, and skip those that it has")
	flags.BoolVar(&o.json, "json", false, "print the result as one JSON object")
}

// run does the work of a command: verb is what happens to certificates, and
// operation distinguishes its journal from others. Without an endpoint of a report the
// Region is that of the AWS configuration.
func (o *controlOptions) run(ctx context.Context, console *cli.Console, verb, operation, endpoint string, work func(*controlplane.Run) (controlplane.Counts, error)) error {
	run, err := o.open(ctx, console, operation, endpoint)
	if err != nil {
		return err
	}
	defer run.Journal.Close()
	counts, err := work(run)
	switch {
	case o.json && err == nil:
		return console.JSON(struct {
			Applied bool `json:"applied"`
			controlplane.Counts
		}{o.apply, counts})
	case !o.json && (err == nil || counts != controlplane.Counts{}):
		if !o.apply {
			verb = "would be " + verb + " (dry run)"
		}
		fmt.Fprintf(console.Out, "%d certificates and %d things %s; %d already gone, %d things kept (they have other certificates), %d devices kept, %d failed, %d resumed\n",
			counts.Certificates, counts.Things, verb, counts.Gone, counts.Shared, counts.Kept, counts.Failed, counts.Resumed)
	}
	if counts.Failed > 0 {
		return fmt.Errorf("%d devices failed: %w", counts.Failed, err)
	}
	return err
}

// open prepares a run, whose journal the caller closes.
func (o *controlOptions) open(ctx context.Context, console *cli.Console, operation, endpoint string) (*controlplane.Run, error) {
	if !(o.rate > 0 && o.rate <= fleet.MaxRate) {
		return nil, &fleet.ValueError{Name: "--rate", Value: fmt.Sprint(o.rate), Want: "more than 0 devices per second"}
	}
	client, err := o.client(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	run := &controlplane.Run{Client: client, Apply: o.apply, Rate: o.rate}
	if o.resume != "" && o.apply {
		if run.Journal, err = controlplane.OpenJournal(o.resume, operation); err != nil {
			return nil, &fileError{o.resume, err}
		}
	}
	if !o.json {
		run.Found = func(d controlplane.Device) { fmt.Fprintln(console.Out, term.Clean(deviceText(d))) }
	}
	return run, nil
}

// A selection says which devices a command works on.
type selection struct{ thingType, group string }

func (s *selection) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.thingType, "thing-type", "", "the things of the thing type `TYPE`")
	flags.StringVar(&s.group, "thing-group", "", "the things of the thing group `GROUP`, and of the groups in it")
}

// read reads the file, if that is what was selected, and returns the name of what
// was, and its devices.
func (s *selection) read(ctx context.Context, command string, args []string) (name string, targets func(*controlplane.Run) iter.Seq2[controlplane.Target, error], err error) {
	sources := slices.DeleteFunc(slices.Concat(args, []string{s.thingType, s.group}), func(s string) bool { return s == "" })
	if len(sources) != 1 {
		return "", nil, &fleet.ValueError{Name: command, Value: "", Want: "one of FILE.csv, --thing-type TYPE and --thing-group GROUP"}
	}
	var fromFile []controlplane.Target
	if len(args) > 0 {
		f, err := os.Open(args[0])
		if err != nil {
			return "", nil, &fileError{args[0], cause(err)}
		}
		defer f.Close()
		if fromFile, err = controlplane.ReadTargets(f); err != nil {
			return "", nil, &fileError{args[0], err}
		}
	}
	return sources[0], func(run *controlplane.Run) iter.Seq2[controlplane.Target, error] {
		switch {
		case s.thingType != "":
			return run.ThingsOfType(ctx, s.thingType)
		case s.group != "":
			return run.ThingsInGroup(ctx, s.group)
		}
		return func(yield func(controlplane.Target, error) bool) {
			for _, t := range fromFile {
				if !yield(t, nil) {
					return
				}
			}
		}
	}, nil
}

func deviceText(d controlplane.Device) string {
	text := d.Target.String()
	separator := ":"
	for _, c := range d.Certificates {
		text += fmt.Sprintf("%s certificate %s (%s)", separator, c.ID, c.Status)
		separator = ";"
		if len(c.Policies) > 0 {
			text += " with policy " + strings.Join(c.Policies, ", ")
		}
	}
	if len(d.Things) > 0 {
		text += "; thing " + strings.Join(d.Things, ", ")
	}
	if len(d.Shared) > 0 {
		text += "; kept: thing " + strings.Join(d.Shared, ", ") + ", which has other certificates"
	}
	if d.Kept != "" {
		text += "; kept: " + d.Kept
	}
	return text
}

// client returns a client of the control API. The emulator needs no credentials.
func (o *controlOptions) client(ctx context.Context, endpoint string) (*iot.Client, error) {
	host := strings.TrimPrefix(strings.TrimPrefix(o.endpointURL, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	host, _, _ = strings.Cut(host, ":")
	if o.endpointURL != "" && !onAWS(host) {
		return iot.New(iot.Options{
			BaseEndpoint: &o.endpointURL, Region: "us-east-1",
			Credentials: aws.AnonymousCredentials{}, RetryMode: aws.RetryModeAdaptive,
		}), nil
	}
	where := awsiot.ParseEndpoint(endpoint)
	if endpoint != "" && !where.AWS() {
		return nil, &fleet.ValueError{Name: "--endpoint-url", Value: `""`, Want: fmt.Sprintf("the control API of %s, as in http://127.0.0.1:8480", endpoint)}
	}
	if o.apply && !o.aws {
		return nil, errAWS("the control plane")
	}
	options := []func(*awsconfig.LoadOptions) error{awsconfig.WithRetryMode(aws.RetryModeAdaptive)}
	if where.Region != "" {
		options = append(options, awsconfig.WithRegion(where.Region))
	}
	c, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("finding credentials for AWS: %w", err)
	}
	return iot.NewFromConfig(c, func(options *iot.Options) {
		if o.endpointURL != "" {
			options.BaseEndpoint = &o.endpointURL
		}
	}), nil
}

func newCleanupCmd(console *cli.Console) *cobra.Command {
	var o controlOptions
	var thingType string
	cmd := &cobra.Command{
		Use:   "cleanup {FILE.json | --all-of-type TYPE} [flags]",
		Short: "Remove the devices that a run made from AWS IoT",
		Long: `Cleanup reads a report of "enroll --report" and removes what that run made: the
certificates that the report names, also those of devices that failed half-way,
and the things that have no other certificate then. A device is kept when what
AWS IoT has of it does not fit the report: serial number, thing, time of
creation, policies. Devices that had their identity before the run are kept, and
so is the claim.

With --all-of-type it removes all things of a thing type and their certificates.

This is a dry run unless --delete is given. Credentials are found as the aws CLI
finds them; the Region is that of the report's endpoint.`,
		Example: `  # What would be removed?
  $ iot_fleet cleanup launch.json

  # Remove it
  $ iot_fleet cleanup launch.json --delete --yes-this-is-aws

  # From the local emulator
  $ iot_fleet cleanup launch.json --endpoint-url http://127.0.0.1:8480 --delete

  # All test devices, five per second; run it again to resume
  $ iot_fleet cleanup --all-of-type fleety-test --rate 5 --resume done.txt --delete --yes-this-is-aws`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if (thingType == "") == (len(args) == 0) {
				return &fleet.ValueError{Name: "cleanup", Value: "", Want: "either FILE.json or --all-of-type TYPE"}
			}
			if thingType != "" {
				return o.run(ctx, console, "removed", "cleanup of thing type "+thingType, "", func(run *controlplane.Run) (controlplane.Counts, error) {
					return run.CleanupType(ctx, thingType)
				})
			}
			report, err := readReport(args[0])
			if err != nil {
				return err
			}
			return o.run(ctx, console, "removed", "cleanup of the run of "+report.Started.String(), report.Endpoint, func(run *controlplane.Run) (controlplane.Counts, error) {
				return run.CleanupReport(ctx, report)
			})
		},
	}
	o.addFlags(cmd.Flags(), "delete", "remove")
	cmd.Flags().StringVar(&thingType, "all-of-type", "", "remove all things of the thing type `TYPE`")
	return cmd
}

func newRevokeCmd(console *cli.Console) *cobra.Command {
	var o controlOptions
	var from selection
	var deactivate bool
	cmd := &cobra.Command{
		Use:   "revoke {FILE.csv | --thing-type TYPE | --thing-group GROUP} [flags]",
		Short: "Revoke the certificates of many devices",
		Long: `Revoke sets the certificates of devices to REVOKED, or to INACTIVE with
--deactivate. AWS IoT disconnects the devices within a few minutes and rejects
their connections from then on. The devices are those of a CSV file, with a
column thingName or certificateId, or those of a thing type or thing group. Claim
certificates are kept, and so are certificates that several things use.

This is a dry run unless --apply is given. Credentials and Region are found as the
aws CLI finds them.`,
		Example: `  # What would be revoked?
  $ iot_fleet revoke stolen.csv

  # Revoke it; run it again to resume
  $ iot_fleet revoke stolen.csv --resume done.txt --apply --yes-this-is-aws

  # Deactivate a whole group on the local emulator
  $ iot_fleet revoke --thing-group recalled --deactivate --apply --endpoint-url http://127.0.0.1:8480`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			name, targets, err := from.read(ctx, "revoke", args)
			if err != nil {
				return err
			}
			status, verb := types.CertificateStatusRevoked, "revoked"
			if deactivate {
				status, verb = types.CertificateStatusInactive, "deactivated"
			}
			return o.run(ctx, console, verb, verb+" of "+name, "", func(run *controlplane.Run) (controlplane.Counts, error) {
				return run.Revoke(ctx, targets(run), status)
			})
		},
	}
	o.addFlags(cmd.Flags(), "apply", "revoke")
	from.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&deactivate, "deactivate", false, "set certificates to INACTIVE, from which they can be activated again")
	return cmd
}
