package devicecli

import (
	"context"
	"fmt"
	"time"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"github.com/spf13/cobra"
)

type bootstrapOptions struct {
	config.Sources
	json        bool
	reprovision bool
	timeout     time.Duration
}

func newBootstrapCmd(console *cli.Console) *cobra.Command {
	var o bootstrapOptions
	cmd := &cobra.Command{
		Use:   "bootstrap [flags]",
		Short: "Provision this device, and prove that its identity works",
		Long: `Bootstrap gives the device its own identity, if it has none yet: it connects
with the claim certificate, asks AWS IoT for a certificate of its own, and
registers the thing. What an interrupted run has left is taken up again.

Then it proves the identity: it connects with it and publishes a birth message
to fleet/THINGNAME. With an identity it does only that, so it can be run again
at any time.

A setting is taken from a flag, else from the environment
(IOT_DEVICE_SERVER_ENDPOINT for server.endpoint), else from the file, else from
its default. "iot_device help exit-codes" tells what the exit codes mean.`,
		Example: `  # Provision, or prove the identity that is there
  $ iot_device bootstrap --author "Wilford Brimley"

  # For scripts: one JSON object on stdout
  $ iot_device bootstrap --config device.yaml --json | jq -r .thingName

  # Replace the identity; the old one stays until the new one is proved. The
  # hook admits the new one when the old certificate has been deactivated
  $ iot_device bootstrap --reprovision`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBootstrap(cmd.Context(), console, o)
		},
	}
	flags := cmd.Flags()
	o.AddFlags(flags)
	o.AddAuthorFlag(flags, "`NAME` recorded as the device's author")
	flags.BoolVar(&o.json, "json", false, "print the result as one JSON object")
	flags.BoolVar(&o.reprovision, "reprovision", false, "replace the identity that the device has")
	flags.DurationVar(&o.timeout, "timeout", 2*time.Minute, "give up after this `DURATION`")
	return cmd
}

func runBootstrap(ctx context.Context, console *cli.Console, o bootstrapOptions) error {
	if o.timeout <= 0 {
		return &cli.UsageError{Err: fmt.Errorf("invalid argument %q for \"--timeout\" flag: want more than zero", o.timeout)}
	}
	d, err := open(console, o.Sources, o.reprovision)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, timeoutError(o.timeout))
	defer cancel()
	if err := awaitClaimTime(ctx, console, d.files); err != nil {
		return &bootstrapError{config: d.config, err: err}
	}
	done, err := provision.Run(ctx, d.provisioning(console, o.reprovision))
	if err != nil {
		return &bootstrapError{config: d.config, err: err}
	}
	console.Ready(done.Identity.Record.ThingName + " has proved its identity")
	return printBootstrap(console, o, newBootstrapResult(d.config, done), done.Retired)
}

// awaitClaimTime waits while the claim is not valid by this device's clock: without
// a battery the clock is wrong until the network has set it.
func awaitClaimTime(ctx context.Context, console *cli.Console, f *config.Files) error {
	err := f.ClaimTime(time.Now())
	if err == nil {
		return nil
	}
	step := cli.Step{Name: "wait for clock", Text: "wait for clock (" + err.Error() + ")"}
	console.StepBegins(step)
	began, tick := time.Now(), time.NewTicker(time.Second)
	defer tick.Stop()
	for ; err != nil; err = f.ClaimTime(time.Now()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			step.Text, step.Elapsed, step.Err = step.Name, time.Since(began), err
			console.StepFailed(step)
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
	step.Text, step.Elapsed = step.Name, time.Since(began)
	console.StepDone(step)
	return nil
}

// A timeoutError is the end of --timeout.
type timeoutError time.Duration

func (e timeoutError) Error() string {
	return fmt.Sprintf("gave up after %s (--timeout)", time.Duration(e))
}
func (timeoutError) Unwrap() error { return context.DeadlineExceeded }

// provisioning translates the configuration for package provision.
func (d *device) provisioning(console *cli.Console, reprovision bool) provision.Config {
	c := d.config
	return provision.Config{
		Store: d.store,
		Session: session.Options{
			Endpoint: c.Server.Endpoint,
			Port:     c.Server.Port,
			RootCAs:  d.files.Roots,
			Proxy:    c.Server.Proxy,
			Log:      console.Log,
		},
		Claim:             d.files.Claim,
		Template:          c.Bootstrap.ProvisioningTemplate,
		Parameters:        c.TemplateParameters(),
		Author:            c.Author,
		Keys:              provision.Keys(c.Bootstrap.Keys),
		ThingName:         c.ThingName,
		ExpectedThingName: c.ExpectedThingName(),
		Reprovision:       reprovision,
		Progress:          func(e provision.Event) { showStep(console, e) },
		Log:               console.Log,
	}
}

// showStep shows a step of the exchange in AWS's order.
func showStep(console *cli.Console, e provision.Event) {
	text := string(e.Step)
	switch {
	case e.Step == provision.StepWait && e.Phase == provision.Begin:
		text += fmt.Sprintf(" (%s)", e.Elapsed.Round(time.Millisecond))
	case e.Detail != "":
		text += " (" + e.Detail + ")"
	}
	step := cli.Step{Name: string(e.Step), Text: text, Elapsed: e.Elapsed, RoundTrips: e.RoundTrips, Err: e.Err}
	switch e.Phase {
	case provision.Begin:
		console.StepBegins(step)
	case provision.Done:
		console.StepDone(step)
	case provision.Failed:
		console.StepFailed(step)
	}
}

// A bootstrapResult is what bootstrap prints. Its JSON keys are part of the
// command's contract.
type bootstrapResult struct {
	ThingName           string               `json:"thingName"`
	SerialNumber        string               `json:"serialNumber"`
	CertificateID       string               `json:"certificateId"`
	CertificatePath     string               `json:"certificatePath"`
	PrivateKeyPath      string               `json:"privateKeyPath"`
	Endpoint            string               `json:"endpoint"`
	NotAfter            time.Time            `json:"notAfter"`
	DeviceConfiguration map[string]any       `json:"deviceConfiguration"`
	Author              string               `json:"author"`
	Provisioned         bool                 `json:"provisioned"`
	RoundTrips          provision.RoundTrips `json:"roundTrips"`
}

func newBootstrapResult(c *config.Config, done *provision.Result) bootstrapResult {
	id := done.Identity
	r := bootstrapResult{
		ThingName:           id.Record.ThingName,
		SerialNumber:        id.Record.SerialNumber,
		CertificateID:       id.Record.CertificateID,
		CertificatePath:     id.Files.Certificate,
		PrivateKeyPath:      id.Files.PrivateKey,
		Endpoint:            c.Server.Endpoint,
		NotAfter:            id.Record.NotAfter.UTC(),
		DeviceConfiguration: id.Record.DeviceConfiguration,
		Author:              id.Record.Author,
		Provisioned:         done.Provisioned,
		RoundTrips:          done.RoundTrips,
	}
	if r.DeviceConfiguration == nil {
		r.DeviceConfiguration = map[string]any{} // always an object
	}
	return r
}

func printBootstrap(console *cli.Console, o bootstrapOptions, r bootstrapResult, retired *provision.Retired) error {
	if retired != nil {
		console.Warn(fmt.Sprintf("certificate %s, which was replaced, is still active in AWS IoT; to deactivate it, run: %s", retired.CertificateID, retired.Command))
	}
	if o.json {
		return console.JSON(r)
	}
	state := "already provisioned, identity proved"
	if r.Provisioned {
		state = "provisioned, identity proved"
	}
	t := cli.Table{{"thing name", r.ThingName}, {"state", state}}
	t = append(t, cli.Table{
		{"serial number", r.SerialNumber},
		{"certificate id", r.CertificateID},
		{"certificate", r.CertificatePath},
		{"private key", r.PrivateKeyPath},
		{"valid until", r.NotAfter.Format(time.RFC3339)},
		{"endpoint", r.Endpoint},
		{"author", r.Author},
	}...)
	if err := console.Table(append(t, mapRows("configuration", r.DeviceConfiguration)...)); err != nil {
		return err
	}
	console.Note("The device can connect now, with client id " + r.ThingName + ". \"iot_device status\" shows its identity at any time.")
	return nil
}
