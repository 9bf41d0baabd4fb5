package localcore_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/localcore"
	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/hook/payload"
)

// https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html:
// AWS's own device SDK provisions by claim, unchanged.
//
// The AWS IoT Device SDK for JavaScript, unmodified, provisions a device by claim, with both of its
// identity clients and both flows. The device then connects with what it got and publishes.
func TestAWSDeviceSDKProvisions(t *testing.T) {
	t.Parallel()
	needDeviceSDK(t)
	s := start(t, localcore.Config{Templates: templates, HookFunc: allowEvery})
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
				result := runDeviceSDK[sdkResult](t, "provision.js", work)
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

const deviceSDK = "testdata/awssdk"

// needDeviceSDK skips the test where the AWS IoT Device SDK is not installed.
func needDeviceSDK(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("Node.js takes seconds for the SDK")
	}
	if _, err := os.Stat(filepath.Join(deviceSDK, "node_modules", "aws-iot-device-sdk-v2")); err != nil {
		missing(t, "the npm package aws-iot-device-sdk-v2", "npm ci --ignore-scripts in "+deviceSDK)
	}
	if _, err := exec.LookPath("node"); err != nil {
		missing(t, "node", "Node.js 20 or later")
	}
}

// runDeviceSDK runs a script of the SDK's folder and returns its result.
func runDeviceSDK[T any](t *testing.T, script string, work any) (result T) {
	t.Helper()
	input, err := json.Marshal(work)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", script)
	cmd.Dir, cmd.Stdin, cmd.Stderr = deviceSDK, bytes.NewReader(input), t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	return result
}

// https://docs.aws.amazon.com/iot/latest/developerguide/iot-sdks.html: the shadow
// and jobs clients of AWS's own device SDK work, unchanged, in both versions of MQTT.
func TestAWSDeviceSDKUsesShadowsAndJobs(t *testing.T) {
	t.Parallel()
	needDeviceSDK(t)
	for _, protocol := range []string{"mqtt311", "mqtt5"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			s := startWithThings(t, "T")
			s.createJob(t, "j", "thing/T", "")
			cert, key := selfSigned(t)
			stored, err := s.Registry().CreateCertificate(registry.Certificate{PEM: string(cert), Status: registry.Active})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Registry().AttachPolicy("own", registry.CertificateTarget(stored.ID)); err != nil {
				t.Fatal(err)
			}
			host, port := s.Endpoint()
			got := runDeviceSDK[map[string]any](t, "services.js", map[string]any{
				"protocol": protocol, "endpoint": host, "port": port, "root": string(s.RootPEM()),
				"certificate": string(cert), "key": string(key), "thing": "T",
			})
			red, blue := map[string]any{"color": "red"}, map[string]any{"color": "blue"}
			want := map[string]any{
				"missing": 404.0, "version": 1.0, "delta": red, "conflict": 409.0,
				"state":   map[string]any{"desired": red, "reported": blue, "delta": red},
				"pending": []any{"j"}, "document": map[string]any{"operation": "test"}, "mismatch": "VersionMismatch", "next": "none", "described": "ResourceNotFound",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// missing skips a test that needs something installed. In CI it must be there.
func missing(t *testing.T, what, remedy string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing; install it: %s", what, remedy)
	}
	t.Skipf("%s is missing; install it: %s", what, remedy)
}
