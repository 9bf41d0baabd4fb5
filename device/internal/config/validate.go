package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
)

// maxSerialLength is the longest serial number, in characters, so that a thing name has room for a
// prefix.
const maxSerialLength = 64

// maxShadows leaves filters of a connection, of which AWS IoT allows 50, to others: a shadow takes
// six.
const maxShadows = 6

// validation collects what is wrong with the merged settings. A key whose value could not be read
// is left alone: its problem is known already.
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
	v.hostPort(credentialsKey, c.Server.CredentialsEndpoint, awsiot.EndpointCredentials, askForCredentialsEndpoint)
	v.proxy()
	v.bootstrap()
	v.parameters()
	v.tunnel()
	v.shadows()
	v.claims()
	return v.found
}

func (v *validation) identity() {
	c := v.c
	switch {
	case c.SerialNumber == "" && c.SerialNumberFrom == SerialNumberFrom{}:
		v.bad("serialNumber", "serialNumber is missing", `add the device's serial number, as in serialNumber: "2974685", or serialNumberFrom`)
	case c.SerialNumber == "": // its place was reported
	case len(c.SerialNumber) > maxSerialLength:
		v.bad("serialNumber", fmt.Sprintf("serialNumber has %d characters", len(c.SerialNumber)), fmt.Sprintf("use %d at most", maxSerialLength))
	case !awsiot.ValidThingName(c.SerialNumber):
		// Anything else would make a thing name, and with it a file name and an MQTT topic, that
		// AWS IoT does not allow.
		v.bad("serialNumber", fmt.Sprintf("serialNumber %q cannot be part of a thing name", c.SerialNumber), fmt.Sprintf("use only a-z A-Z 0-9 : _ -, %d characters at most", maxSerialLength))
	}
	if c.DeviceLocation == "" {
		v.bad("deviceLocation", "deviceLocation is missing", `add where the device is, as in deviceLocation: "USA"`)
	}
	v.thingName()
}

// thingName finds a wrong thingname before anything is made. Only our own template's way of naming
// is known, a prefix and the serial number; with another template AWS's answer decides.
func (v *validation) thingName() {
	c := v.c
	switch {
	case c.ThingName == "" || c.SerialNumber == "":
	case c.Bootstrap.ProvisioningTemplate == DefaultTemplate && !strings.HasSuffix(c.ThingName, c.SerialNumber):
		v.bad("thingname", fmt.Sprintf("thingname %q does not end with serialNumber %q, as the names that %s gives do", c.ThingName, c.SerialNumber, DefaultTemplate),
			fmt.Sprintf("set it to %q, or remove it", thingNamePrefix+c.SerialNumber))
	case !awsiot.ValidThingName(c.ThingName):
		v.bad("thingname", fmt.Sprintf("thingname %q is not a name that AWS IoT allows", c.ThingName), "use "+awsiot.ThingNameRule+", or remove it")
	}
}

const askForEndpoint = `set it to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`

func (v *validation) endpoint() {
	const key = "server.endpoint"
	endpoint := v.c.Server.Endpoint
	switch kind := awsiot.ParseEndpoint(endpoint).Kind; {
	case endpoint == "":
		v.bad(key, "server.endpoint is missing", askForEndpoint)
	case isPlaceholder(endpoint):
		v.bad(key, fmt.Sprintf("server.endpoint %q is still the placeholder of the example", endpoint), askForEndpoint)
	case strings.Contains(endpoint, "://"):
		v.bad(key, fmt.Sprintf("server.endpoint %q has a scheme", endpoint), "give the host name alone")
	case net.ParseIP(endpoint) == nil && strings.Contains(endpoint, ":"):
		v.bad(key, fmt.Sprintf("server.endpoint %q has a port", endpoint), "give the host name alone, and the port as server.port")
	case strings.ContainsAny(endpoint, "/ @?#%\\\"'<>[]{}") || strings.ContainsFunc(endpoint, func(r rune) bool { return r < ' ' || r > '~' }) || !fitsDNS(endpoint):
		v.bad(key, fmt.Sprintf("server.endpoint %q is not a host name", endpoint), askForEndpoint)
	case kind == awsiot.EndpointVPC:
		v.bad(key, fmt.Sprintf("server.endpoint %q is the %s, which AWS IoT's certificate does not cover", endpoint, kind),
			"have the private DNS of the VPC resolve the account's own endpoint to it, and "+askForEndpoint)
	case !kind.MQTT() && kind != awsiot.EndpointOtherAWS: // others may be a virtual machine with an emulator
		v.bad(key, fmt.Sprintf("server.endpoint %q is the %s, which does not accept MQTT", endpoint, kind), askForEndpoint)
	}
	if port := v.c.Server.Port; port < 1 || port > 65535 {
		v.bad("server.port", fmt.Sprintf("server.port %d is not a port", port), "use 8883, or 443 where only that is open")
	}
}

const askForCredentialsEndpoint = `set it to the output of "aws iot describe-endpoint --endpoint-type iot:CredentialProvider"`

// hostPort checks an optional HOST or HOST:PORT that, in AWS, is of that kind.
func (v *validation) hostPort(key, value string, want awsiot.EndpointKind, remedy string) {
	host, port := splitHostPort(value)
	switch kind := awsiot.ParseEndpoint(host).Kind; {
	case value == "":
	case host == "" || port == 0 || !fitsDNS(host) || isPlaceholder(host) || strings.ContainsAny(host, "/ @"):
		v.bad(key, fmt.Sprintf("%s %q is not HOST or HOST:PORT", key, value), remedy)
	case kind != want && kind != awsiot.EndpointOther:
		v.bad(key, fmt.Sprintf("%s %q is the %s", key, host, kind), remedy)
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
// endpoints are in lower case, and no account's prefix is a row of x or has a hyphen.
func isPlaceholder(endpoint string) bool {
	labels := strings.Split(endpoint, ".")
	prefix := strings.TrimSuffix(strings.ToLower(labels[0]), "-ats")
	data := awsiot.ParseEndpoint(endpoint).Kind
	return strings.ContainsAny(endpoint, "<$") || strings.Contains(endpoint, "YOUR") || strings.Contains(endpoint, "EXAMPLE") ||
		slices.ContainsFunc(labels, func(l string) bool { return strings.EqualFold(l, "region") }) ||
		(prefix != "" && strings.Trim(prefix, "x") == "") ||
		(data == awsiot.EndpointData || data == awsiot.EndpointLegacyData) && strings.ContainsAny(prefix, "-_")
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

// hasPassword reports whether a proxy's address has a password.
func hasPassword(proxy string) bool {
	u, err := url.Parse(proxy)
	if err != nil || u.User == nil {
		return false
	}
	_, has := u.User.Password()
	return has
}

func (v *validation) bootstrap() {
	b := v.c.Bootstrap
	if !awsiot.ValidTemplateName(b.ProvisioningTemplate) {
		v.bad("bootstrap.provisioningTemplate", fmt.Sprintf("bootstrap.provisioningTemplate %q is not the name of a template", b.ProvisioningTemplate),
			"use "+awsiot.TemplateNameRule+"; the CDK app creates "+DefaultTemplate)
	}
	switch _, err := b.Keys.store(); {
	case b.Keys == KeysDevice || b.Keys == KeysService:
	case b.Keys.hardware() == "":
		v.bad("bootstrap.keys", fmt.Sprintf("bootstrap.keys %q is unknown", string(b.Keys)),
			"use device (the key is made here), service (AWS IoT makes it), tpm, or a PKCS #11 URI")
	case err != nil:
		v.bad("bootstrap.keys", fmt.Sprintf("bootstrap.keys: %v", err), "write tpm, tpm:PATH or pkcs11:token=LABEL?module-path=PATH")
	}
	if b.Afterwards != AfterwardsKeep && b.Afterwards != AfterwardsRemove {
		v.bad("bootstrap.afterwards", fmt.Sprintf("bootstrap.afterwards %q is unknown", string(b.Afterwards)), "use keep, or remove to remove the claim's key once the identity is verified")
	}
}

func (v *validation) parameters() {
	const key = parametersKey
	reserved := map[string]string{
		parameterSerialNumber:   "serialNumber at the top of the file",
		parameterDeviceLocation: "deviceLocation at the top of the file",
		parameterAuthor:         "--author",
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

func (v *validation) shadows() {
	names := map[string]bool{}
	for _, s := range v.c.Agent.Shadows {
		switch {
		case s.Name != "" && !awsiot.ValidShadowName(s.Name):
			v.bad(shadowsKey, fmt.Sprintf("shadow %q is not a name that AWS IoT allows", s.Name), "use "+awsiot.ShadowNameRule+", or no name for the classic shadow")
		case names[s.Name]:
			v.bad(shadowsKey, fmt.Sprintf("shadow %q is there twice", s.Name), "keep one")
		}
		names[s.Name] = true
	}
	if n := len(v.c.Agent.Shadows); n > maxShadows {
		v.bad(shadowsKey, fmt.Sprintf("%d shadows", n), fmt.Sprintf("use %d at most: AWS IoT bounds the subscriptions of a connection", maxShadows))
	}
}

func (v *validation) claims() {
	for i, claim := range v.c.Bootstrap.Claims {
		if claim.CertificatePath == "" || claim.PrivateKeyPath == "" {
			v.bad(claimsKey, fmt.Sprintf("claim %d of %s lacks a path", i+1, claimsKey), "write it as "+formOf(reflect.TypeFor[Claim]()))
		}
	}
}

func (v *validation) tunnel() {
	t := v.c.Agent.Tunnel
	for _, name := range slices.Sorted(maps.Keys(t.Services)) {
		if !awsiot.ValidTunnelService(name) {
			v.bad(servicesKey, fmt.Sprintf("service %q is not a name that AWS IoT allows", name), "use only a-z A-Z 0-9 : _ -, 128 characters at most")
		}
		if _, ok := serviceAddress(t.Services[name]); !ok {
			v.bad(servicesKey, fmt.Sprintf("service %q is at %q, which is neither a port nor HOST:PORT", name, t.Services[name]), "set it to a port of this device, as in {SSH: 22}")
		}
	}
	v.hostPort("agent.tunnel.endpoint", t.Endpoint, awsiot.EndpointTunneling, "remove it: it follows from the Region")
}
