package fleetcli

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"github.com/spf13/pflag"
)

// settings are the flags of the devices' configuration.
type settings struct {
	config.Sources
	aws bool
}

func (s *settings) addFlags(flags *pflag.FlagSet) {
	s.AddFlags(flags)
	s.AddAuthorFlag(flags, "`NAME` recorded as the devices' author")
	flags.BoolVar(&s.aws, "yes-this-is-aws", false, "enroll at an endpoint of AWS, which costs money")
}

// errAWS prevents a run that costs money, or changes devices, by mistake.
func errAWS(endpoint string) error {
	return &cli.UsageError{Err: fmt.Errorf("%s is AWS: this costs money and changes things and certificates there; if that is what you want, add --yes-this-is-aws", endpoint)}
}

func onAWS(endpoint string) bool { return awsiot.ParseEndpoint(endpoint).AWS() }

// load reads the configuration and the files that it names.
func (s *settings) load(ctx context.Context, console *cli.Console) (*config.Config, *config.Files, error) {
	s.Environ = console.Environ
	// Those of the file are of one device: they are neither read nor checked.
	s.Flags = append(s.Flags, config.Setting{Key: "serialNumber", Value: "simulated"}, config.Setting{Key: "thingname"})
	c, problems := config.Load(ctx, s.Sources)
	if c == nil {
		return nil, nil, problems
	}
	if c.Bootstrap.Keys != config.KeysService {
		c.Bootstrap.Keys = config.KeysDevice // simulated devices share no hardware
	}
	files, warnings, missing := c.Check(true)
	for _, warning := range append(c.Warnings, warnings...) {
		console.Warn(warning)
	}
	if err := config.Join(problems, missing); err != nil {
		return nil, nil, err
	}
	if err := files.ClaimTime(time.Now()); err != nil {
		return nil, nil, err
	}
	if onAWS(c.Server.Endpoint) && !s.aws {
		return nil, nil, errAWS(c.Server.Endpoint)
	}
	return c, files, nil
}

// device returns a function that translates the configuration for the device
// of a serial number. The file's own serial number and thing name are those
// of one device and do not count.
func device(base *config.Config, files *config.Files, curves []tls.CurveID) func(serial string) provision.Config {
	return func(serial string) provision.Config {
		c := *base
		c.SerialNumber, c.ThingName = serial, ""
		return provision.Config{
			Session: session.Options{
				Endpoint: c.Server.Endpoint,
				Port:     c.Server.Port,
				RootCAs:  files.Roots,
				Proxy:    c.Server.Proxy,

				CurvePreferences: curves,
			},
			Claim:             files.Claims[0].Certificate,
			Template:          c.Bootstrap.ProvisioningTemplate,
			Parameters:        c.TemplateParameters(),
			Author:            c.Author,
			Keys:              provision.Keys(c.Bootstrap.Keys),
			Eager:             c.Bootstrap.Eager,
			ExpectedThingName: c.ExpectedThingName(),
		}
	}
}
