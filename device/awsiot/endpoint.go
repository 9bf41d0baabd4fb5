package awsiot

import (
	"net/netip"
	"strings"
)

// An EndpointKind is the purpose of a host name that AWS serves.
type EndpointKind int

// The kinds of endpoints.
const (
	EndpointOther        EndpointKind = iota // not a host name of AWS: an emulator, a custom domain, an address
	EndpointData                             // devices: MQTT and HTTPS, certificate of Amazon Trust Services (iot:Data-ATS)
	EndpointLegacyData                       // devices, certificate of a root that is no longer trusted (iot:Data)
	EndpointCredentials                      // the credentials provider (iot:CredentialProvider); HTTPS only
	EndpointJobs                             // the jobs data plane (iot:Jobs); HTTPS only
	EndpointTunneling                        // secure tunneling
	EndpointControlPlane                     // the control plane, for operators; HTTPS only
	EndpointVPC                              // the own name of an interface VPC endpoint, which AWS IoT's certificate does not cover
	EndpointConsole                          // the AWS console, a web page
	EndpointOtherAWS                         // another host name of AWS
)

// String returns the kind as a noun phrase for messages.
func (k EndpointKind) String() string {
	switch k {
	case EndpointData:
		return "data endpoint"
	case EndpointLegacyData:
		return "legacy data endpoint (iot:Data)"
	case EndpointCredentials:
		return "endpoint of the credentials provider"
	case EndpointJobs:
		return "endpoint of the jobs data plane"
	case EndpointTunneling:
		return "endpoint of secure tunneling"
	case EndpointControlPlane:
		return "endpoint of the control plane"
	case EndpointVPC:
		return "name of a VPC endpoint"
	case EndpointConsole:
		return "address of the AWS console"
	case EndpointOtherAWS:
		return "endpoint of another AWS service"
	}
	return "endpoint outside of AWS"
}

// MQTT reports whether devices can speak MQTT there, as far as the name shows.
// An endpoint outside of AWS may.
func (k EndpointKind) MQTT() bool {
	return k == EndpointData || k == EndpointLegacyData || k == EndpointOther
}

// An Endpoint is what the host name of a server says about it.
type Endpoint struct {
	Host      string // lower case, without a final dot
	Kind      EndpointKind
	Region    string // empty outside of AWS, or where the name has none
	Partition string // "aws", "aws-cn" and so on; empty outside of AWS
}

// AWS reports whether AWS serves the host.
func (e Endpoint) AWS() bool { return e.Kind != EndpointOther }

// domains are the suffixes of AWS's host names, those of dual-stack endpoints
// included.
var domains = []string{
	".amazonaws.com", ".api.aws",
	".amazonaws.com.cn", ".api.amazonwebservices.com.cn",
	".amazonaws.eu", ".api.amazonwebservices.eu",
	".c2s.ic.gov", ".sc2s.sgov.gov", ".cloud.adc-e.uk", ".csp.hci.ic.gov",
}

// ParseEndpoint reads a host name, in any case and with or without a final
// dot. A port or a scheme is not understood. It knows the names of every
// partition, FIPS and dual-stack names included.
//
// AWS pages: https://docs.aws.amazon.com/iot/latest/developerguide/connect-to-iot.html,
// https://docs.aws.amazon.com/iot/latest/developerguide/iot-connect-fips.html
func ParseEndpoint(host string) Endpoint {
	e := Endpoint{Host: strings.TrimSuffix(strings.ToLower(host), ".")}
	if _, err := netip.ParseAddr(strings.Trim(e.Host, "[]")); err == nil {
		return e
	}
	if e.parseConsole() {
		return e
	}
	for _, domain := range domains {
		if name, ok := strings.CutSuffix(e.Host, domain); ok && name != "" {
			e.Kind = EndpointOtherAWS
			e.parseService(strings.Split(name, "."))
			return e
		}
	}
	return e
}

// parseService reads the labels before the domain: PREFIX-ats.iot.REGION and
// the like.
func (e *Endpoint) parseService(labels []string) {
	last := len(labels) - 1
	if labels[last] == "vpce" {
		e.Kind = EndpointVPC
		last--
	}
	if last >= 0 && strings.Count(labels[last], "-") >= 2 {
		e.Region = labels[last]
		last--
	}
	e.Partition = PartitionOf(e.Region)
	if e.Kind == EndpointVPC || last < 0 {
		return
	}
	service := strings.TrimSuffix(labels[last], "-fips")
	if service != "iot" {
		return
	}
	switch before := labels[:last]; {
	case len(before) == 0:
		e.Kind = EndpointControlPlane
	case before[len(before)-1] == "credentials" || before[0] == "data" && before[len(before)-1] == "credentials":
		e.Kind = EndpointCredentials
	case before[len(before)-1] == "jobs":
		e.Kind = EndpointJobs
	case before[len(before)-1] == "tunneling":
		e.Kind = EndpointTunneling
	case before[len(before)-1] == "ats", strings.HasSuffix(before[0], "-ats"), strings.HasSuffix(labels[last], "-fips"):
		e.Kind = EndpointData // PREFIX.ats.iot in the Regions of China
	case len(before) == 1:
		e.Kind = EndpointLegacyData
	}
}

// consoles are the host names of the AWS console; a Region may stand before
// them.
var consoles = map[string]string{
	"console.aws.amazon.com": "aws", "console.amazonaws.cn": "aws-cn", "console.amazonaws-us-gov.com": "aws-us-gov",
}

func (e *Endpoint) parseConsole() bool {
	for domain, partition := range consoles {
		if before, ok := strings.CutSuffix("."+e.Host, "."+domain); ok {
			e.Kind, e.Region, e.Partition = EndpointConsole, strings.TrimPrefix(before, "."), partition
			return true
		}
	}
	return false
}
