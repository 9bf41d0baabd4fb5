package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// EnvironmentPrefix begins the name of every environment variable that is a
// setting.
const EnvironmentPrefix = "IOT_DEVICE_"

// environmentSource begins the [Origin] of such a setting.
const environmentSource = "environment variable "

// Environment returns the environment variable of a key: IOT_DEVICE_SERVER_ENDPOINT
// for server.endpoint.
func Environment(key string) string {
	return EnvironmentPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// AddFlags adds the flags that fill the sources: --config and --set, and --author
// with the given help.
func (s *Sources) AddFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&s.Path, "config", "c", "", fmt.Sprintf("read the configuration from `FILE` (default %s here, else %s)", DefaultPath, SystemPath))
	flags.Func("set", "override one setting: `KEY=VALUE`, as in server.port=443 (repeatable)", func(pair string) error {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return errors.New("want KEY=VALUE")
		}
		s.Flags = append(s.Flags, Setting{Key: key, Value: value, Flag: "--set"})
		return nil
	})
}

// AddAuthorFlag adds --author.
func (s *Sources) AddAuthorFlag(flags *pflag.FlagSet, usage string) {
	flags.Func("author", usage, func(name string) error {
		s.Flags = append(s.Flags, Setting{Key: "author", Value: name, Flag: "--author"})
		return nil
	})
}

func applyDefaults(c *Config, dir string) {
	c.StateDir = filepath.Join(dir, DefaultStateDir)
	c.Server.Port = DefaultPort
	c.Agent.Socket = DefaultSocket
	c.Bootstrap = Bootstrap{
		PrivateKeyPath:       filepath.Join(dir, "certs/fleet-provisioning.private.key"),
		CertificatePath:      filepath.Join(dir, "certs/fleet-provisioning.certificate.pem"),
		CACertificatePath:    filepath.Join(dir, "certs/root.ca.bundle.pem"),
		ProvisioningTemplate: DefaultTemplate,
		Keys:                 KeysDevice,
		Afterwards:           AfterwardsKeep,
	}
}

// applyEnvironment takes the variables that name a key. An empty variable
// counts as unset, as is the custom of the shell. Others under the prefix may
// belong to someone else: they are a warning.
func applyEnvironment(c *Config, environ []string) (found Problems) {
	values := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && value != "" && strings.HasPrefix(name, EnvironmentPrefix) {
			values[name] = value
		}
	}
	for _, k := range keys {
		name := Environment(k.name)
		if value := values[name]; value != "" {
			found = append(found, apply(c, k, value, Origin{Source: environmentSource + name})...)
		}
		delete(values, name)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		warning := fmt.Sprintf("environment variable %s is no setting and is ignored", name)
		if near := nearestVariable(name); near != "" {
			warning += fmt.Sprintf("; did you mean %s?", near)
		}
		c.Warnings = append(c.Warnings, warning)
	}
	return found
}

func applyFlags(c *Config, flags []Setting) (found Problems) {
	for _, f := range flags {
		origin := Origin{Source: f.Flag}
		k, ok := lookup(f.Key)
		if !ok {
			found = append(found, unknownKey(origin, f.Key))
			continue
		}
		found = append(found, apply(c, k, f.Value, origin)...)
	}
	return found
}

// apply stores a value of the environment or of a flag.
func apply(c *Config, k key, value string, origin Origin) Problems {
	c.origins[k.name] = origin
	if err := k.set(c, k.in("", value)); err != nil {
		return Problems{{Origin: origin, Key: k.name, What: fmt.Sprintf("%s: %v", k.name, err), Remedy: "set it to " + k.kind.String()}}
	}
	return nil
}

func unknownKey(origin Origin, name string) Problem {
	p := Problem{Origin: origin, Key: name, What: fmt.Sprintf("unknown key %q", name), Remedy: `remove it; "iot_device config init" writes a file with the known ones`}
	if near := nearest(name); near != "" {
		_, last := split(name)
		p.What, p.Remedy = fmt.Sprintf("unknown key %q", last), fmt.Sprintf("did you mean %q?", near)
	}
	return p
}
