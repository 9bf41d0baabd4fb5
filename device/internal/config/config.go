// Package config reads the settings of a device and checks whether they make sense together. A
// setting is taken from the first of these that has it:
//
//  1. a flag (--author, or --set KEY=VALUE for any key),
//  2. the environment (IOT_DEVICE_SERVER_ENDPOINT for server.endpoint),
//  3. the YAML file,
//  4. the default.
//
// Relative paths of the file, and the default paths, start at the file's folder; those of flags and
// variables at the current directory.
//
// All problems are found in one go, each with its place and its remedy, and returned as [Problems].
// The package reads files, runs the program that serialNumberFrom names, and nothing else: it does
// not connect, print or log.
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
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/identity/pkcs11"
	"example.com/fleety/device/internal/osfile"
	"github.com/spf13/pflag"
)

// The configuration files that are looked for when none is named, in this order.
const (
	DefaultPath = ".simple-go-iot-device.yaml" // in the current directory
	SystemPath  = "/etc/iot_device/config.yaml"
)

var systemPath = SystemPath // tests have another

// Example is a commented configuration file with every key. What it lacks is the account's
// endpoint.
//
//go:embed example.yaml
var Example []byte

// Defaults that others depend on too.
const (
	DefaultPort     = 8883
	DefaultTemplate = "GoFleetProvisioningTemplate"
	thingNamePrefix = "fleety_" // what DefaultTemplate puts before the serial number by default
)

// NoProxy as Server.Proxy means a direct connection, whatever the environment says.
const NoProxy = "direct"

// Keys says where the device's own key is made.
type Keys string

const (
	// KeysDevice makes the key on the device, which sends a CSR. The default.
	KeysDevice Keys = "device"
	// Hardware has settings of its own: "tpm", "tpm:PATH", either with "?pcrs=0,7" (see
	// [tpm.Keys]), and a PKCS #11 URI (see [pkcs11.URI]).

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
//
// A tag `key` makes a field a setting and names it in the file, within the key of its
// section; "." is the section's own key. The environment, the flags, the kinds of values and the
// suggestions for misspelt keys follow from these tags, see [keys].
type Config struct {
	Path string // the file that was read

	SerialNumber     string           `key:"serialNumber"` // as it is set, or read from SerialNumberFrom
	SerialNumberFrom SerialNumberFrom `key:"serialNumberFrom"`
	DeviceLocation   string           `key:"deviceLocation"`
	License          string           `key:"license"`       // accepted for the sake of old files, unused
	ThingName        string           `key:"thingname"`     // what the template is expected to give; empty: whatever it gives
	Author           string           `key:"author"`        // on whose behalf the device is bootstrapped
	StateDir         string           `key:"stateDir,path"` // the folder of the identity, unless Primary has paths

	Server    Server    `key:"server"`
	Bootstrap Bootstrap `key:"bootstrap"`
	Primary   Paths     `key:"primary"` // of the device's own identity; empty unless they were set: then STATEDIR/THINGNAME.*
	Agent     Agent     `key:"agent"`

	Warnings []string // about settings that are ignored or unwise, in sentences

	origins map[string]Origin
}

// SerialNumberFrom is where the serial number is read from at each start. One field at most is set.
type SerialNumberFrom struct {
	Firmware string `key:"."`            // "dmi" or "device-tree"
	File     string `key:"file,path"`    // its contents, without white space and NUL around them
	Program  string `key:"program,path"` // what it prints, likewise; it runs without arguments for 30 s at most
}

// Server is where AWS IoT Core answers.
type Server struct {
	Endpoint            string `key:"endpoint"`            // host name, without scheme and port
	Port                int    `key:"port"`                // 1 to 65535; 443 means ALPN x-amzn-mqtt-ca
	CredentialsEndpoint string `key:"credentialsEndpoint"` // HOST or HOST:PORT, see [Config.CredentialsProvider]
	Proxy               string `key:"proxy"`               // HTTP CONNECT proxy as a URL, or [NoProxy]; empty: as HTTPS_PROXY and NO_PROXY say
}

// Bootstrap is what the device needs until it has its own identity.
type Bootstrap struct {
	PrivateKeyPath       string            `key:"privatekeypath,path"`
	CertificatePath      string            `key:"certificatepath,path"`
	Claims               []Paths           `key:"claims"`                 // further ones, tried in turn; see [Config.AllClaims]
	CACertificatePath    string            `key:"cacertificatepath,path"` // also used with the device's own identity; see [Files]
	ProvisioningTemplate string            `key:"provisioningTemplate"`
	Keys                 Keys              `key:"keys"`
	Afterwards           Afterwards        `key:"afterwards"`
	Eager                bool              `key:"eager"`                                 // send the create request without waiting for the SUBACK
	Parameters           map[string]string `key:"parameters" entry:"template parameter"` // besides serialNumber, deviceLocation and author
}

// Paths name the files of a certificate and its private key, which may be one file for a claim.
type Paths struct {
	CertificatePath string `key:"certificatepath,path"`
	PrivateKeyPath  string `key:"privatekeypath,path"`
}

// Agent is how iot_device run works. Zero values stand for the defaults of packages agent and
// outbox, but for Socket.
type Agent struct {
	Socket      string        `key:"socket,path"`          // Unix socket of the local API
	RotateAfter time.Duration `key:"rotateAfter" min:"1h"` // age at which key and certificate are replaced; 0: two thirds of the lifetime, which is the latest
	Outbox      Outbox        `key:"outbox"`
	Jobs        Jobs          `key:"jobs"`
	Tunnel      Tunnel        `key:"tunnel"`
	Shadows     []Shadow      `key:"shadows"`
	Defender    Defender      `key:"defender"`
}

// Outbox bounds the messages that are not sent yet.
type Outbox struct {
	MaxBytes int64         `key:"maxBytes"` // 1 MiB to 1 TiB
	MaxAge   time.Duration `key:"maxAge" min:"1m"`
}

// Jobs are what AWS IoT Jobs may do on the device; without Allow nothing.
type Jobs struct {
	Handlers    string        `key:"handlers,path"`  // the folder of executables
	Allow       []string      `key:"allow"`          // operations; see package jobs
	Downloads   string        `key:"downloads,path"` // the folder for downloaded files
	PublicKey   string        `key:"publicKey,path"` // PEM file of the Ed25519 key that signs downloads
	StepTimeout time.Duration `key:"stepTimeout" min:"1s"`
}

// Tunnel says what secure tunneling may reach; without services nothing.
type Tunnel struct {
	Services map[string]string `key:"services" entry:"service"` // by name: a port of this device, or HOST:PORT
	Endpoint string            `key:"endpoint"`                 // HOST or HOST:PORT of the data plane; empty: that of the Region
}

// A Shadow is one that the agent keeps.
type Shadow struct {
	Name    string `key:"name"`         // empty: the classic one
	File    string `key:"file,path"`    // holds the desired state
	Program string `key:"program,path"` // is called with the desired state
}

// Defender is what the device reports to AWS IoT Device Defender.
type Defender struct {
	Interval time.Duration `key:"interval" min:"5m"` // of reports; 0: none
}

// An Origin is the place that a setting was read from.
type Origin struct {
	Source string // the file's path, the name of an environment variable, a flag; empty: a default
	Line   int    // in the file, from 1; 0 elsewhere
	Column int
}

// Equal reports whether two configurations have the same settings, wherever they were read from.
func (c *Config) Equal(other *Config) bool {
	same := *c
	same.Path, same.Warnings, same.origins = other.Path, other.Warnings, other.origins
	return reflect.DeepEqual(&same, other)
}

// ExpectedThingName is the name that the device will have, as far as it can be known without
// asking: the configured one, else what DefaultTemplate gives by default, else none.
func (c *Config) ExpectedThingName() string {
	if c.ThingName == "" && c.Bootstrap.ProvisioningTemplate == DefaultTemplate {
		return thingNamePrefix + c.SerialNumber
	}
	return c.ThingName
}

// Identity says where the identity is kept, and which files it must leave alone.
func (c *Config) Identity() identity.Config {
	b := c.Bootstrap
	keys, _ := b.Keys.store(c.StateDir) // its error was reported by Load
	reserved := []string{c.Path, b.CertificatePath, b.PrivateKeyPath, b.CACertificatePath}
	for _, claim := range b.Claims {
		reserved = append(reserved, claim.CertificatePath, claim.PrivateKeyPath)
	}
	return identity.Config{
		SerialNumber: c.SerialNumber, ThingName: c.ExpectedThingName(), Keys: keys, Reserved: reserved,
		Dir: c.StateDir, Certificate: c.Primary.CertificatePath, PrivateKey: c.Primary.PrivateKeyPath,
	}
}

// CredentialsProvider returns host and port of the AWS IoT credentials provider. The name cannot be
// derived from that of the data endpoint: without the setting the error, of type [Problems], says
// how to get it.
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

// AllClaims are the claims in the order in which they are tried: that of CertificatePath and
// PrivateKeyPath, then Claims. The default paths count only where Claims is empty.
func (c *Config) AllClaims() []Paths {
	first := Paths{c.Bootstrap.CertificatePath, c.Bootstrap.PrivateKeyPath}
	_, certificate := c.origins[claimCertificateKey]
	_, key := c.origins[claimPrivateKey]
	if len(c.Bootstrap.Claims) > 0 && !certificate && !key {
		return c.Bootstrap.Claims
	}
	return append([]Paths{first}, c.Bootstrap.Claims...)
}

// Addresses returns the services as HOST:PORT.
func (t Tunnel) Addresses() map[string]string {
	addresses := map[string]string{}
	for name, value := range t.Services {
		addresses[name], _ = serviceAddress(value)
	}
	return addresses
}

// HostPort returns host and port of Endpoint, an empty host without one.
func (t Tunnel) HostPort() (host string, port int) { return splitHostPort(t.Endpoint) }

// serviceAddress reads PORT, which stands for 127.0.0.1:PORT, or HOST:PORT.
func serviceAddress(value string) (address string, ok bool) {
	host, text, err := net.SplitHostPort(value)
	if err != nil {
		host, text = "127.0.0.1", value
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return net.JoinHostPort(host, strconv.FormatUint(port, 10)), err == nil && port > 0 && fitsDNS(host)
}

// TemplateParameters are the parameters of the RegisterThing request: those of the file, with the
// serial number, the location and the author (if any).
func (c *Config) TemplateParameters() map[string]string {
	p := map[string]string{}
	maps.Copy(p, c.Bootstrap.Parameters)
	p["serialNumber"], p["deviceLocation"] = c.SerialNumber, c.DeviceLocation
	if c.Author != "" {
		p["author"] = c.Author
	}
	return p
}

// Sources are the places that settings come from. The zero value reads [DefaultPath], or else
// [SystemPath], and nothing else.
type Sources struct {
	Path    string    // the YAML file; empty means the first of the default ones that exists
	Environ []string  // the environment as "NAME=value", like [os.Environ]
	Flags   []Setting // settings of the command line; the last one of a key wins
}

// A Setting is one key with its value as text, and the flag that it came from.
type Setting struct {
	Key, Value, Flag string
}

// AddFlags adds the flags that fill the sources: --config and --set.
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

// Load merges the sources and validates the result. Its error is of type [Problems] and holds every
// problem found. With problems the Config has what could be read, so that a caller can go on
// looking; it is nil when the file could not be read at all.
func Load(ctx context.Context, s Sources) (*Config, error) {
	path := cmp.Or(s.Path, DefaultPath)
	if _, err := os.Lstat(path); s.Path == "" && err != nil { // it is missing, or the directory is that of another user
		if _, found := os.Lstat(systemPath); !errors.Is(found, fs.ErrNotExist) {
			path = systemPath
		} else if errors.Is(err, fs.ErrNotExist) {
			return nil, Problems{{What: fmt.Sprintf("no configuration: neither %s in the current directory nor %s exists", DefaultPath, SystemPath),
				Remedy: `name one with --config, or write one with "iot_device config init"`}}
		}
	}
	dir := filepath.Dir(path)
	c := &Config{
		Path:     path,
		StateDir: filepath.Join(dir, "certs"),
		Server:   Server{Port: DefaultPort},
		Bootstrap: Bootstrap{
			PrivateKeyPath:       filepath.Join(dir, "certs/fleet-provisioning.private.key"),
			CertificatePath:      filepath.Join(dir, "certs/fleet-provisioning.certificate.pem"),
			CACertificatePath:    filepath.Join(dir, "certs/root.ca.bundle.pem"),
			ProvisioningTemplate: DefaultTemplate, Keys: KeysDevice, Afterwards: AfterwardsKeep,
		},
		Agent:   Agent{Socket: "/run/iot_device/api.sock"},
		origins: map[string]Origin{},
	}
	// From the weakest to the strongest: the last one to set a key wins.
	found, readable := applyFile(c, path)
	if !readable {
		return nil, found
	}
	found = append(found, c.applyEnvironment(s.Environ)...)
	for _, f := range s.Flags {
		found = append(found, c.apply(f.Key, f.Value, Origin{Source: f.Flag})...)
	}
	c.Server.Endpoint = strings.TrimSuffix(c.Server.Endpoint, ".") // of a fully qualified name, as TLS does
	found = append(found, c.readSerialNumber(ctx)...)
	found = append(found, validate(c, found)...)
	c.warn(found)
	return c, found.err()
}

// Commands completes the commands of iot_device in a text, so that a copy of one reads this
// configuration: by --config, unless they find it by themselves. c may be nil.
func (c *Config) Commands(text string) string {
	if c == nil || c.Path == "" || c.Path == DefaultPath || c.Path == systemPath {
		return text
	}
	return ownCommand.ReplaceAllStringFunc(text, func(command string) string { return command + " --config " + osfile.Quote(c.Path) })
}

var ownCommand = regexp.MustCompile(`\biot_device (bootstrap|rotate|status|doctor)\b( --[a-z-]+)*|"iot_device run`)

// environmentPrefix begins the name of every environment variable that is a setting,
// environmentSource its [Origin].
const (
	environmentPrefix = "IOT_DEVICE_"
	environmentSource = "environment variable "
)

// applyEnvironment takes the variables that name a key: IOT_DEVICE_SERVER_ENDPOINT for
// server.endpoint. A blank variable counts as unset, as is the custom of the shell. Others under
// the prefix may belong to someone else: they are a warning.
func (c *Config) applyEnvironment(environ []string) (found Problems) {
	variables := map[string]string{} // names of keys, by those of variables without the prefix
	for _, k := range keys {
		variables[strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))] = k.name
	}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		_, asURL := url.Parse(value)
		_, asAddress := url.Parse("http://" + value)
		rest, ours := strings.CutPrefix(name, environmentPrefix)
		switch key := variables[rest]; {
		case strings.EqualFold(name, "HTTPS_PROXY") && asURL != nil && asAddress != nil: // net/http passes over it
			c.Warnings = append(c.Warnings, name+" is not the address of a proxy and is ignored; write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with special characters %-encoded")
		case strings.TrimSpace(value) == "" || !ours || name == pkcs11.PINVariable:
		case key != "":
			found = append(found, c.apply(key, value, Origin{Source: environmentSource + name})...)
		default:
			warning := fmt.Sprintf("environment variable %s is no setting and is ignored", name)
			near := slices.MinFunc(slices.Sorted(maps.Keys(variables)), func(a, b string) int {
				return cmp.Or(cmp.Compare(distance(rest, a), distance(rest, b)), cmp.Compare(len(a), len(b)))
			})
			if distance(rest, near) < 3 {
				warning += fmt.Sprintf("; did you mean %s%s?", environmentPrefix, near)
			}
			c.Warnings = append(c.Warnings, warning)
		}
	}
	return found
}

// apply stores a value of the environment or of a flag.
func (c *Config) apply(name, value string, origin Origin) Problems {
	k, ok := lookup(keys, name)
	if !ok {
		return Problems{unknownKey(keys, origin, name)}
	}
	c.origins[k.name] = origin
	if err := k.set(reflect.ValueOf(c).Elem(), "", value); err != nil {
		return Problems{c.problem(k.name, fmt.Sprintf("%s: %v", k.name, err), "set it to "+string(k.kind))}
	}
	return nil
}

func unknownKey(keys []key, origin Origin, name string) Problem {
	p := Problem{Origin: origin, Key: name, What: fmt.Sprintf("unknown key %q", name), Remedy: `remove it; "iot_device config init" writes a file with the known ones`}
	if isSection(keys, name) {
		p.What, p.Remedy = fmt.Sprintf("%q is a section", name), "set one of its keys, as in server.port=443"
	} else if near := nearest(keys, name); near != "" {
		_, last := split(name)
		p.What, p.Remedy = fmt.Sprintf("unknown key %q", last), fmt.Sprintf("did you mean %q?", near)
	}
	return p
}

// warn adds the warnings about the merged settings that are no problem.
func (c *Config) warn(found Problems) {
	add := func(format string, args ...any) { c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...)) }
	_, notAddress := netip.ParseAddr(c.Server.Endpoint)
	switch kind := awsiot.ParseEndpoint(c.Server.Endpoint).Kind; {
	case found.about(endpointKey):
	case notAddress == nil:
		add("server.endpoint %s is an address: TLS sends no server name (SNI) for an address, and AWS IoT requires one; use the host name", c.Server.Endpoint)
	case kind == awsiot.EndpointLegacyData:
		add("server.endpoint %s is the legacy data endpoint, whose root certificate is no longer trusted; %s", c.Server.Endpoint, askForEndpoint)
	case kind == awsiot.EndpointOtherAWS:
		add("server.endpoint %s belongs to another AWS service; for AWS IoT, %s", c.Server.Endpoint, askForEndpoint)
	}
	if proxy, err := url.Parse(c.Server.Proxy); err == nil && c.origins[proxyKey].Source == c.Path {
		_, password := proxy.User.Password()
		if info, err := os.Stat(c.Path); err == nil && info.Mode().Perm()&0o077 != 0 && password {
			add("%s has the password of a proxy and is readable by others (mode %04o); run \"chmod 600 %s\"", c.Path, info.Mode().Perm(), osfile.Quote(c.Path))
		}
	}
}
