package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"example.com/fleety/hook/payload"
)

// templateName is what AWS IoT allows as the name of a provisioning template.
var templateName = regexp.MustCompile(`^[0-9A-Za-z_-]{1,36}$`)

// thingName is what AWS IoT allows as the name of a thing.
var thingName = regexp.MustCompile(`^[a-zA-Z0-9:_-]{1,128}$`)

// legacyEndpoint is an endpoint of type iot:Data, without -ats.
// https://docs.aws.amazon.com/iot/latest/developerguide/iot-connect-devices.html
var legacyEndpoint = regexp.MustCompile(`^[a-z0-9]+\.iot\.[a-z0-9-]+\.amazonaws\.com(\.cn)?$`)

// validation collects what is wrong with the merged settings. A key whose value
// could not be read is left alone: its problem is known already.
type validation struct {
	c     *Config
	known Problems
	found Problems
}

func (v *validation) bad(key, what, remedy string) {
	if !v.known.about(key) {
		v.found = append(v.found, Problem{Origin: v.c.origins[key], Key: key, What: what, Remedy: remedy})
	}
}

func validate(c *Config, known Problems) Problems {
	v := &validation{c: c, known: known}
	v.identity()
	v.endpoint()
	v.proxy()
	v.bootstrap()
	v.parameters()
	v.primary()
	return v.found
}

func (v *validation) identity() {
	c := v.c
	switch {
	case c.SerialNumber == "":
		v.bad("serialNumber", "serialNumber is missing", `add the device's serial number, as in serialNumber: "2974685"`)
	case !thingName.MatchString(c.SerialNumber):
		// Anything else would make a thing name, and with it a file name and
		// an MQTT topic, that AWS IoT does not allow.
		v.bad("serialNumber", fmt.Sprintf("serialNumber %q cannot stand in a thing name", c.SerialNumber), "use only a-z A-Z 0-9 : _ -, 64 characters at most")
	case len(c.SerialNumber) > payload.MaxSerialLength:
		v.bad("serialNumber", fmt.Sprintf("serialNumber has %d characters", len(c.SerialNumber)), fmt.Sprintf("use %d at most", payload.MaxSerialLength))
	}
	if c.DeviceLocation == "" {
		v.bad("deviceLocation", "deviceLocation is missing", `add where the device is, as in deviceLocation: "USA"`)
	}
	v.thingName()
}

// thingName finds a wrong thingname before anything is made. Only our own
// template's way of naming is known; with another one AWS's answer decides.
func (v *validation) thingName() {
	c := v.c
	if c.ThingName == "" || c.SerialNumber == "" {
		return
	}
	want := ThingNamePrefix + c.SerialNumber
	if c.Bootstrap.ProvisioningTemplate == DefaultTemplate && c.ThingName != want {
		v.bad("thingname", fmt.Sprintf("thingname %q is not what the template %s makes of serialNumber %q", c.ThingName, DefaultTemplate, c.SerialNumber),
			fmt.Sprintf("set it to %q, or remove it", want))
	} else if !thingName.MatchString(c.ThingName) {
		v.bad("thingname", fmt.Sprintf("thingname %q is not a name that AWS IoT allows", c.ThingName), "use only a-z A-Z 0-9 : _ -, 128 characters at most, or remove it")
	}
}

const askForEndpoint = `put in what "aws iot describe-endpoint --endpoint-type iot:Data-ATS" prints`

func (v *validation) endpoint() {
	const key = "server.endpoint"
	endpoint := v.c.Server.Endpoint
	switch {
	case endpoint == "":
		v.bad(key, "server.endpoint is missing", askForEndpoint)
	case isPlaceholder(endpoint):
		v.bad(key, fmt.Sprintf("server.endpoint %q is still the placeholder of the example", endpoint), askForEndpoint)
	case strings.Contains(endpoint, "://"):
		v.bad(key, fmt.Sprintf("server.endpoint %q has a scheme", endpoint), "give the host name alone")
	case net.ParseIP(endpoint) == nil && strings.Contains(endpoint, ":"):
		v.bad(key, fmt.Sprintf("server.endpoint %q has a port", endpoint), "give the host name alone, and the port as server.port")
	case strings.ContainsAny(endpoint, "/ @?#%\\\"'<>[]{}") || strings.ContainsFunc(endpoint, func(r rune) bool { return r < ' ' || r > '~' }):
		v.bad(key, fmt.Sprintf("server.endpoint %q is not a host name", endpoint), askForEndpoint)
	}
	if port := v.c.Server.Port; port < 1 || port > 65535 {
		v.bad("server.port", fmt.Sprintf("server.port %d is not a port", port), "use 8883, or 443 where only that is open")
	}
}

// isPlaceholder recognises xxxx-ats.iot.REGION.amazonaws.com and its kin. Real
// endpoints are in lower case, and no account's prefix is a row of x.
func isPlaceholder(endpoint string) bool {
	first, _, _ := strings.Cut(endpoint, ".")
	prefix := strings.ToLower(strings.TrimSuffix(first, "-ats"))
	return strings.Contains(endpoint, "REGION") || strings.Contains(endpoint, "<") ||
		strings.Contains(endpoint, "YOUR") || (prefix != "" && strings.Trim(prefix, "x") == "")
}

func (v *validation) proxy() {
	if v.c.Server.Proxy == "" || v.c.Server.Proxy == NoProxy {
		return
	}
	u, err := url.Parse(v.c.Server.Proxy)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		// The value may hold a password, so it is not shown.
		v.bad("server.proxy", "server.proxy is not the address of an HTTP proxy", "write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, or direct for none")
	}
}

func (v *validation) bootstrap() {
	b := v.c.Bootstrap
	if !templateName.MatchString(b.ProvisioningTemplate) {
		v.bad("bootstrap.provisioningTemplate", fmt.Sprintf("bootstrap.provisioningTemplate %q is not the name of a template", b.ProvisioningTemplate),
			"use 1 to 36 of 0-9 A-Z a-z _ -; the CDK app makes "+DefaultTemplate)
	}
	if b.Keys != KeysDevice && b.Keys != KeysService {
		v.bad("bootstrap.keys", fmt.Sprintf("bootstrap.keys %q is unknown", string(b.Keys)),
			"use device (the key is made here) or service (AWS IoT makes it)")
	}
}

func (v *validation) parameters() {
	const key = "bootstrap.parameters"
	reserved := map[string]string{
		payload.SerialNumber:   "serialNumber at the top of the file",
		payload.DeviceLocation: "deviceLocation at the top of the file",
		payload.Author:         "--author",
	}
	for _, name := range slices.Sorted(maps.Keys(v.c.Bootstrap.Parameters)) {
		switch instead := reserved[name]; {
		case instead != "":
			v.bad(key, fmt.Sprintf("template parameter %q is set in %s", name, key), "use "+instead+" instead")
		case name == "" || strings.HasPrefix(name, "AWS::"):
			v.bad(key, fmt.Sprintf("template parameter %q cannot be sent by a device", name), "remove it")
		}
	}
}

func (v *validation) primary() {
	p := v.c.Primary
	if p.CertificatePath != "" && p.CertificatePath == p.PrivateKeyPath {
		v.bad("primary.privatekeypath", "primary.certificatepath and primary.privatekeypath name one file", "give each its own")
	}
	for _, own := range []struct{ key, path string }{
		{"primary.certificatepath", p.CertificatePath},
		{"primary.privatekeypath", p.PrivateKeyPath},
	} {
		b := v.c.Bootstrap
		if own.path != "" && slices.Contains([]string{b.CertificatePath, b.PrivateKeyPath, b.CACertificatePath}, own.path) {
			v.bad(own.key, fmt.Sprintf("%s %q is a file of the claim, which is never overwritten", own.key, own.path), "name another file")
		}
	}
}
