package localcore_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"example.com/fleety/device/localcore"
	"example.com/fleety/hook/payload"
)

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html:
// AWS's own device SDK provisions by claim, unchanged.
//
// The AWS IoT Device SDK for JavaScript, unmodified, takes a device in by
// claim, with both of its identity clients and both flows. The device then
// connects with what it got and publishes.
func TestAWSDeviceSDKComesIn(t *testing.T) {
	const sdk = "testdata/awssdk"
	if _, err := os.Stat(filepath.Join(sdk, "node_modules", "aws-iot-device-sdk-v2")); err != nil {
		missing(t, "the npm package aws-iot-device-sdk-v2", "npm ci --ignore-scripts in "+sdk)
	}
	if _, err := exec.LookPath("node"); err != nil {
		missing(t, "node", "Node.js 20 or later")
	}
	s := start(t, localcore.Config{Templates: templates, HookFunc: admitAll})
	for _, protocol := range []string{"mqtt311", "mqtt5"} {
		for flow, withCSR := range map[string]bool{"key made by the service": false, "key made by the device": true} {
			t.Run(protocol+", "+flow, func(t *testing.T) {
				claim := s.Claim()
				host, port := s.Endpoint()
				const serial = "2974685"
				work := map[string]any{
					"protocol": protocol, "endpoint": host, "port": port, "root": string(s.RootPEM()),
					"certificate": string(claim.CertificatePEM), "key": string(claim.PrivateKeyPEM), "template": localcore.TemplateName,
					"parameters": map[string]string{payload.SerialNumber: serial, payload.DeviceLocation: "USA"},
				}
				if withCSR {
					csr, key := newCSR(t)
					work["csr"], work["csrKey"] = csr, string(key)
				}
				result := provisionWithSDK(t, sdk, work)
				if result.ThingName != "fleety_"+serial || result.DeviceConfiguration["LocationUrl"] == "" {
					t.Errorf("the SDK got %+v", result)
				}
				if _, err := s.AwaitEvent(within(t), func(e localcore.Event) bool {
					return e.Type == localcore.Published && e.CertificateID == result.CertificateID && e.Topic == "fleet/"+result.ThingName
				}); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// An sdkResult is what the SDK made of the answers.
type sdkResult struct {
	CertificateID       string
	ThingName           string
	DeviceConfiguration map[string]string
}

func provisionWithSDK(t *testing.T, dir string, work any) (r sdkResult) {
	t.Helper()
	input, err := json.Marshal(work)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "provision.js")
	cmd.Dir, cmd.Stdin, cmd.Stderr = dir, bytes.NewReader(input), t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	return r
}

// missing skips a test that needs something installed. In CI it must be there.
func missing(t *testing.T, what, remedy string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing; install it: %s", what, remedy)
	}
	t.Skipf("%s is missing; install it: %s", what, remedy)
}
