// Package config answers where a setting of the device comes from, and whether
// the settings make sense together. A setting is taken from the first of these
// that has it:
//
//  1. a flag (--author, or --set KEY=VALUE for any key),
//  2. the environment (IOT_DEVICE_SERVER_ENDPOINT for server.endpoint),
//  3. the YAML file,
//  4. the default.
//
// All problems are found in one go, each with its place and its remedy, and
// come back as [Problems]. The package reads files and nothing else: it does
// not connect, print or log.
package config

import (
	"cmp"
	"fmt"
	"maps"
	"time"

	"example.com/fleety/hook/payload"
)

// DefaultPath is the configuration file that is read when none is named.
const DefaultPath = ".simple-go-iot-device.yaml"

// Defaults of settings that the file may leave out.
const (
	DefaultPort     = 8883
	DefaultTemplate = "GoFleetProvisioningTemplate"
	ThingNamePrefix = "fleety_" // what DefaultTemplate puts before the serial number
)

// NoProxy as Server.Proxy means a direct connection, whatever the environment
// says.
const NoProxy = "direct"

// Keys says where the device's own key is made.
type Keys string

const (
	// KeysDevice makes the key on the device, which sends a CSR. The default.
	KeysDevice Keys = "device"
	// KeysService lets AWS IoT make the key (CreateKeysAndCertificate).
	KeysService Keys = "service"
)

// Config holds every setting of the device. Paths are relative to the current
// directory.
type Config struct {
	SerialNumber   string
	DeviceLocation string
	License        string // accepted for the sake of old files, unused
	ThingName      string // what the template is expected to give; empty: whatever it gives
	Author         string // on whose behalf the device is bootstrapped

	Server    Server
	Bootstrap Bootstrap
	Primary   Primary

	origins map[string]Origin
}

// Server is where AWS IoT Core answers.
type Server struct {
	Endpoint string // host name, without scheme and port
	Port     int    // 1 to 65535; 443 means ALPN x-amzn-mqtt-ca
	Proxy    string // HTTP CONNECT proxy as a URL, or [NoProxy]; empty: as HTTPS_PROXY and NO_PROXY say
}

// Bootstrap is what the device needs until it has its own identity.
type Bootstrap struct {
	PrivateKeyPath       string
	CertificatePath      string
	CACertificatePath    string // also used with the device's own identity
	ProvisioningTemplate string
	Keys                 Keys
	Parameters           map[string]string // template parameters besides serialNumber, deviceLocation and author
}

// Primary is where the device's own identity is kept. Both are empty unless
// they were set: then the place is certs/THINGNAME.*.
type Primary struct {
	CertificatePath string
	PrivateKeyPath  string
}

// An Origin is the place that a setting was read from.
type Origin struct {
	Source string // the file's path, the name of an environment variable, a flag; empty: a default
	Line   int    // in the file, from 1; 0 elsewhere
	Column int
}

// Origin tells where the setting of that key (as "server.endpoint") came from.
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// ExpectedThingName is the name that the device will have, as far as it can be
// known without asking: the configured one, else what our own template makes,
// else none.
func (c *Config) ExpectedThingName() string {
	if c.ThingName == "" && c.Bootstrap.ProvisioningTemplate == DefaultTemplate {
		return ThingNamePrefix + c.SerialNumber
	}
	return c.ThingName
}

// TemplateParameters are the parameters of the RegisterThing request: those of
// the file, with the serial number, the location and the author (if any).
func (c *Config) TemplateParameters() map[string]string {
	p := map[string]string{}
	maps.Copy(p, c.Bootstrap.Parameters)
	p[payload.SerialNumber] = c.SerialNumber
	p[payload.DeviceLocation] = c.DeviceLocation
	if c.Author != "" {
		p[payload.Author] = c.Author
	}
	return p
}

// Sources are the places that settings come from. The zero value reads
// [DefaultPath] and nothing else.
type Sources struct {
	// Path is the YAML file; empty means [DefaultPath].
	Path string
	// Environ is the environment as "NAME=value", like [os.Environ].
	Environ []string
	// Flags are settings of the command line.
	Flags []Setting
}

// A Setting is one key with its value as text, and the flag that it came from.
type Setting struct {
	Key, Value, Flag string
}

// Load merges the sources and validates the result. Its error is of type
// [Problems] and holds every problem found. With problems the Config has what
// could be read, so that a caller can go on looking; it is nil when the file
// could not be read at all.
func Load(s Sources) (*Config, error) {
	c := &Config{origins: map[string]Origin{}}
	// From the weakest to the strongest: the last one to set a key wins.
	applyDefaults(c)
	found, readable := applyFile(c, cmp.Or(s.Path, DefaultPath))
	if !readable {
		return nil, found
	}
	found = append(found, applyEnvironment(c, s.Environ)...)
	found = append(found, applyFlags(c, s.Flags)...)
	found = append(found, validate(c, found)...)
	return c, found.err()
}

// Check reads the files that the settings name and returns them ready for use,
// with warnings about what works but should not stay. claim says whether the
// claim is still needed: a device with an identity may have lost it. The error
// is of type [Problems].
func (c *Config) Check(now time.Time, claim bool) (*Files, []string, error) {
	f := &Files{}
	var found Problems
	var warnings []string
	f.Roots, found = c.readRoots(found)
	if claim {
		f.Claim, warnings, found = c.readClaim(now, found)
	}
	if legacyEndpoint.MatchString(c.Server.Endpoint) {
		warnings = append(warnings, fmt.Sprintf("server.endpoint %q is the legacy kind, whose root is no longer trusted; %s", c.Server.Endpoint, askForEndpoint))
	}
	return f, warnings, found.err()
}
