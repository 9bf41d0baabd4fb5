package config

import (
	"fmt"
	"strings"
)

// EnvironmentPrefix begins the name of every environment variable that is a
// setting.
const EnvironmentPrefix = "IOT_DEVICE_"

// Environment returns the environment variable of a key: IOT_DEVICE_SERVER_ENDPOINT
// for server.endpoint.
func Environment(key string) string {
	return EnvironmentPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func applyDefaults(c *Config) {
	c.Server.Port = DefaultPort
	c.Bootstrap = Bootstrap{
		PrivateKeyPath:       "certs/fleet-provisioning.private.key",
		CertificatePath:      "certs/fleet-provisioning.certificate.pem",
		CACertificatePath:    "certs/root.ca.bundle.pem",
		ProvisioningTemplate: DefaultTemplate,
		Keys:                 KeysDevice,
	}
}

// applyEnvironment takes the variables that name a key. An empty variable
// counts as unset, as is the custom of the shell. Others under the prefix may
// belong to someone else and are left alone.
func applyEnvironment(c *Config, environ []string) (found Problems) {
	values := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, EnvironmentPrefix) {
			values[name] = value
		}
	}
	for _, k := range keys {
		if value := values[Environment(k.name)]; value != "" {
			found = append(found, apply(c, k, value, Origin{Source: "environment variable " + Environment(k.name)})...)
		}
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

func apply(c *Config, k key, value string, origin Origin) Problems {
	c.origins[k.name] = origin
	if err := k.set(c, value); err != nil {
		return Problems{{Origin: origin, Key: k.name, What: fmt.Sprintf("%s: %v", k.name, err), Remedy: "give " + k.kind.String()}}
	}
	return nil
}

func unknownKey(origin Origin, name string) Problem {
	p := Problem{Origin: origin, Key: name, What: fmt.Sprintf("unknown key %q", name)}
	_, last := split(name)
	if near := nearest(name); near != "" {
		p.What, p.Remedy = fmt.Sprintf("unknown key %q", last), fmt.Sprintf("did you mean %q?", near)
	} else {
		p.Remedy = "remove it; device/example-config.yaml shows the known ones"
	}
	return p
}
