package fleetcli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/smithy-go/logging"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/fleet"
	"example.com/fleety/device/fleet/controlplane"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

const (
	attempts       = 6                // at one request: other users of the account take their part of AWS's rates, too
	requestTimeout = 30 * time.Second // of each attempt; without it a silent server would be waited for, also after Ctrl-C
)

// controlOptions are what the commands of the control plane share.
type controlOptions struct {
	endpointURL string
	apply       bool
	aws         bool
	rate        float64
	resume      string
	json        bool

	thingType, group string // whose devices a command works on
}

func (o *controlOptions) addFlags(flags *pflag.FlagSet, apply, usage string) {
	flags.StringVar(&o.endpointURL, "endpoint-url", "", "`URL` of the control API (default: that of AWS)")
	flags.BoolVar(&o.apply, apply, false, usage+"; without it this is a dry run")
	flags.BoolVar(&o.aws, "yes-this-is-aws", false, "change devices in AWS itself")
	flags.Float64Var(&o.rate, "rate", controlplane.DefaultRate, "at most `R` devices per second")
	flags.StringVar(&o.resume, "resume", "", "record completed devices in `FILE`, and skip those that it has")
	flags.BoolVar(&o.json, "json", false, "print the result as one JSON object")
}

// run prepares a run, and does the work with it. operation distinguishes the journal from others,
// and so does where it is: the account too, as far as the credentials name it.
func (o *controlOptions) run(ctx context.Context, console *cli.Console, operation, endpoint string, work func(*controlplane.Run) error) error {
	if !(o.rate > 0 && o.rate <= fleet.MaxRate) {
		return &fleet.ValueError{Name: "rate", Value: fmt.Sprint(o.rate), Want: fmt.Sprintf("more than 0 and at most %d devices per second", fleet.MaxRate)}
	}
	client, where, err := o.client(ctx, console, endpoint)
	if err != nil {
		return err
	}
	run := &controlplane.Run{Client: client, Apply: o.apply, Rate: o.rate}
	if o.apply {
		signal.Ignore(syscall.SIGPIPE) // of head or less, which would leave devices half-way
		if o.resume != "" {
			if run.Journal, err = controlplane.OpenJournal(o.resume, operation+" at "+where); err != nil {
				return fileError(o.resume, err)
			}
			defer run.Journal.Close()
		}
	}
	if !o.json {
		run.Found = func(d controlplane.Device) { fmt.Fprintln(console.Out, term.Clean(deviceText(d))) }
	}
	return work(run)
}

// report prints what a command has done to certificates, which verb says.
func (o *controlOptions) report(console *cli.Console, verb string, counts controlplane.Counts, err error) error {
	switch {
	case o.json && err == nil:
		err = console.JSON(struct {
			Applied bool `json:"applied"`
			controlplane.Counts
		}{o.apply, counts})
	case !o.json && (err == nil || counts != controlplane.Counts{}):
		done, what, shared := verb, fleet.FormatCount(counts.Certificates, "certificate", "certificates"), ""
		if verb == "removed" { // by cleanup, which alone concerns things
			what += " and " + fleet.FormatCount(counts.Things, "thing", "things")
			shared = fleet.FormatCount(counts.Shared, "thing kept (it has other certificates), ", "things kept (they have other certificates), ")
		}
		if !o.apply {
			verb = "would be " + verb + " (dry run)"
		}
		err = cmp.Or(err, console.Table(cli.Table{{fmt.Sprintf("%s %s; %d already %s or not found, %s%s kept, %d failed, %d resumed",
			what, verb, counts.Gone, done, shared, fleet.FormatCount(counts.Kept, "device", "devices"), counts.Failed, counts.Resumed)}}))
	}
	if counts.Failed > 0 {
		return fmt.Errorf("%s failed: %w", fleet.FormatCount(counts.Failed, "device", "devices"), err)
	}
	if err == nil && o.apply && counts.Kept > 0 { // a script would take 0 for all of them
		err = errors.New(fleet.FormatCount(counts.Kept, "device was kept", "devices were kept"))
	}
	return err
}

// reportRotation prints what has become of a rotation.
func (o *controlOptions) reportRotation(console *cli.Console, done controlplane.Rotation, err error) error {
	if o.json {
		if err != nil {
			return err
		}
		return console.JSON(struct {
			Applied bool `json:"applied"`
			controlplane.Rotation
		}{o.apply, done})
	}
	var t cli.Table
	for _, u := range done.Unsuccessful {
		t = append(t, cli.Row{fmt.Sprintf("%s: %s: %s", u.ThingName, u.Status, u.Reason)})
	}
	things := fleet.FormatCount(done.Things, "thing has a job", "things have a job")
	if !o.apply {
		things = fleet.FormatCount(done.Things, "thing", "things") + " would have a job (dry run)"
	}
	t = append(t, cli.Row{fmt.Sprintf("%s; %s, %d failed, %d resumed", things, fleet.FormatCount(done.Gone, "no longer exists", "no longer exist"), done.Failed, done.Resumed)})
	for _, id := range done.Jobs {
		t = append(t, cli.Row{"job " + id})
	}
	for _, status := range slices.Sorted(maps.Keys(done.Results)) {
		t = append(t, cli.Row{fmt.Sprintf("%d %s", done.Results[status], status)})
	}
	return cmp.Or(err, console.Table(t))
}

func (o *controlOptions) addSelection(flags *pflag.FlagSet) {
	flags.StringVar(&o.thingType, "thing-type", "", "the things of the thing type `TYPE`")
	flags.StringVar(&o.group, "thing-group", "", "the things of the thing group `GROUP`, and of the groups in it")
}

// runSelected prepares a run, finds the devices that are selected, and does the work on them.
func (o *controlOptions) runSelected(ctx context.Context, args []string, console *cli.Console, operation string, work func(*controlplane.Run, []controlplane.Target) error) error {
	sources := slices.DeleteFunc(append([]string{o.thingType, o.group}, args...), func(s string) bool { return s == "" })
	if len(sources) != 1 {
		return &cli.UsageError{Err: errors.New("name the devices by one of FILE.csv, --thing-type TYPE and --thing-group GROUP")}
	}
	var targets []controlplane.Target
	var err error
	if len(args) > 0 {
		if targets, err = readFile(args[0], controlplane.ReadTargets); err != nil {
			return err
		}
	}
	return o.run(ctx, console, operation+" of "+sources[0], "", func(run *controlplane.Run) error {
		switch {
		case o.thingType != "":
			targets, err = run.ThingsOfType(ctx, o.thingType)
		case o.group != "":
			targets, err = run.ThingsInGroup(ctx, o.group)
		}
		if err != nil {
			return err
		}
		return work(run, targets)
	})
}

func deviceText(d controlplane.Device) string {
	var found []string
	for _, c := range d.Certificates {
		text := fmt.Sprintf("certificate %s (%s)", c.ID, c.Status)
		if len(c.Policies) > 0 {
			text += " with policy " + strings.Join(c.Policies, ", ")
		}
		found = append(found, text)
	}
	if len(d.Things) > 0 {
		found = append(found, "thing "+strings.Join(d.Things, ", "))
	}
	if len(d.Shared) > 0 {
		found = append(found, "kept: thing "+strings.Join(d.Shared, ", ")+", which has other certificates")
	}
	if d.Kept != "" {
		found = append(found, "skipped: "+d.Kept)
	}
	if d.Err != nil {
		found = append(found, "failed: "+d.Err.Error())
	}
	return strings.TrimSuffix(d.Target.String()+": "+strings.Join(found, "; "), ": ")
}

// client returns a client of the control API, and where that is. The emulator needs no credentials.
func (o *controlOptions) client(ctx context.Context, console *cli.Console, endpoint string) (_ *iot.Client, where string, err error) {
	api, err := url.Parse(o.endpointURL)
	if err != nil || o.endpointURL != "" && (api.Hostname() == "" || api.Scheme != "http" && api.Scheme != "https") {
		return nil, "", &fleet.ValueError{Name: "endpoint-url", Value: strconv.Quote(o.endpointURL), Want: "a URL, as in http://127.0.0.1:8480"}
	}
	httpClient := awshttp.NewBuildableClient().WithTimeout(requestTimeout)
	if o.endpointURL != "" && !onAWS(api.Hostname()) {
		return iot.New(iot.Options{
			BaseEndpoint: &o.endpointURL, Region: "us-east-1", HTTPClient: httpClient,
			Credentials: aws.AnonymousCredentials{}, RetryMode: aws.RetryModeAdaptive, RetryMaxAttempts: attempts,
		}), api.Host, nil
	}
	at := awsiot.ParseEndpoint(endpoint)
	if endpoint != "" && !at.AWS() {
		return nil, "", &fleet.ValueError{Name: "endpoint-url", Value: `""`, Want: fmt.Sprintf("the control API of %s, as in http://127.0.0.1:8480", endpoint)}
	}
	if o.apply && !o.aws {
		return nil, "", errAWS("the control plane")
	}
	// Without a Region of the endpoint it is that of the configuration.
	c, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRetryMode(aws.RetryModeAdaptive), awsconfig.WithRegion(at.Region), awsconfig.WithHTTPClient(httpClient),
		awsconfig.WithLogger(logging.LoggerFunc(func(_ logging.Classification, format string, v ...any) { console.Log.Debug(fmt.Sprintf(format, v...)) })))
	if err != nil {
		return nil, "", &cli.UsageError{Err: fmt.Errorf("reading the configuration of the aws CLI: %w", err)}
	}
	if c.Region == "" {
		return nil, "", &cli.UsageError{Err: errors.New("no AWS Region: set AWS_REGION, or AWS_PROFILE to a profile that has one")}
	}
	credentials, err := c.Credentials.Retrieve(ctx)
	if err != nil {
		err = fmt.Errorf("no AWS credentials: set AWS_PROFILE, or what else the aws CLI reads: %w", err)
		if cloudCode(err) == 0 {
			err = &cli.UsageError{Err: err}
		}
		return nil, "", err
	}
	c.RetryMaxAttempts = cmp.Or(c.RetryMaxAttempts, attempts)
	where = strings.TrimSpace(strings.Join([]string{c.Region, credentials.AccountID, urlUser.ReplaceAllString(aws.ToString(c.BaseEndpoint), "$1")}, " "))
	return iot.NewFromConfig(c, func(options *iot.Options) {
		if o.endpointURL != "" {
			options.BaseEndpoint = &o.endpointURL
		}
	}), where, nil
}

func newCleanupCmd(console *cli.Console) *cobra.Command {
	var o controlOptions
	cmd := cli.Command("cleanup {FILE.json | --all-of-type TYPE} [flags]", cobra.MaximumNArgs(1), func(ctx context.Context, args []string) error {
		if (o.thingType == "") == (len(args) == 0) {
			return &cli.UsageError{Err: errors.New("name what to remove by either FILE.json or --all-of-type TYPE")}
		}
		operation, endpoint := "cleanup of thing type "+o.thingType, ""
		cleanup := func(run *controlplane.Run) (controlplane.Counts, error) { return run.CleanupType(ctx, o.thingType) }
		if o.thingType == "" {
			report, err := readFile(args[0], fleet.ReadReport)
			if err != nil {
				return err
			}
			operation, endpoint = "cleanup of the run of "+report.Started.String(), report.Endpoint
			cleanup = func(run *controlplane.Run) (controlplane.Counts, error) { return run.CleanupReport(ctx, report) }
		}
		return o.run(ctx, console, operation, endpoint, func(run *controlplane.Run) error {
			counts, err := cleanup(run)
			return o.report(console, "removed", counts, err)
		})
	})
	o.addFlags(cmd.Flags(), "delete", "remove")
	cmd.Flags().StringVar(&o.thingType, "all-of-type", "", "remove all things of the thing type `TYPE`")
	return cmd
}

func newRevokeCmd(console *cli.Console) *cobra.Command {
	var o controlOptions
	var deactivate bool
	cmd := cli.Command("revoke {FILE.csv | --thing-type TYPE | --thing-group GROUP} [flags]", cobra.MaximumNArgs(1), func(ctx context.Context, args []string) error {
		status, verb := types.CertificateStatusRevoked, "revoked"
		if deactivate {
			status, verb = types.CertificateStatusInactive, "deactivated"
		}
		return o.runSelected(ctx, args, console, verb, func(run *controlplane.Run, targets []controlplane.Target) error {
			counts, err := run.Revoke(ctx, targets, status)
			return o.report(console, verb, counts, err)
		})
	})
	o.addFlags(cmd.Flags(), "apply", "revoke")
	o.addSelection(cmd.Flags())
	cmd.Flags().BoolVar(&deactivate, "deactivate", false, "set certificates to INACTIVE, from which they can be activated again")
	return cmd
}

// errNotRotated ends a wait whose time has passed.
var errNotRotated = errors.New("devices have not rotated yet")

// jobName leaves room for what makes the id of a job unique.
var jobName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,51}$`)

func newRotateCmd(console *cli.Console) *cobra.Command {
	var o controlOptions
	var name string
	var wait time.Duration
	cmd := cli.Command("rotate {FILE.csv | --thing-type TYPE | --thing-group GROUP} [flags]", cobra.MaximumNArgs(1), func(ctx context.Context, args []string) error {
		if !jobName.MatchString(name) {
			return &fleet.ValueError{Name: "job", Value: name, Want: "1 to 51 characters of a-z A-Z 0-9 _ -"}
		}
		if wait < 0 {
			return &fleet.ValueError{Name: "wait", Value: wait.String(), Want: "a duration of 0 or more"}
		}
		return o.runSelected(ctx, args, console, "rotation "+name, func(run *controlplane.Run, targets []controlplane.Target) error {
			done, err := run.Rotate(ctx, targets, name)
			if err == nil && wait > 0 && o.apply {
				ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("after %s (--wait), %w", wait, errNotRotated))
				defer cancel()
				err = run.AwaitJobs(ctx, &done)
			}
			unsuccessful := -done.Results[types.JobExecutionStatusSucceeded]
			for _, n := range done.Results {
				unsuccessful += n
			}
			if err == nil && unsuccessful > 0 {
				err = errors.New(fleet.FormatCount(unsuccessful, "device", "devices") + " did not rotate")
			}
			return o.reportRotation(console, done, err)
		})
	})
	o.addFlags(cmd.Flags(), "apply", "create the jobs")
	o.addSelection(cmd.Flags())
	cmd.Flags().StringVar(&name, "job", time.Now().UTC().Format("rotate-20060102"), "begin the ids of the jobs with `NAME`")
	cmd.Flags().Lookup("job").DefValue = "rotate-DATE"
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait for the results, for `DURATION` at most")
	return cmd
}
