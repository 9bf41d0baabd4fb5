package awsiot

import "strings"

// An EndpointKind is the purpose of a host name that AWS serves, as a noun phrase for messages.
type EndpointKind string

// The kinds of endpoints.
const (
	EndpointOther        EndpointKind = ""                                     // not a host name of AWS: an emulator, a custom domain, an address
	EndpointData         EndpointKind = "data endpoint"                        // devices: MQTT and HTTPS, certificate of Amazon Trust Services (iot:Data-ATS)
	EndpointLegacyData   EndpointKind = "legacy data endpoint (iot:Data)"      // devices, certificate of a root that is no longer trusted
	EndpointCredentials  EndpointKind = "endpoint of the credentials provider" // iot:CredentialProvider; HTTPS only
	EndpointJobs         EndpointKind = "endpoint of the jobs data plane"      // iot:Jobs; HTTPS only
	EndpointTunneling    EndpointKind = "endpoint of secure tunneling"
	EndpointControlPlane EndpointKind = "endpoint of the control plane" // for operators; HTTPS only
	EndpointVPC          EndpointKind = "name of a VPC endpoint"        // of an interface endpoint; AWS IoT's certificate does not cover it
	EndpointConsole      EndpointKind = "address of the AWS console"    // a web page
	EndpointOtherAWS     EndpointKind = "endpoint of another AWS service"
)

// MQTT reports whether devices can speak MQTT there, as far as the name shows. An endpoint outside
// of AWS may.
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

// domains are the suffixes of AWS's host names, those of dual-stack endpoints included.
var domains = []string{
	".amazonaws.com", ".api.aws",
	".amazonaws.com.cn", ".api.amazonwebservices.com.cn",
	".amazonaws.eu", ".api.amazonwebservices.eu",
	".c2s.ic.gov", ".sc2s.sgov.gov", ".cloud.adc-e.uk", ".csp.hci.ic.gov",
}

// consoles are the host names of the AWS console, with their partitions; a Region may stand before
// them.
var consoles = map[string]string{
	"console.aws.amazon.com": "aws", "console.amazonaws.cn": "aws-cn", "console.amazonaws-us-gov.com": "aws-us-gov",
}

// ParseEndpoint reads a host name, in any case and with or without a final dot. A port or a scheme
// is not understood. It knows the names of every partition, FIPS and dual-stack names included.
//
// AWS pages: https://docs.aws.amazon.com/iot/latest/developerguide/connect-to-iot.html,
// https://docs.aws.amazon.com/iot/latest/developerguide/iot-connect-fips.html,
// https://docs.aws.amazon.com/iot/latest/apireference/API_DomainConfigurationSummary.html
func ParseEndpoint(host string) Endpoint {
	e := Endpoint{Host: strings.TrimSuffix(strings.ToLower(host), ".")}
	for domain, partition := range consoles {
		if before, ok := strings.CutSuffix("."+e.Host, "."+domain); ok {
			e.Kind, e.Region, e.Partition = EndpointConsole, strings.TrimPrefix(before, "."), partition
			return e
		}
	}
	for _, domain := range domains {
		if name, ok := strings.CutSuffix(e.Host, domain); ok && name != "" {
			e.parseLabels(strings.Split(name, "."))
		}
	}
	return e
}

// parseLabels reads the labels before the domain: PREFIX-ats.iot.REGION and the like.
func (e *Endpoint) parseLabels(labels []string) {
	pop := func() (last string) {
		if n := len(labels); n > 0 {
			last, labels = labels[n-1], labels[:n-1]
		}
		return last
	}
	e.Kind = EndpointOtherAWS
	service := pop()
	if service == "vpce" {
		e.Kind = EndpointVPC
		service = pop()
	}
	if strings.Count(service, "-") >= 2 {
		e.Region = service
		service = pop()
	}
	e.Partition = PartitionOf(e.Region)
	if e.Kind == EndpointVPC || service != "iot" && service != "iot-fips" {
		return
	}
	name := pop()
	kind, known := map[string]EndpointKind{
		"": EndpointControlPlane, "credentials": EndpointCredentials, "jobs": EndpointJobs, "tunneling": EndpointTunneling,
		"ats": EndpointData, // PREFIX.ats.iot in the Regions of China
	}[name]
	switch {
	case known:
		e.Kind = kind
	case strings.HasSuffix(name, "-ats"), service == "iot-fips",
		len(labels) == 0 && strings.HasPrefix(name, "d") && name != "data": // an AWS-managed domain; accounts' own prefixes begin with a
		e.Kind = EndpointData
	case len(labels) == 0:
		e.Kind = EndpointLegacyData
	}
}
