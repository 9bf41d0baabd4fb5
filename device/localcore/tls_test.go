package localcore_test

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore"
)

// https://docs.aws.amazon.com/iot/latest/developerguide/transport-security.html:
// A security policy says which versions of TLS are spoken; unless another is chosen, these are 1.2
// and 1.3.
func TestSecurityPolicySaysWhichVersionsOfTLSAreSpoken(t *testing.T) {
	t.Parallel()
	const v11, v12, v13 = tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13
	for name, test := range map[string]struct {
		policy localcore.SecurityPolicy
		want   map[uint16]bool
	}{
		"default":                             {"", map[uint16]bool{v11: false, v12: true, v13: true}},
		"IoTSecurityPolicy_TLS13_1_2_2022_10": {localcore.SecurityPolicyTLS13Or12, map[uint16]bool{v11: false, v12: true, v13: true}},
		"IoTSecurityPolicy_TLS13_1_3_2022_10": {localcore.SecurityPolicyTLS13, map[uint16]bool{v11: false, v12: false, v13: true}},
		"IoTSecurityPolicy_TLS12_1_2_2022_10": {localcore.SecurityPolicyTLS12, map[uint16]bool{v11: false, v12: true, v13: false}},
	} {
		t.Run(name, func(t *testing.T) {
			s := startFree(t, localcore.Config{SecurityPolicy: test.policy})
			got := map[uint16]bool{}
			for version := range test.want {
				got[version] = speaks(t, s, version)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("versions that are spoken (-want +got):\n%s", diff)
			}
		})
	}
}

// speaks reports whether the server goes through with a handshake in this version. Else it must say
// that it is for the version.
func speaks(t *testing.T, s free, version uint16) bool {
	t.Helper()
	config := s.tls.Clone()
	config.MinVersion, config.MaxVersion = version, version
	_, port := s.Endpoint()
	conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), config)
	if err == nil {
		conn.Close()
		return true
	}
	if !strings.Contains(err.Error(), "protocol version not supported") {
		t.Errorf("%s: rejected, but not for its version: %v", tls.VersionName(version), err)
	}
	return false
}

func TestUnknownSecurityPoliciesAreRejected(t *testing.T) {
	t.Parallel()
	for _, policy := range []localcore.SecurityPolicy{
		"IoTSecurityPolicy_TLS12_1_0_2016_01", "IoTSecurityPolicy_TLS12_1_0_2015_01", "TLS13_1_2_2022_10",
	} {
		t.Run(string(policy), func(t *testing.T) {
			s, err := localcore.Start(t.Context(), localcore.Config{SecurityPolicy: policy})
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), string(policy)) {
				t.Errorf("error %v, want one that names the policy", err)
			}
		})
	}
}
