package devicecli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
)

type bootstrapOptions struct {
	config.Sources
	json           bool
	reprovision    bool
	rotate         bool
	discardPending bool
	forgetClaim    bool
	timeout        time.Duration
}

func newBootstrapCmd(console *cli.Console) *cobra.Command {
	var o bootstrapOptions
	cmd := o.command(console, "bootstrap")
	flags := cmd.Flags()
	o.AddAuthorFlag(flags, "`NAME` recorded as the device's author")
	flags.BoolVar(&o.reprovision, "reprovision", false, "replace the identity, or resume its replacement")
	flags.BoolVar(&o.discardPending, "discard-pending", false, "end a replacement that is pending, and keep the identity")
	flags.BoolVar(&o.forgetClaim, "forget-claim", false, "remove the claim's private key once the identity is verified")
	return cmd
}

// command returns the command of that name, with the flags that bootstrap and rotate share.
func (o *bootstrapOptions) command(console *cli.Console, name string) *cobra.Command {
	cmd := cli.Command(name+" [flags]", cli.NoArgs, func(ctx context.Context, _ []string) error { return runBootstrap(ctx, console, *o) })
	o.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&o.json, "json", false, "print the result as one JSON object")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 2*time.Minute, "give up after this `DURATION`")
	return cmd
}

func runBootstrap(ctx context.Context, console *cli.Console, o bootstrapOptions) error {
	if o.timeout <= 0 {
		return &cli.UsageError{Err: fmt.Errorf("invalid argument %q for \"--timeout\" flag: want more than zero", o.timeout)}
	}
	if o.reprovision && o.discardPending {
		return &cli.UsageError{Err: errors.New("--discard-pending ends what --reprovision resumes: give one of them")}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, timeoutError(o.timeout))
	defer cancel()
	outliveReaders()
	d, err := open(ctx, console, o.Sources, o.reprovision, o.rotate)
	if err != nil {
		return err
	}
	if o.discardPending {
		if err := discardPending(console, d.store); err != nil {
			return &deviceError{error: err, config: d.config}
		}
	}
	claimTime := d.files.ClaimTime(time.Now())
	if claimTime != nil {
		console.Warn(claimTime.Error()) // the clock may be wrong, and AWS IoT decides by its own
	}
	if o.rotate && d.config.Author == "" {
		d.config.Author = d.identity.Record.Author
	}
	c := d.provisioning(console, o.reprovision)
	c.Rotate = o.rotate
	done, err := d.provision(ctx, c)
	if err != nil {
		if claimTime != nil && awsiot.ClassOf(err) == awsiot.Denied && cli.IsA[*session.Error](err) {
			err = fmt.Errorf("%w: %w", claimTime, err)
		}
		return &deviceError{error: err, config: d.config}
	}
	console.Notify(daemon.SdNotifyReady, "STATUS="+done.Identity.Record.ThingName+": identity verified")
	if p := done.Pending; p != nil {
		console.Warn(fmt.Sprintf("a replacement of the identity is pending since %s (%s); %s", p.Since.UTC().Format(time.RFC3339), p.Stage, d.config.Commands(resumeOrEnd)))
	}
	if done.Retired != "" {
		deactivated := "unless an operator has deactivated that one already"
		if o.rotate {
			deactivated = "unless the stack deactivates that one, as with its rotation option"
		}
		console.Warn(fmt.Sprintf("the identity replaces certificate %s; %s, run: %s", done.Retired, deactivated, provision.DeactivateCommand(done.Identity.Record)))
	}
	if err := d.forgetClaim(console, o.forgetClaim); err != nil {
		return err
	}
	return printBootstrap(console, o, d.config, done)
}

// outliveReaders makes it an error and no end to write what nobody reads any more, as to a logger that
// has ended. Programs that this one starts do not inherit that.
func outliveReaders() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

const resumeOrEnd = `"iot_device bootstrap --reprovision" or "iot_device rotate" resumes it, "iot_device bootstrap --discard-pending" ends it`

func discardPending(console *cli.Console, store *identity.Store) error {
	discarded, err := store.DiscardPending()
	switch {
	case errors.Is(err, identity.ErrNone):
		return &cli.UsageError{Err: errors.New("--discard-pending keeps the identity and ends its replacement, and this device has no identity")}
	case err != nil:
		return err
	case discarded == nil:
		console.Note("No replacement of the identity is pending.")
	case discarded.Stage >= identity.Registered:
		console.Warn(fmt.Sprintf("certificate %s was registered for the replacement and stays active, with a key that is discarded; have an operator deactivate it", discarded.CertificateID))
	}
	return nil
}

// forgetClaim removes the claim's private key, if a flag or the configuration says so. Where only
// the configuration does, a failure is no reason to fail a device whose identity works.
func (d *device) forgetClaim(console *cli.Console, flag bool) error {
	if !flag && d.config.Bootstrap.Afterwards != config.AfterwardsRemove {
		return nil
	}
	var keys []string
	var err error
	roots, _ := os.Stat(d.config.Bootstrap.CACertificatePath)
	for _, claim := range d.config.AllClaims() {
		keys = append(keys, claim.PrivateKeyPath)
		if info, missing := os.Stat(claim.PrivateKeyPath); missing == nil && os.SameFile(info, roots) {
			err = awsiot.WithClass(awsiot.Misconfigured, fmt.Errorf("removing the claim: %s also has the server's roots, which the device needs; keep them in a file of their own", claim.PrivateKeyPath))
		}
	}
	if err == nil {
		err = d.store.RemoveClaim(keys...)
	}
	if err != nil && !flag {
		console.Warn("the claim's private key stays on the device: " + err.Error())
		return nil
	}
	return err
}

type timeoutError time.Duration // the end of --timeout

func (e timeoutError) Error() string {
	return fmt.Sprintf("gave up after %s (--timeout)", time.Duration(e))
}
func (timeoutError) Unwrap() error { return context.DeadlineExceeded }

// provisioning translates the configuration for package provision.
func (d *device) provisioning(console *cli.Console, reprovision bool) provision.Config {
	c := d.config
	p := provision.Config{
		Store:     d.store,
		Session:   session.Options{Endpoint: c.Server.Endpoint, Port: c.Server.Port, RootCAs: d.files.Roots, Proxy: c.Server.Proxy, Log: console.Log},
		Template:  c.Bootstrap.ProvisioningTemplate,
		Author:    c.Author,
		Keys:      provision.DeviceKeys, // hardware belongs to the device
		ThingName: c.ThingName, ExpectedThingName: c.ExpectedThingName(), Parameters: c.TemplateParameters(),
		Reprovision: reprovision, Eager: c.Bootstrap.Eager,
		Progress: func(e provision.Event) { showStep(console, e) }, Log: console.Log,
	}
	if c.Bootstrap.Keys == config.KeysService {
		p.Keys = provision.ServiceKeys
	}
	for _, claim := range d.files.Claims {
		p.Claims = append(p.Claims, claim.Certificate)
	}
	return p
}

// showStep shows a step of the exchange in AWS's order.
func showStep(console *cli.Console, e provision.Event) {
	text := string(e.Step)
	switch {
	case e.Step == provision.StepWait && !e.Ended:
		text += fmt.Sprintf(" (%s)", e.Elapsed.Round(time.Millisecond))
	case e.Detail != "":
		text += " (" + e.Detail + ")"
	}
	console.ShowStep(cli.Step{Name: string(e.Step), Text: text, Elapsed: e.Elapsed, RoundTrips: e.RoundTrips, Err: e.Err, Wait: e.Step == provision.StepWait, Ended: e.Ended})
}

// A bootstrapResult is what bootstrap prints. Its JSON keys are part of the command's contract.
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

func printBootstrap(console *cli.Console, o bootstrapOptions, c *config.Config, done *provision.Result) error {
	files, record := done.Identity.Files, done.Identity.Record
	r := bootstrapResult{
		ThingName: record.ThingName, SerialNumber: record.SerialNumber, CertificateID: record.CertificateID,
		CertificatePath: files.Certificate, PrivateKeyPath: files.PrivateKey, Endpoint: c.Server.Endpoint, NotAfter: record.NotAfter.UTC(),
		DeviceConfiguration: record.DeviceConfiguration, Author: record.Author, Provisioned: done.Provisioned, RoundTrips: done.RoundTrips,
	}
	if r.DeviceConfiguration == nil {
		r.DeviceConfiguration = map[string]any{} // always an object
	}
	if o.json {
		return console.JSON(r)
	}
	state := "provisioned before, verified"
	if r.Provisioned {
		state = "provisioned, verified"
	}
	t := cli.Table{
		{"thing name", r.ThingName}, {"state", state}, {"serial number", r.SerialNumber}, {"certificate id", r.CertificateID},
		{"certificate", r.CertificatePath}, {"private key", r.PrivateKeyPath}, {"valid until", r.NotAfter.Format(time.RFC3339)},
		{"endpoint", r.Endpoint}, {"author", r.Author},
	}
	if err := console.Table(append(t, mapRows("configuration", r.DeviceConfiguration)...)); err != nil {
		return err
	}
	console.Note("The device can connect as client id " + r.ThingName + c.Commands(". To show its identity, run: iot_device status"))
	return nil
}

// provision is [provision.Run], unless the agent runs: AWS IoT allows one connection for the client
// id, and the agent has it. It rotates then, and an identity with which it is connected is
// verified. Everything else has to wait for its end.
func (d *device) provision(ctx context.Context, c provision.Config) (*provision.Result, error) {
	release, held := lockConnection(d.config)
	defer release()
	if d.identity != nil && (c.Rotate || held != nil && !c.Reprovision) {
		done, err := d.askAgent(ctx, c.Rotate)
		e, answered := errors.AsType[*agent.Error](err)
		if !errors.Is(err, agent.ErrNotRunning) && (!answered || e.StatusCode != http.StatusConflict) {
			return done, err
		}
	}
	if held != nil {
		return nil, held
	}
	return provision.Run(ctx, c)
}

// askAgent has the agent rotate, or say that it is connected with the identity. The error is an
// *[agent.Error] with status 409 where it is the agent of another thing.
func (d *device) askAgent(ctx context.Context, rotate bool) (*provision.Result, error) {
	record := d.identity.Record
	err := whileItResponds(ctx, d.config, func(ctx context.Context, client *agent.Client) error {
		if rotate {
			return client.Rotate(ctx, record.ThingName)
		}
		s, err := client.Status(ctx)
		for err == nil && s.ThingName == record.ThingName && !s.Connected && s.LastError == "" { // it connects, as after a rotation
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(time.Second / 4):
				s, err = client.Status(ctx)
			}
		}
		switch {
		case err != nil:
			return err
		case s.ThingName != record.ThingName:
			return &agent.Error{StatusCode: http.StatusConflict}
		case !s.Connected || s.CertificateID != record.CertificateID:
			return &agent.Error{StatusCode: http.StatusServiceUnavailable, Message: fmt.Sprintf("it has the connection of the device, and is not connected with certificate %s: %s", record.CertificateID, cmp.Or(s.LastError, "it has another"))}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	id, err := d.store.Load()
	return &provision.Result{Identity: id, Provisioned: rotate, Pending: d.store.Status().Pending}, err
}

// lockConnection reserves the device's connection where an agent has been at work. The error wraps
// [agent.ErrRunning] and names who has it; on a disk without locks or that cannot be written there
// is none.
func lockConnection(c *config.Config) (release func() error, held error) {
	if _, err := os.Stat(agentDir(c)); err == nil {
		if release, err = agent.Lock(agentDir(c)); err == nil {
			return release, nil
		} else if errors.Is(err, agent.ErrRunning) {
			held = err
		}
	}
	return func() error { return nil }, held
}
