package fleetcli

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/spf13/cobra"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/term"
)

type cleanupOptions struct {
	endpointURL string
	remove      bool
	aws         bool
	json        bool
}

func newCleanupCmd(console *cli.Console) *cobra.Command {
	var o cleanupOptions
	cmd := &cobra.Command{
		Use:   "cleanup FILE.json [flags]",
		Short: "Remove from AWS IoT what a run has made",
		Long: `Cleanup reads a report of "enrol --report" and removes what that run has made:
the certificates that the report names, also those of devices that failed
half-way, and the things that are left without any certificate. Devices that
had their identity before the run are left alone, and so is everything else.

It is a dry run unless --delete is given: it looks up what there is and prints
it. Credentials are found as the aws CLI finds them; the Region is that of the
report's endpoint.`,
		Example: `  # What is there to be removed?
  $ iot_fleet cleanup launch.json

  # Remove it
  $ iot_fleet cleanup launch.json --delete --yes-this-is-aws

  # From a local core
  $ iot_fleet cleanup launch.json --endpoint-url http://127.0.0.1:8480 --delete`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runCleanup(cmd.Context(), console, o, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.endpointURL, "endpoint-url", "", "the control API is at `URL` (default: AWS's own)")
	flags.BoolVar(&o.remove, "delete", false, "remove; without it this is a dry run")
	flags.BoolVar(&o.aws, "yes-this-is-aws", false, "remove from AWS itself")
	flags.BoolVar(&o.json, "json", false, "print the result as one JSON object")
	return cmd
}

func runCleanup(ctx context.Context, console *cli.Console, o cleanupOptions, path string) error {
	r, err := readReport(path)
	if err != nil {
		return err
	}
	client, err := o.client(ctx, r)
	if err != nil {
		return err
	}
	cleanup := &fleet.Cleanup{Client: client, Delete: o.remove}
	if !o.json {
		cleanup.Found = func(found fleet.Remains) { fmt.Fprintln(console.Out, term.Clean(remainsText(found))) }
	}
	done, err := cleanup.Run(ctx, r)
	if err != nil {
		return err
	}
	if o.json {
		return console.JSON(struct {
			Deleted bool `json:"deleted"`
			fleet.Cleaned
		}{o.remove, done})
	}
	verb := "would be removed (dry run; add --delete)"
	if o.remove {
		verb = "removed"
	}
	_, err = fmt.Fprintf(console.Out, "%d certificates and %d things %s, %d were gone, %d things stay for they have other certificates\n",
		done.Certificates, done.Things, verb, done.Gone, done.Shared)
	return err
}

func remainsText(r fleet.Remains) string {
	text := fmt.Sprintf("%s: certificate %s", r.SerialNumber, r.CertificateID)
	if len(r.Policies) > 0 {
		text += ", detached from " + strings.Join(r.Policies, ", ")
	}
	if len(r.Things) > 0 {
		text += "; thing " + strings.Join(r.Things, ", ")
	}
	if len(r.Shared) > 0 {
		text += " (stays: " + strings.Join(r.Shared, ", ") + ")"
	}
	return text
}

var awsRegion = regexp.MustCompile(`\.iot\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$`)

// client returns a client of the control API. Elsewhere than on AWS nobody asks
// for credentials.
func (o *cleanupOptions) client(ctx context.Context, r *fleet.Report) (*iot.Client, error) {
	if o.endpointURL != "" && !strings.Contains(o.endpointURL, "amazonaws.com") {
		return iot.New(iot.Options{
			BaseEndpoint: &o.endpointURL, Region: "us-east-1",
			Credentials: aws.AnonymousCredentials{}, RetryMode: aws.RetryModeAdaptive,
		}), nil
	}
	region := awsRegion.FindStringSubmatch(r.Endpoint)
	if region == nil {
		return nil, &fleet.ValueError{Name: "--endpoint-url", Value: `""`, Want: fmt.Sprintf("the control API of %s, as in http://127.0.0.1:8480", r.Endpoint)}
	}
	if o.remove && !o.aws {
		return nil, &awsError{r.Endpoint}
	}
	c, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(region[1]), awsconfig.WithRetryMode(aws.RetryModeAdaptive))
	if err != nil {
		return nil, fmt.Errorf("finding credentials for AWS: %w", err)
	}
	return iot.NewFromConfig(c, func(options *iot.Options) {
		if o.endpointURL != "" {
			options.BaseEndpoint = &o.endpointURL
		}
	}), nil
}
