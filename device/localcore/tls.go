package localcore

import (
	"crypto/tls"
	"fmt"
)

// A SecurityPolicy says which versions of TLS the server speaks. The names are
// AWS's.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/transport-security.html
type SecurityPolicy string

// The security policies that AWS offers everywhere. Two older ones are rejected:
// they exist in some Regions only, with other ciphers on port 443 than on 8883.
const (
	SecurityPolicyTLS13Or12 SecurityPolicy = "IoTSecurityPolicy_TLS13_1_2_2022_10" // TLS 1.2 and 1.3; the default
	SecurityPolicyTLS13     SecurityPolicy = "IoTSecurityPolicy_TLS13_1_3_2022_10" // TLS 1.3 only
	SecurityPolicyTLS12     SecurityPolicy = "IoTSecurityPolicy_TLS12_1_2_2022_10" // TLS 1.2 only
)

// versions returns the least and the greatest version of TLS.
func (p SecurityPolicy) versions() (least, most uint16, err error) {
	switch p {
	case SecurityPolicyTLS13Or12:
		return tls.VersionTLS12, tls.VersionTLS13, nil
	case SecurityPolicyTLS13:
		return tls.VersionTLS13, tls.VersionTLS13, nil
	case SecurityPolicyTLS12:
		return tls.VersionTLS12, tls.VersionTLS12, nil
	case "IoTSecurityPolicy_TLS12_1_0_2016_01", "IoTSecurityPolicy_TLS12_1_0_2015_01":
		return 0, 0, fmt.Errorf("security policy %s: AWS offers it in some Regions only, with other ciphers on port 443 than on 8883, which is not imitated; the nearest one is %s", p, SecurityPolicyTLS12)
	}
	return 0, 0, fmt.Errorf("security policy %q: must be %s, %s or %s", p, SecurityPolicyTLS13Or12, SecurityPolicyTLS13, SecurityPolicyTLS12)
}
