package devicecli

import (
	"encoding/json"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/config"
)

func sample(change func(*exported)) *exported {
	e := &exported{
		server: config.Server{
			Endpoint: "abc-ats.iot.eu-central-1.amazonaws.com", Port: 8883,
			CredentialsEndpoint: "abc.credentials.iot.eu-central-1.amazonaws.com",
		},
		files: identity.Files{Certificate: `/a "b" it's/c.pem`, PrivateKey: "/k/$HOME `id`\\n.key"},
		thing: "fleety_1", region: "eu-central-1", roleAlias: "device", roots: "/ä/#x: y.pem",
	}
	if change != nil {
		change(e)
	}
	return e
}

func TestExportedVariablesAreEvaluatedByTheShell(t *testing.T) {
	e := sample(nil)
	text, err := exportEnv(e)
	if err != nil {
		t.Fatal(err)
	}
	script := `eval "$1"; printf '%s\n' "$AWS_IOT_ENDPOINT" "$AWS_IOT_PORT" "$AWS_IOT_THING_NAME" "$AWS_IOT_CERTIFICATE" "$AWS_IOT_PRIVATE_KEY" "$AWS_IOT_ROOT_CA" "$AWS_IOT_CREDENTIALS_ENDPOINT"`
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", text).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{e.server.Endpoint, "8883", e.thing, e.files.Certificate, e.files.PrivateKey, e.roots, e.server.CredentialsEndpoint, ""}
	if diff := cmp.Diff(want, strings.Split(string(out), "\n")); diff != "" {
		t.Error(diff)
	}
}

// https://github.com/awslabs/aws-iot-device-client/blob/main/docs/CONFIG.md
func TestDeviceClientIsGivenWhatItsConfigurationHas(t *testing.T) {
	e := sample(nil)
	text, err := exportDeviceClient(e)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"endpoint": e.server.Endpoint, "cert": e.files.Certificate, "key": e.files.PrivateKey, "root-ca": e.roots, "thing-name": e.thing,
		"fleet-provisioning": map[string]any{"enabled": false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	warned := sample(func(e *exported) { e.server.Port, e.files.Certificate = 1, "/etc/passwd" }) // /etc is open to all
	if _, err := exportDeviceClient(warned); err != nil || len(warned.warnings) != 2 {
		t.Errorf("warnings %q, %v", warned.warnings, err)
	}
}

// https://github.com/aws-greengrass/aws-greengrass-lite/blob/main/docs/examples/sample_nucleus_config.yaml
func TestGreengrassIsGivenWhatItsConfigurationHas(t *testing.T) {
	e := sample(nil)
	text, err := exportGreengrassLite(e)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		System   map[string]string
		Services map[string]struct{ Configuration map[string]any }
	}
	if err := yaml.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := cmp.Diff(map[string]string{
		"privateKeyPath": e.files.PrivateKey, "certificateFilePath": e.files.Certificate, "rootCaPath": e.roots, "rootPath": "/var/lib/greengrass", "thingName": e.thing,
	}, got.System); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{
		"awsRegion": e.region, "iotCredEndpoint": e.server.CredentialsEndpoint, "iotDataEndpoint": e.server.Endpoint, "iotRoleAlias": e.roleAlias,
		"runWithDefault": map[string]any{"posixUser": "gg_component:gg_component"}, "greengrassDataPlanePort": "8443",
	}, got.Services["aws.greengrass.NucleusLite"].Configuration); diff != "" {
		t.Error(diff)
	}
	for what, change := range map[string]func(*exported){
		"no role alias":           func(e *exported) { e.roleAlias = "" },
		"a role alias of a space": func(e *exported) { e.roleAlias = "a b" },
		"no credentials endpoint": func(e *exported) { e.server.CredentialsEndpoint = "" },
		"no Region":               func(e *exported) { e.region = "" },
	} {
		if _, err := exportGreengrassLite(sample(change)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestBridgeUsesALPNOnPort443Alone(t *testing.T) {
	for port, want := range map[int]bool{443: true, 8883: false} {
		text, err := exportMosquitto(sample(func(e *exported) { e.server.Port = port }))
		if err != nil || strings.Contains(text, "\nbridge_alpn x-amzn-mqtt-ca\n") != want {
			t.Errorf("port %d: %v\n%s", port, err, text)
		}
	}
}

func TestExportSaysWhatAProgramCanDoWithAKeyInHardware(t *testing.T) {
	type result struct {
		failed   bool
		warnings int
	}
	want := map[string]map[string]result{
		"tpm":    {"mosquitto": {true, 0}, "aws-iot-device-client": {true, 0}, "greengrass-lite": {true, 0}, "env": {false, 1}},
		"pkcs11": {"mosquitto": {true, 0}, "aws-iot-device-client": {true, 0}, "greengrass-lite": {false, 1}, "env": {false, 1}},
	}
	for hardware, formats := range want {
		if diff := cmp.Diff(slices.Sorted(maps.Keys(exports)), slices.Sorted(maps.Keys(formats))); diff != "" {
			t.Error(diff)
		}
		for format, want := range formats {
			e := sample(func(e *exported) { e.hardware, e.tokenURI = hardware, "pkcs11:token=fleet;object=key" })
			text, err := exports[format](e)
			if got := (result{err != nil, len(e.warnings)}); got != want || strings.Contains(text, "pkcs11:") != (hardware == "pkcs11" && format == "greengrass-lite") {
				t.Errorf("%s, %s: %+v, %v\n%s", hardware, format, got, err, text)
			}
		}
	}
}
