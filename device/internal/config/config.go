// Package config reads the settings of a device and checks whether they make
// sense together. A setting is taken from the first of these that has it:
//
//  1. a flag (--author, or --set KEY=VALUE for any key),
//  2. the environment (IOT_DEVICE_SERVER_ENDPOINT for server.endpoint),
//  3. the YAML file,
//  4. the default.
//
// Relative paths of the file, and the default paths, start at the file's folder;
// those of flags and variables at the current directory.
//
// All problems are found in one go, each with its place and its remedy, and
// returned as [Problems]. The package reads files, runs the program that
// serialNumberFrom names, and nothing else: it does not connect, print or log.
package config

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
)

// The configuration files that are looked for when none is named, in this order.
const (
	DefaultPath = ".simple-go-iot-device.yaml" // in the current directory
	SystemPath  = "/etc/iot_device/config.yaml"
)

// Example is a commented configuration file with every key. What it lacks is the
// account's endpoint.
//
//go:embed example.yaml
var Example []byte

// Defaults of settings that the file may leave out.
const (
	DefaultPort     = 8883
	DefaultTemplate = "GoFleetProvisioningTemplate"
	DefaultStateDir = "certs" // in the file's folder
	DefaultSocket   = "/run/iot_device/api.sock"
	ThingNamePrefix = "fleety_" // what DefaultTemplate puts before the serial number by default
)

// Parameters of the provisioning template that have settings of their own.
const (
	parameterSerialNumber   = "serialNumber"
	parameterDeviceLocation = "deviceLocation"
	parameterAuthor         = "author"
)

// NoProxy as Server.Proxy means a direct connection, whatever the environment
// says.
const NoProxy = "direct"

// Keys says where the device's own key is made.
type Keys string

const (
	// KeysDevice makes the key on the device, which sends a CSR. The default.
	KeysDevice Keys = "device"
	// Hardware has settings of its own: "tpm", "tpm:PATH", either with "?pcrs=0,7"
	// (see [tpm.Keys]), and a PKCS #11 URI (see [pkcs11.URI]).

	// KeysService lets AWS IoT make the key (CreateKeysAndCertificate).
	KeysService Keys = "service"
)

// Afterwards says what happens to the claim once the identity is verified.
type Afterwards string

const (
	AfterwardsKeep   Afterwards = "keep"   // the default
	AfterwardsRemove Afterwards = "remove" // its private key is removed from the device
)

// Config holds every setting of the device. Its paths are absolute or relative
// to the current directory.
type Config struct {
	Path string // the file that was read

	SerialNumber     string // as it is set, or read from SerialNumberFrom
	SerialNumberFrom SerialNumberFrom
	DeviceLocation   string
	License          string // accepted for the sake of old files, unused
	ThingName        string // what the template is expected to give; empty: whatever it gives
	Author           string // on whose behalf the device is bootstrapped
	StateDir         string // the folder of the identity, unless Primary has paths

	Server    Server
	Bootstrap Bootstrap
	Primary   Primary
	Agent     Agent

	// Warnings are about settings that are ignored or unwise, in sentences.
	Warnings []string

	origins map[string]Origin
}

// Server is where AWS IoT Core answers.
type Server struct {
	Endpoint string // host name, without scheme and port
	Port     int    // 1 to 65535; 443 means ALPN x-amzn-mqtt-ca
	// CredentialsEndpoint is the host of the credentials provider, with its port
	// if that is not 443; see [Config.CredentialsProvider].
	CredentialsEndpoint string

	Proxy string // HTTP CONNECT proxy as a URL, or [NoProxy]; empty: as HTTPS_PROXY and NO_PROXY say
}

// Bootstrap is what the device needs until it has its own identity.
type Bootstrap struct {
	PrivateKeyPath       string
	CertificatePath      string
	Claims               []Claim // further ones, tried in turn; see [Config.AllClaims]
	CACertificatePath    string  // also used with the device's own identity; see [Files]
	ProvisioningTemplate string
	Keys                 Keys
	Afterwards           Afterwards
	Eager                bool              // send the create request without waiting for the SUBACK
	Parameters           map[string]string // template parameters besides serialNumber, deviceLocation and author
}

// Primary is where the device's own identity is kept. Both are empty unless
// they were set: then the place is STATEDIR/THINGNAME.*.
type Primary struct {
	CertificatePath string
	PrivateKeyPath  string
}

// Agent is how iot_device run works. Zero values stand for the defaults of packages
// agent and outbox, but for Socket.
type Agent struct {
	Socket      string        // Unix socket of the local API
	RotateAfter time.Duration // age at which key and certificate are replaced; 0: never
	Outbox      Outbox
	Tunnel      Tunnel
	Jobs        Jobs
	Shadows     []Shadow
	Defender    Defender
}

// Defender is what the device reports to AWS IoT Device Defender.
type Defender struct {
	Interval time.Duration // of reports; 0: none
}

// Jobs are what AWS IoT Jobs may do on the device; without Allow nothing.
type Jobs struct {
	Handlers    string   // the folder of executables
	Allow       []string // operations; see package jobs
	Downloads   string   // the folder for downloaded files
	PublicKey   string   // PEM file of the Ed25519 key that signs downloads
	StepTimeout time.Duration
}

// Outbox bounds the messages that are not sent yet.
type Outbox struct {
	MaxBytes int64
	MaxAge   time.Duration
}

// An Origin is the place that a setting was read from.
type Origin struct {
	Source string // the file's path, the name of an environment variable, a flag; empty: a default
	Line   int    // in the file, from 1; 0 elsewhere
	Column int
}

// Origin returns where the setting of that key (as "server.endpoint") came from.
func (c *Config) Origin(key string) Origin { return c.origins[key] }

// Equal reports whether two configurations have the same settings, wherever they
// were read from.
func (c *Config) Equal(other *Config) bool {
	a, b := *c, *other
	a.Path, a.Warnings, a.origins = "", nil, nil
	b.Path, b.Warnings, b.origins = "", nil, nil
	return reflect.DeepEqual(a, b)
}

// ExpectedThingName is the name that the device will have, as far as it can be
// known without asking: the configured one, else what DefaultTemplate gives by
// default, else none.
func (c *Config) ExpectedThingName() string {
	if c.ThingName == "" && c.Bootstrap.ProvisioningTemplate == DefaultTemplate {
		return ThingNamePrefix + c.SerialNumber
	}
	return c.ThingName
}

// Identity says where the identity is kept, and which files it must leave alone.
func (c *Config) Identity() identity.Config {
	b := c.Bootstrap
	keys, _ := b.Keys.store() // its error was reported by Load
	reserved := []string{c.Path, b.CertificatePath, b.PrivateKeyPath, b.CACertificatePath}
	for _, claim := range b.Claims {
		reserved = append(reserved, claim.CertificatePath, claim.PrivateKeyPath)
	}
	return identity.Config{
		SerialNumber: c.SerialNumber,
		ThingName:    c.ExpectedThingName(),
		Dir:          c.StateDir,
		Certificate:  c.Primary.CertificatePath,
		PrivateKey:   c.Primary.PrivateKeyPath,
		Keys:         keys,
		Reserved:     reserved,
	}
}

const credentialsKey = "server.credentialsEndpoint"

// CredentialsProvider returns host and port of the AWS IoT credentials provider.
// The name cannot be derived from that of the data endpoint: without the setting
// the error, of type [Problems], says how to get it.
func (c *Config) CredentialsProvider() (host string, port int, err error) {
	if c.Server.CredentialsEndpoint == "" {
		return "", 0, Problems{{Key: credentialsKey, What: credentialsKey + " is missing", Remedy: askForCredentialsEndpoint}}
	}
	host, port = splitHostPort(c.Server.CredentialsEndpoint)
	return host, port, nil
}

// splitHostPort reads HOST or HOST:PORT. The port is 443 by default, 0 if it is none.
func splitHostPort(endpoint string) (host string, port int) {
	host, text, err := net.SplitHostPort(endpoint)
	if err != nil {
		return strings.TrimSuffix(endpoint, "."), 443
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		n = 0 // no port
	}
	return host, int(n)
}

// TemplateParameters are the parameters of the RegisterThing request: those of
// the file, with the serial number, the location and the author (if any).
func (c *Config) TemplateParameters() map[string]string {
	p := map[string]string{}
	maps.Copy(p, c.Bootstrap.Parameters)
	p[parameterSerialNumber] = c.SerialNumber
	p[parameterDeviceLocation] = c.DeviceLocation
	if c.Author != "" {
		p[parameterAuthor] = c.Author
	}
	return p
}

// Sources are the places that settings come from. The zero value reads
// [DefaultPath], or else [SystemPath], and nothing else.
type Sources struct {
	// Path is the YAML file; empty means the first of the default ones that exists.
	Path string
	// Environ is the environment as "NAME=value", like [os.Environ].
	Environ []string
	// Flags are settings of the command line; the last one of a key wins.
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
func Load(ctx context.Context, s Sources) (*Config, error) {
	path := cmp.Or(s.Path, DefaultPath)
	if _, err := os.Lstat(path); s.Path == "" && errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(SystemPath); errors.Is(err, fs.ErrNotExist) {
			return nil, Problems{{What: fmt.Sprintf("no configuration: neither %s in the current directory nor %s exists", DefaultPath, SystemPath),
				Remedy: `name one with --config, or write one with "iot_device config init"`}}
		}
		path = SystemPath
	}
	c := &Config{Path: path, origins: map[string]Origin{}}
	// From the weakest to the strongest: the last one to set a key wins.
	applyDefaults(c, filepath.Dir(path))
	found, readable := applyFile(c, path)
	if !readable {
		return nil, found
	}
	found = append(found, applyEnvironment(c, s.Environ)...)
	found = append(found, applyFlags(c, s.Flags)...)
	found = append(found, c.readSerialNumber(ctx)...)
	found = append(found, validate(c, found)...)
	c.warn(found)
	return c, found.err()
}

// warn adds the warnings about the merged settings that are no problem.
func (c *Config) warn(found Problems) {
	add := func(format string, args ...any) { c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...)) }
	_, notAddress := netip.ParseAddr(c.Server.Endpoint)
	switch kind := awsiot.ParseEndpoint(c.Server.Endpoint).Kind; {
	case found.about("server.endpoint"):
	case notAddress == nil:
		add("server.endpoint %s is an address: TLS sends no server name (SNI) for an address, and AWS IoT requires one; use the host name", c.Server.Endpoint)
	case kind == awsiot.EndpointLegacyData:
		add("server.endpoint %s is the legacy data endpoint, whose root certificate is no longer trusted; %s", c.Server.Endpoint, askForEndpoint)
	case kind == awsiot.EndpointOtherAWS:
		add("server.endpoint %s belongs to another AWS service; for AWS IoT, %s", c.Server.Endpoint, askForEndpoint)
	}
	if info, err := os.Stat(c.Path); err == nil && info.Mode().Perm()&0o077 != 0 && c.origins["server.proxy"].Source == c.Path && hasPassword(c.Server.Proxy) {
		add("%s has the password of a proxy and is readable by others (mode %04o); run: chmod 600 %[1]s", c.Path, info.Mode().Perm())
	}
}
