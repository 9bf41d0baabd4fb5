package fleetcli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/fleet"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/osfile"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
)

type enrollOptions struct {
	config.Sources
	output
	aws           bool
	quotas        quotaOptions
	fleet         fleet.Config
	devices       int
	prefix, first string
	curves        []tls.CurveID
}

func newEnrollCmd(console *cli.Console) *cobra.Command {
	var o enrollOptions
	var flags *pflag.FlagSet
	cmd := cli.Command("enroll --devices N [flags]", cli.NoArgs, func(ctx context.Context, _ []string) error {
		// In a fleet.Config zero means the default.
		for _, name := range []string{"concurrency", "rate", "interval", "timeout", "reconnect-window"} {
			if f := flags.Lookup(name); f.Changed && (f.Value.String() == "0" || f.Value.String() == "0s") {
				return &fleet.ValueError{Name: name, Value: f.Value.String(), Want: "more than 0"}
			}
		}
		return runEnroll(ctx, console, o)
	})
	cmd.Aliases = []string{"enrol"}
	flags = cmd.Flags()
	o.AddFlags(flags)
	o.AddAuthorFlag(flags, "`NAME` recorded as the devices' author")
	flags.BoolVar(&o.aws, "yes-this-is-aws", false, "enroll at an endpoint of AWS, which costs money")
	o.quotas.addFlags(flags)
	o.output.addFlags(flags)
	c, l := &o.fleet, &o.fleet.Load
	flags.IntVarP(&o.devices, "devices", "n", 0, "enroll `N` devices")
	_ = cmd.MarkFlagRequired("devices")
	flags.StringVar(&o.prefix, "prefix", payload.SerialPrefix, "begin serial numbers with `PREFIX`, the hook's")
	flags.StringVar(&o.first, "first", "", "first `SERIAL` number; the others count up from it (default: PREFIX0000001)")
	flags.IntVar(&l.Concurrency, "concurrency", 0, fmt.Sprintf("at most `N` devices in progress (default %d, with --rate %d)", fleet.DefaultConcurrency, fleet.DefaultInFlight))
	flags.Float64Var(&l.Rate, "rate", 0, "begin `R` devices per second, whether others have ended or not")
	flags.DurationVar(&c.Hold, "hold", 0, "keep all devices connected for this `DURATION` afterwards")
	flags.DurationVar(&c.Interval, "interval", fleet.DefaultInterval, "`DURATION` between two messages of a held device")
	flags.DurationVar(&c.ReconnectAfter, "reconnect-after", 0, "close all held connections at once after this `DURATION` of --hold")
	flags.DurationVar(&c.ReconnectWindow, "reconnect-window", fleet.DefaultWindow, "`DURATION` over which the first attempts to reconnect are spread")
	flags.BoolVar(&c.NoJitter, "no-jitter", false, "reconnect at once, as devices without jitter do")
	flags.DurationVar(&c.DeviceTimeout, "timeout", fleet.DefaultDeviceTimeout, "`DURATION` after which a device fails")
	flags.StringVar(&c.Keep, "keep", "", "keep the identities in `DIR`, a folder each (default: in memory)")
	flags.Func("shard", "enroll one share of the devices: `I/N`, as in 2/5", func(text string) (err error) {
		c.Shard, err = fleet.ParseShard(text)
		return err
	})
	flags.Func("curves", "key exchanges to offer, as `NAMES` in order: X25519MLKEM768, X25519, P256, P384, P521 (default: those of Go)", func(names string) error {
		for name := range strings.SplitSeq(strings.ToUpper(names), ",") {
			id, ok := keyExchanges[name]
			if !ok {
				return fmt.Errorf("%q is not one of X25519MLKEM768, X25519, P256, P384 and P521", name)
			}
			o.curves = append(o.curves, id)
		}
		return nil
	})
	return cmd
}

func runEnroll(ctx context.Context, console *cli.Console, o enrollOptions) error {
	defer runtime.KeepAlive(make([]byte, 16<<20)) // a ballast, as that of iot_core_local serve
	c, err := o.config(ctx, console)
	if err != nil {
		return err
	}
	if err := o.output.check(); err != nil {
		return err
	}
	signal.Ignore(syscall.SIGPIPE) // of who reads the progress: there would be no report
	progress := progress{console: console, shown: time.Now()}
	c.Progress = progress.show
	report, err := fleet.Enroll(ctx, c)
	progress.end()
	if report == nil {
		return err
	}
	report.Version, report.CommandLine = cli.Version(), commandLine(console.Args)
	if writeErr := errors.Join(o.keepEarlier(console, report), o.output.write(console, report)); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	if err == nil && !report.Complete() {
		return &incompleteError{report}
	}
	return err
}

// config translates flags, configuration and the files that it names. It checks the flags before it
// reads any file.
func (o *enrollOptions) config(ctx context.Context, console *cli.Console) (c fleet.Config, err error) {
	c = o.fleet
	if c.Serials, err = fleet.NewSerials(o.prefix, o.first, o.devices); err != nil {
		return c, err
	}
	if last := c.Serials.At(o.devices - 1); len(last) > payload.MaxSerialLength {
		return c, &fleet.ValueError{Name: "first", Value: last, Want: fmt.Sprintf("serial numbers of at most %d characters", payload.MaxSerialLength)}
	}
	o.Environ = console.Environ
	// Those of the file are of one device: they are neither read nor checked.
	o.Flags = append(o.Flags, config.Setting{Key: "serialNumber", Value: "simulated"}, config.Setting{Key: "thingname"})
	base, problems := config.Load(ctx, o.Sources)
	if base == nil {
		return c, problems
	}
	if base.Bootstrap.Keys != config.KeysService {
		base.Bootstrap.Keys = config.KeysDevice // simulated devices share no hardware
	}
	files, warnings, missing := base.Check(true)
	console.Warn(append(base.Warnings, warnings...)...)
	if err := config.Join(problems, missing); err != nil {
		return c, err
	}
	if err := files.ClaimTime(time.Now()); err != nil {
		return c, err
	}
	if onAWS(base.Server.Endpoint) && !o.aws {
		return c, errAWS(base.Server.Endpoint)
	}
	c.Device = func(serial string) provision.Config {
		device := *base
		device.SerialNumber, device.ThingName = serial, ""
		return provision.Config{
			Session: session.Options{
				Endpoint: base.Server.Endpoint, Port: base.Server.Port, RootCAs: files.Roots,
				Proxy: base.Server.Proxy, CurvePreferences: o.curves,
			},
			Claims:            []*tls.Certificate{files.Claims[0].Certificate},
			Template:          base.Bootstrap.ProvisioningTemplate,
			Parameters:        device.TemplateParameters(),
			Author:            base.Author,
			Keys:              provision.Keys(base.Bootstrap.Keys),
			Eager:             base.Bootstrap.Eager,
			ExpectedThingName: device.ExpectedThingName(),
		}
	}
	if c.Quotas, err = o.quotas.quotas(onAWS(base.Server.Endpoint)); err != nil {
		return c, err
	}
	if console.Log.Enabled(ctx, slog.LevelInfo) {
		c.Log = console.Log // thousands of devices log only when that is requested
	}
	return c, nil
}

// keyExchanges are those of --curves.
var keyExchanges = map[string]tls.CurveID{
	"X25519MLKEM768": tls.X25519MLKEM768, "X25519": tls.X25519, "P256": tls.CurveP256, "P384": tls.CurveP384, "P521": tls.CurveP521,
}

// The password of a proxy may stand in its setting, or in any URL.
var (
	proxySetting = regexp.MustCompile(`(?i)(proxy["']?\s*[=:]\s*).+`)
	urlUser      = regexp.MustCompile(`(://).*@`)
)

// commandLine returns the command line for a report, without secrets.
func commandLine(args []string) string {
	line := "iot_fleet"
	for _, arg := range args {
		arg = urlUser.ReplaceAllString(proxySetting.ReplaceAllString(arg, "${1}REDACTED"), "${1}REDACTED@")
		line += " " + osfile.Quote(arg)
	}
	return line
}

// quotaOptions are the flags that keep the fleet to AWS's quotas.
type quotaOptions struct {
	mode string
	sets []string
}

func (o *quotaOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.mode, "quotas", "auto", "keep to AWS's default `QUOTAS`: aws (most Regions), large (the Regions with higher ones), off, or auto: aws on AWS, else off")
	flags.StringArrayVar(&o.sets, "quota", nil, "override a quota: `NAME=PER_SECOND`, as in RegisterThing=50 (repeatable)")
}

// quotas returns the quotas to keep to, nil for none.
func (o *quotaOptions) quotas(onAWS bool) (*fleet.Quotas, error) {
	var q fleet.Quotas
	switch {
	case o.mode == "aws", o.mode == "auto" && onAWS:
		q = fleet.OtherRegionQuotas()
	case o.mode == "large":
		q = fleet.LargeRegionQuotas()
	case o.mode == "off", o.mode == "auto":
		if len(o.sets) == 0 {
			return nil, nil
		}
	default:
		return nil, &fleet.ValueError{Name: "quotas", Value: o.mode, Want: "aws, large, off or auto"}
	}
	for _, set := range o.sets {
		if err := q.Set(set); err != nil {
			return nil, err
		}
	}
	return &q, nil
}

// errAWS prevents a run that costs money, or changes devices, by mistake.
func errAWS(endpoint string) error {
	return &cli.UsageError{Err: fmt.Errorf("%s is AWS: this costs money and changes things and certificates there; if that is what you want, add --yes-this-is-aws", endpoint)}
}

func onAWS(endpoint string) bool { return awsiot.ParseEndpoint(endpoint).AWS() }
