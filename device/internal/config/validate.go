package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/osfile"
)

// maxSerialLength is the longest serial number, in characters, so that a thing name has room for a
// prefix.
const maxSerialLength = 64

// maxShadows leaves filters of a connection, of which AWS IoT allows 50, to others: a shadow takes
// six.
const maxShadows = 6

// maxSocket is the longest path of a Unix socket, in bytes: a NUL is behind it (sun_path).
const maxSocket = len(syscall.RawSockaddrUnix{}.Path) - 1

const (
	askForEndpoint            = `set it to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`
	askForCredentialsEndpoint = `set it to the output of "aws iot describe-endpoint --endpoint-type iot:CredentialProvider"`
)

// instead has the settings of the template's parameters that have some of their own.
var instead = map[string]string{
	"serialNumber": "serialNumber at the top of the file", "deviceLocation": "deviceLocation at the top of the file", "author": "--author",
}

// validation collects what is wrong with the merged settings. A key whose value could not be read
// is left alone: its problem is known already.
type validation struct {
	c            *Config
	known, found Problems
}

func validate(c *Config, known Problems) Problems {
	v := &validation{c, known, nil}
	v.device()
	v.server()
	v.bootstrap()
	v.agent()
	return v.found
}

func (v *validation) bad(key, remedy, what string, args ...any) {
	if !v.known.about(key) {
		p := v.c.problem(key, fmt.Sprintf(what, args...), remedy)
		p.Origin = cmp.Or(p.Origin, Origin{Source: v.c.Path}) // which lacks the key
		v.found = append(v.found, p)
	}
}

// check reports the first rule that a key breaks; what goes behind the key.
func (v *validation) check(broken bool, key, remedy, what string, args ...any) {
	if broken && !v.found.about(key) {
		v.bad(key, remedy, key+" "+what, args...)
	}
}

func (v *validation) device() {
	serial, thing := v.c.SerialNumber, v.c.ThingName
	v.check(serial == "" && v.c.SerialNumberFrom == SerialNumberFrom{}, "serialNumber",
		`add the device's serial number, as in serialNumber: "2974685", or serialNumberFrom`, "is missing")
	v.check(len(serial) > maxSerialLength, "serialNumber", fmt.Sprintf("use %d at most", maxSerialLength), "has %d characters", len(serial))
	v.check(serial != "" && !awsiot.ThingNames.Valid(serial), "serialNumber",
		fmt.Sprintf("use only a-z A-Z 0-9 : _ -, %d characters at most", maxSerialLength), "%q cannot be part of a thing name", serial)
	v.check(v.c.DeviceLocation == "", "deviceLocation", `add where the device is, as in deviceLocation: "USA"`, "is missing")
	if thing != "" && serial != "" {
		// Only the names of our own template are known; with another one AWS's answer decides.
		v.check(v.c.Bootstrap.ProvisioningTemplate == DefaultTemplate && !strings.HasSuffix(thing, serial), "thingname",
			fmt.Sprintf("set it to %q, or remove it", thingNamePrefix+serial),
			"%q does not end with serialNumber %q, as the names that %s gives do", thing, serial, DefaultTemplate)
		v.check(!awsiot.ThingNames.Valid(thing), "thingname", "use "+awsiot.ThingNames.String()+", or remove it", "%q is not a name that AWS IoT allows", thing)
	}
}

func (v *validation) server() {
	endpoint, kind := v.c.Server.Endpoint, awsiot.ParseEndpoint(v.c.Server.Endpoint).Kind
	_, _, withoutPort := net.SplitHostPort(endpoint)
	v.check(endpoint == "", endpointKey, askForEndpoint, "is missing")
	v.check(isPlaceholder(endpoint), endpointKey, askForEndpoint, "%q is still the placeholder of the example", endpoint)
	v.check(strings.Contains(endpoint, "://"), endpointKey, "give the host name alone", "%q has a scheme", endpoint)
	v.check(withoutPort == nil, endpointKey, "give the host name alone, and the port as server.port", "%q has a port", endpoint)
	v.check(net.ParseIP(endpoint) == nil && strings.Contains(endpoint, ":") || !fitsDNS(endpoint) || strings.ContainsFunc(endpoint, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/@?#%\"'<>[]{}`, r) }),
		endpointKey, askForEndpoint, "%q is not a host name", endpoint)
	v.check(kind == awsiot.EndpointVPC, endpointKey, "have the private DNS of the VPC resolve the account's own endpoint to it, and "+askForEndpoint,
		"%q is the %s, which AWS IoT's certificate does not cover", endpoint, kind)
	v.check(!kind.MQTT() && kind != awsiot.EndpointOtherAWS, // others may be a virtual machine with an emulator
		endpointKey, askForEndpoint, "%q is the %s, which does not accept MQTT", endpoint, kind)
	v.check(v.c.Server.Port < 1 || v.c.Server.Port > 65535, "server.port", "use 8883, or 443 where only that is open", "%d is not a port", v.c.Server.Port)
	v.hostPort(credentialsKey, v.c.Server.CredentialsEndpoint, awsiot.EndpointCredentials, askForCredentialsEndpoint)
	v.check(v.c.Server.Proxy != "" && v.c.Server.Proxy != NoProxy && !isProxy(v.c.Server.Proxy),
		proxyKey, "write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, or direct for none",
		"is not the address of an HTTP proxy") // which may hold a password, so it is not shown
}

// isProxy holds a proxy's address to what a connection accepts; see [session.Options].
func isProxy(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(cmp.Or(u.Port(), "443"), 10, 16)
	return err == nil && u.Hostname() != "" && (u.Scheme == "http" || u.Scheme == "https") && (u.Path == "" || u.Path == "/") && u.RawQuery == "" && u.Fragment == ""
}

// hostPort checks an optional HOST or HOST:PORT that, in AWS, is of that kind.
func (v *validation) hostPort(key, value string, want awsiot.EndpointKind, remedy string) {
	host, port := splitHostPort(value)
	kind := awsiot.ParseEndpoint(host).Kind
	v.check(value != "" && (host == "" || port == 0 || !fitsDNS(host) || isPlaceholder(host) || strings.ContainsAny(host, "/ @")),
		key, remedy, "%q is not HOST or HOST:PORT", value)
	v.check(value != "" && kind != want && kind != awsiot.EndpointOther, key, remedy, "%q is the %s", host, kind)
}

func (v *validation) bootstrap() {
	b := v.c.Bootstrap
	v.check(!awsiot.TemplateNames.Valid(b.ProvisioningTemplate), "bootstrap.provisioningTemplate",
		"use "+awsiot.TemplateNames.String()+"; the CDK app creates "+DefaultTemplate, "%q is not the name of a template", b.ProvisioningTemplate)
	v.check(b.Keys != KeysDevice && b.Keys != KeysService && b.Keys.hardware() == "", "bootstrap.keys",
		"use device (the key is made here), service (AWS IoT makes it), tpm, or a PKCS #11 URI", "%q is unknown", string(b.Keys))
	if _, err := b.Keys.store(""); err != nil {
		v.bad("bootstrap.keys", "write tpm, tpm:PATH or pkcs11:token=LABEL?module-path=PATH", "bootstrap.keys: %v", err)
	}
	v.check(b.Afterwards != AfterwardsKeep && b.Afterwards != AfterwardsRemove, "bootstrap.afterwards",
		"use keep, or remove to remove the claim's key once the identity is verified", "%q is unknown", string(b.Afterwards))
	for _, name := range slices.Sorted(maps.Keys(b.Parameters)) {
		if setting := instead[name]; setting != "" {
			v.bad(parametersKey, "use "+setting+" instead", "template parameter %q is set in %s", name, parametersKey)
		} else if name == "" || strings.HasPrefix(name, "AWS::") {
			v.bad(parametersKey, "remove it", "template parameter %q cannot be sent by a device", name)
		}
	}
	for i, claim := range b.Claims {
		if claim.CertificatePath == "" || claim.PrivateKeyPath == "" {
			v.bad(claimsKey, "write it as "+formOf(reflect.TypeFor[Paths]()), "claim %d of %s lacks a path", i+1, claimsKey)
		}
	}
}

func (v *validation) agent() {
	socket, tunnel, shadows := v.c.Agent.Socket, v.c.Agent.Tunnel, v.c.Agent.Shadows
	v.check(len(socket) > maxSocket, "agent.socket", fmt.Sprintf("use one of %d at most, as in /run/iot_device/api.sock", maxSocket), "is a path of %d bytes", len(socket))
	for _, name := range slices.Sorted(maps.Keys(tunnel.Services)) {
		if !awsiot.TunnelServices.Valid(name) {
			v.bad(servicesKey, "use only a-z A-Z 0-9 : _ -, 128 characters at most", "service %q is not a name that AWS IoT allows", name)
		}
		if _, ok := serviceAddress(tunnel.Services[name]); !ok {
			v.bad(servicesKey, "set it to a port of this device, as in {SSH: 22}",
				"service %q is at %q, which is neither a port nor HOST:PORT", name, tunnel.Services[name])
		}
	}
	v.hostPort("agent.tunnel.endpoint", tunnel.Endpoint, awsiot.EndpointTunneling, "remove it: it follows from the Region")
	own := v.c.Identity()
	files := own.Files(v.c.ExpectedThingName())
	taken := append(own.Reserved, files.Certificate, files.PrivateKey, files.Record, v.c.Agent.Jobs.PublicKey, v.c.SerialNumberFrom.File, v.c.SerialNumberFrom.Program)
	for i, s := range shadows {
		if at := slices.IndexFunc(taken, func(path string) bool {
			return path != "" && s.File != "" && osfile.Locate(path).Same(osfile.Locate(s.File))
		}); at >= 0 {
			v.bad(shadowsKey, "choose another file", "shadow %q would replace %s, which another setting or the identity has, as %s", s.Name, s.File, taken[at])
		}
		taken = append(taken, s.File, s.Program)
		if s.Name != "" && !awsiot.ShadowNames.Valid(s.Name) {
			v.bad(shadowsKey, "use "+awsiot.ShadowNames.String()+", or no name for the classic shadow", "shadow %q is not a name that AWS IoT allows", s.Name)
		} else if slices.ContainsFunc(shadows[:i], func(other Shadow) bool { return other.Name == s.Name }) {
			v.bad(shadowsKey, "keep one", "shadow %q is there twice", s.Name)
		}
	}
	if jobs := v.c.Agent.Jobs; jobs.Downloads != "" {
		folder := osfile.Locate(jobs.Downloads)
		for _, dir := range []string{jobs.Handlers, v.c.StateDir} {
			if dir != "" {
				taken = append(taken, filepath.Join(dir, "*"))
			}
		}
		for _, path := range taken {
			v.check(path != "" && osfile.Locate(path).In(folder), downloadsKey, "choose a folder without files of other settings, such as one of its own in stateDir",
				"%q is a folder where a job could replace %s", jobs.Downloads, path)
		}
	}
	if n := len(shadows); n > maxShadows {
		v.bad(shadowsKey, fmt.Sprintf("use %d at most: AWS IoT bounds the subscriptions of a connection", maxShadows), "%d shadows", n)
	}
}

// fitsDNS reports whether a name server can be asked for a name (RFC 1035, 2.3.4).
func fitsDNS(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return net.ParseIP(name) != nil
		}
	}
	return len(name) <= 253
}

// isPlaceholder recognizes xxxx-ats.iot.REGION.amazonaws.com, your-endpoint-ats… and the like. Real
// endpoints are in lower case, and no account's prefix is a row of x or has a hyphen; a custom
// domain may be x.example.com.
func isPlaceholder(endpoint string) bool {
	labels := strings.Split(endpoint, ".")
	prefix := strings.TrimSuffix(strings.ToLower(labels[0]), "-ats")
	kind := awsiot.ParseEndpoint(endpoint).Kind
	return strings.ContainsAny(endpoint, "<$") || strings.Contains(endpoint, "YOUR") || strings.Contains(endpoint, "EXAMPLE") ||
		kind != awsiot.EndpointOther && (strings.Trim(prefix, "x") == "" || slices.ContainsFunc(labels, func(l string) bool { return strings.EqualFold(l, "region") })) ||
		(kind == awsiot.EndpointData || kind == awsiot.EndpointLegacyData) && strings.ContainsAny(prefix, "-_")
}

// A Problem is one thing that is wrong with the configuration.
type Problem struct {
	Origin  Origin
	Key     string // "server.endpoint"; empty when no single key is at fault
	What    string // what is wrong, and why
	Remedy  string // what to do about it
	Machine bool   // set where this machine keeps a file from being read (permission, I/O error), and the configuration may be right
}

// Error returns the problem in one line: where, what, and what to do.
func (p Problem) Error() string {
	text := strings.TrimPrefix(p.Origin.String()+": "+p.What, ": ")
	return strings.TrimSuffix(text+"; "+p.Remedy, "; ")
}

// String returns FILE:LINE:COLUMN, or as much of it as is known.
func (o Origin) String() string {
	if o.Line == 0 {
		return o.Source
	}
	return fmt.Sprintf("%s:%d:%d", o.Source, o.Line, o.Column)
}

// Problems are all problems of a configuration, in the order of the file.
type Problems []Problem

// Error returns one line for each problem.
func (p Problems) Error() string { return errors.Join(p.Unwrap()...).Error() }

// Class is Misconfigured, or Failed where all problems are those of the machine.
func (p Problems) Class() awsiot.Class {
	if slices.ContainsFunc(p, func(p Problem) bool { return !p.Machine }) {
		return awsiot.Misconfigured
	}
	return awsiot.Failed
}

// Unwrap returns the problems one by one, each of type [Problem].
func (p Problems) Unwrap() []error {
	errs := make([]error, len(p))
	for i, problem := range p {
		errs[i] = problem
	}
	return errs
}

// Join returns the problems of several checks as one error: nil when there are none, and the errors
// as they are when one is not of type [Problems].
func Join(errs ...error) error {
	var all Problems
	for _, err := range errs {
		problems, ok := errors.AsType[Problems](err)
		if err != nil && !ok {
			return errors.Join(errs...)
		}
		all = append(all, problems...)
	}
	return all.err()
}

// err makes sure that no problems are a nil error.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

func (p Problems) about(key string) bool {
	return slices.ContainsFunc(p, func(p Problem) bool { return p.Key == key })
}
