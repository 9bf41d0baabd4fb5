package localcore_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

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

// A heldConn keeps what is written to it while held is set.
type heldConn struct {
	net.Conn
	held *bytes.Buffer
}

func (c *heldConn) Write(p []byte) (int, error) {
	if c.held != nil {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

func TestEndOfTLSIsAnsweredUnlessItCameWithDISCONNECT(t *testing.T) {
	t.Parallel()
	s := start(t, localcore.Config{})
	_, port := s.Endpoint()
	for name, ended := range map[string]bool{"DISCONNECT": false, "DISCONNECT and close_notify": true} {
		raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		c := &heldConn{Conn: raw}
		conn := tls.Client(c, claimTLS(t, s))
		client := &rawClient{t, conn, bufio.NewReader(conn), 4}
		client.connect("claim-device")
		c.held = new(bytes.Buffer)
		client.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
		if ended {
			_ = conn.CloseWrite()
		}
		_ = raw.SetDeadline(time.Now().Add(time.Minute)) // CloseWrite has set one
		if _, err := raw.Write(c.held.Bytes()); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(raw)
		if err != nil || (len(answer) > 0) == ended {
			t.Errorf("%s: the server answered % x, %v", name, answer, err)
		}
	}
}
