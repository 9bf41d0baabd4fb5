package devicecli

import (
	"fmt"
	"strings"
	"time"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"github.com/spf13/pflag"
)

// settings are the flags that say where the configuration comes from.
type settings struct {
	path   string
	author string
	set    []string
}

func (s *settings) addFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&s.path, "config", "c", config.DefaultPath, "read the configuration from `FILE`")
	flags.StringArrayVar(&s.set, "set", nil, "override one setting: `KEY=VALUE`, as in server.port=443 (repeatable)")
}

// load reads the configuration. Like config.Load it returns what it could read
// when there are problems, nil if that is nothing.
func (s *settings) load(console *cli.Console) (*config.Config, error) {
	sources := config.Sources{Path: s.path, Environ: console.Environ}
	for _, pair := range s.set {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, &cli.UsageError{Err: fmt.Errorf("invalid argument %q for \"--set\" flag: want KEY=VALUE", pair)}
		}
		sources.Flags = append(sources.Flags, config.Setting{Key: key, Value: value, Flag: "--set"})
	}
	if s.author != "" {
		sources.Flags = append(sources.Flags, config.Setting{Key: "author", Value: s.author, Flag: "--author"})
	}
	return config.Load(sources)
}

// A device is all that is known of this device before it connects.
type device struct {
	config *config.Config
	files  *config.Files
	store  *identity.Store
}

// open reads the configuration and the files that it names, and opens the
// identity store. All problems come at once; those of the claim do not count
// where it is no longer needed.
func (s *settings) open(console *cli.Console, reprovision bool) (*device, error) {
	c, problems := s.load(console)
	if c == nil {
		return nil, problems
	}
	store, err := newStore(c, console)
	if err != nil && problems == nil {
		return nil, err
	}
	claim := store == nil || needsClaim(store.Status(), reprovision)
	files, warnings, missing := c.Check(time.Now(), claim)
	for _, warning := range warnings {
		console.Warn(warning)
	}
	if err := config.Join(problems, missing); err != nil {
		return nil, err
	}
	return &device{config: c, files: files, store: store}, nil
}

// needsClaim reports whether the claim is still needed: not once a thing is
// registered for the identity that is wanted.
func needsClaim(s *identity.Status, reprovision bool) bool {
	if s.Pending != nil {
		return s.Pending.Stage < identity.Registered
	}
	return reprovision || s.Identity == nil && len(s.Problems) == 0
}

func newStore(c *config.Config, console *cli.Console) (*identity.Store, error) {
	return identity.NewStore(identity.Config{
		SerialNumber: c.SerialNumber,
		Certificate:  c.Primary.CertificatePath,
		PrivateKey:   c.Primary.PrivateKeyPath,
		Log:          console.Log,
	})
}
