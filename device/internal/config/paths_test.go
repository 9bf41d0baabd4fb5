package config_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/hook/payload"
)

func TestRelativePathsStartWhereTheyAreWritten(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "etc/device.yaml", good+"stateDir: state\nbootstrap: {certificatepath: a/claim.pem, cacertificatepath: /roots.pem}\n")
	got, err := config.Load(t.Context(), config.Sources{
		Path:    "etc/device.yaml",
		Environ: []string{"IOT_DEVICE_PRIMARY_CERTIFICATEPATH=own.pem"},
		Flags:   []config.Setting{{Key: "primary.privatekeypath", Value: "./own.key", Flag: "--set"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b := got.Bootstrap
	paths := []string{got.StateDir, b.CertificatePath, b.PrivateKeyPath, b.CACertificatePath, got.Primary.CertificatePath, got.Primary.PrivateKeyPath}
	want := []string{"etc/state", "etc/a/claim.pem", "etc/certs/fleet-provisioning.private.key", "/roots.pem", "own.pem", "own.key"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

func TestUnknownVariableOfTheDeviceIsAWarning(t *testing.T) {
	c, err := load(t, good, config.Sources{Environ: []string{
		"IOT_DEVICE_SERVER_ENDPONT=x", "IOT_DEVICE_SOMETHING_ELSE=y", "IOT_DEVICE_EMPTY=", "IOT_DEVICE_PKCS11_PIN=1234", "IOT_DEVICELESS=z", "IOT_DEVICE_SERVER_PORT=443",
		"IOT_DEVICE_SERIAL=1", "IOT_DEVICE_ENDPOINT=x",
	}})
	want := []string{
		"environment variable IOT_DEVICE_SERVER_ENDPONT is no setting and is ignored; did you mean IOT_DEVICE_SERVER_ENDPOINT?",
		"environment variable IOT_DEVICE_SOMETHING_ELSE is no setting and is ignored",
		"environment variable IOT_DEVICE_SERIAL is no setting and is ignored; did you mean IOT_DEVICE_SERIALNUMBER?",
		"environment variable IOT_DEVICE_ENDPOINT is no setting and is ignored; did you mean IOT_DEVICE_SERVER_ENDPOINT?",
	}
	if err != nil || !slices.Equal(c.Warnings, want) {
		t.Errorf("error %v, warnings:\n%s", err, cmp.Diff(want, c.Warnings))
	}
}

// net/http says nothing of a proxy whose address it cannot read, and connects without.
func TestProxyOfTheEnvironmentThatCannotBeReadIsAWarning(t *testing.T) {
	for pair, want := range map[string]int{
		"HTTPS_PROXY=http://me:hun%ter2@proxy:3128": 1, "https_proxy=http://me:hun%@proxy:3128": 1,
		"HTTPS_PROXY=http://me:hun%25ter2@proxy:3128": 0, "HTTPS_PROXY=proxy:3128": 0, "HTTPS_PROXY=192.0.2.1:3128": 0, "HTTPS_PROXY=": 0, "HTTP_PROXY=%": 0,
	} {
		c, err := load(t, good, config.Sources{Environ: []string{pair}})
		if err != nil || len(c.Warnings) != want || strings.Contains(strings.Join(c.Warnings, ""), "ter2") {
			t.Errorf("%s: error %v, warnings %q", pair, err, c.Warnings)
		}
	}
}

func TestBlankVariableOfTheDeviceIsUnset(t *testing.T) {
	c, err := load(t, good, config.Sources{Environ: []string{
		"IOT_DEVICE_SERVER_ENDPOINT= ", "IOT_DEVICE_SERVER_PORT=\t", "IOT_DEVICE_SERIALNUMBER=\r", "IOT_DEVICE_STATEDIR=", "IOT_DEVICE_BOOTSTRAP_EAGER= ", "IOT_DEVICE_X= ",
	}})
	if want, _ := load(t, good, config.Sources{}); err != nil || len(c.Warnings) > 0 || !c.Equal(want) {
		t.Errorf("error %v, %+v", err, c)
	}
}

// Editors of other systems write these at the start of a file.
func TestByteOrderMarks(t *testing.T) {
	if c, err := load(t, "\ufeff"+good, config.Sources{}); err != nil || c.SerialNumber != "2974685" {
		t.Errorf("with a mark: %v", err)
	}
	for name, order := range map[string]func(uint16) []byte{
		"little endian": func(u uint16) []byte { return []byte{byte(u), byte(u >> 8)} },
		"big endian":    func(u uint16) []byte { return []byte{byte(u >> 8), byte(u)} },
	} {
		for _, mark := range []string{"\ufeff", ""} {
			var doc strings.Builder
			for _, u := range utf16.Encode([]rune(mark + good)) {
				doc.Write(order(u))
			}
			if _, err := load(t, doc.String(), config.Sources{}); err == nil || !strings.Contains(err.Error(), "UTF-16") {
				t.Errorf("%s, mark %q: %v", name, mark, err)
			}
		}
	}
}

func TestParameterNamesMayBeNumbers(t *testing.T) {
	if _, err := load(t, good+"bootstrap:\n  parameters: {7: seven, 1.5: x, true: y}\n", config.Sources{}); err == nil {
		t.Fatal("true is not text and passed")
	}
	c, err := load(t, good+"bootstrap:\n  parameters: {7: seven, 1.5: x}\n", config.Sources{})
	if diff := cmp.Diff(map[string]string{"7": "seven", "1.5": "x"}, c.Bootstrap.Parameters); diff != "" || err != nil {
		t.Errorf("error %v, parameters (-want +got):\n%s", err, diff)
	}
}

func TestParametersOfTheEnvironment(t *testing.T) {
	for value, want := range map[string]map[string]string{
		`floor=3,room=7`:                 {"floor": "3", "room": "7"},
		`address=Main St 1\, Berlin,a=b`: {"address": "Main St 1, Berlin", "a": "b"},
		`path=C:\dir\\,a=b=c`:            {"path": `C:\dir\`, "a": "b=c"},
		`{"address": "Main St 1, Berlin", "floor": 3.10, "open": true}`: {"address": "Main St 1, Berlin", "floor": "3.10", "open": "true"},
		`{"floor": [3]}`:  nil,
		`{"floor": 3} {}`: nil,
		`floor`:           nil,
		`floor=3,Berlin`:  nil,
		`{"floor": "3"`:   nil,
		`a=1,=2`:          nil,
	} {
		t.Run(value, func(t *testing.T) {
			c, err := load(t, good, config.Sources{Environ: []string{"IOT_DEVICE_BOOTSTRAP_PARAMETERS=" + value}})
			if (err != nil) != (want == nil) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, c.Bootstrap.Parameters); diff != "" && want != nil {
				t.Errorf("parameters (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSettingsOfOtherKindsAreErrors(t *testing.T) {
	for _, setting := range []string{"socket: [x]", "sockets: x", "rotateAfter: 90d", "rotateAfter: -1h", "rotateAfter: 1s", "outbox: {maxBytes: 64MB}", "outbox: {maxBytes: -1}", "outbox: {maxBytes: 9999999999GiB}", "outbox: {maxAge: 0s}", "outbox: {maxage: true}", "outbox: 7", "defender: {interval: 4m}", "defender: 5m"} {
		if _, err := load(t, good+"agent: {"+setting+"}\n", config.Sources{}); awsiot.ClassOf(err) != awsiot.Misconfigured {
			t.Errorf("agent: %s: %v", setting, err)
		}
	}
	for _, keys := range []string{"tpm?pcrs=24", "tpm?pcrs=x", "tpm?bank=sha1", "tpmrm0", "pkcs11:token=x", "pkcs11:token=x?module-path=/m&pin-value=1"} {
		if _, err := load(t, good+"bootstrap: {keys: '"+keys+"'}\n", config.Sources{}); awsiot.ClassOf(err) != awsiot.Misconfigured {
			t.Errorf("%s: %v", keys, err)
		}
	}
	for _, setting := range []string{"bootstrap: {keys: tpm}", "bootstrap: {keys: 'tpm:/dev/tpm0?pcrs=0,7'}", "bootstrap: {afterwards: keep, eager: true}", "bootstrap: {afterwards: remove}"} {
		if _, err := load(t, good+setting+"\n", config.Sources{}); err != nil {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

func TestEndpointsThatDoNotSpeakMQTTAreProblems(t *testing.T) {
	for endpoint, want := range map[string]bool{
		"abc123-ats.iot.eu-central-1.amazonaws.com":               false,
		"abc123-ats.iot.eu-central-1.api.aws":                     false,
		"abc123.ats.iot.cn-north-1.amazonaws.com.cn":              false,
		"ec2-192-0-2-1.compute-1.amazonaws.com":                   false,
		"abc123.iot.eu-central-1.amazonaws.com":                   false, // a warning
		"abc123.credentials.iot.eu-central-1.amazonaws.com":       true,
		"abc123.jobs.iot.eu-central-1.amazonaws.com":              true,
		"iot.eu-central-1.amazonaws.com":                          true,
		"vpce-0123-abcd.data.iot.eu-central-1.vpce.amazonaws.com": true,
		"eu-central-1.console.aws.amazon.com":                     true,
	} {
		c, err := load(t, strings.Replace(good, "abc123-ats.iot.eu-central-1.amazonaws.com", endpoint, 1), config.Sources{})
		if (err != nil) != want {
			t.Errorf("%s: %v", endpoint, err)
		}
		if legacy := strings.HasPrefix(endpoint, "abc123.iot."); legacy && len(c.Warnings) != 1 {
			t.Errorf("%s: warnings %q", endpoint, c.Warnings)
		}
	}
	if c, err := load(t, strings.Replace(good, "abc123-ats.iot.eu-central-1.amazonaws.com", "192.0.2.1", 1), config.Sources{}); err != nil || len(c.Warnings) != 1 {
		t.Errorf("an address: %v", err)
	}
}

func TestPasswordOfAProxyInAFileThatOthersReadIsAWarning(t *testing.T) {
	doc := strings.Replace(good, "port: 8883", `proxy: "http://me:hunter2@proxy:3128"`, 1)
	if c, err := load(t, doc, config.Sources{}); err != nil || len(c.Warnings) > 0 {
		t.Fatalf("mode 0600: %v", err)
	}
	if err := os.Chmod("device.yaml", 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(t.Context(), config.Sources{Path: "device.yaml"})
	if err != nil || len(c.Warnings) != 1 || strings.Contains(c.Warnings[0], "hunter2") {
		t.Errorf("mode 0644: error %v, warnings %v", err, c.Warnings)
	}
}

func TestConfigurationIsLookedForInTwoPlaces(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := os.Stat(config.SystemPath); err == nil {
		t.Skipf("this machine has a %s", config.SystemPath)
	}
	if _, err := config.Load(t.Context(), config.Sources{}); err == nil || !strings.Contains(err.Error(), config.SystemPath) || !strings.Contains(err.Error(), config.DefaultPath) {
		t.Errorf("without one: %v", err)
	}
	write(t, config.DefaultPath, good)
	if c, err := config.Load(t.Context(), config.Sources{}); err != nil || c.Path != config.DefaultPath {
		t.Errorf("with one here: %v", err)
	}
}

// The hook reads the parameters by these names.
func TestParametersAreNamedAsTheHookReadsThem(t *testing.T) {
	c, err := load(t, good+"author: Ada\n", config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{payload.SerialNumber: "2974685", payload.DeviceLocation: "USA", payload.Author: "Ada"}
	if diff := cmp.Diff(want, c.TemplateParameters()); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
	if _, err := load(t, strings.Replace(good, "2974685", strings.Repeat("1", payload.MaxSerialLength), 1), config.Sources{}); err != nil {
		t.Errorf("the longest serial number: %v", err)
	}
}

// A program without PKCS #11 does not call an identity damaged whose key is in a token.
func TestKeyInATokenIsUnavailableAndNotDamaged(t *testing.T) {
	c, err := load(t, good, config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	text := "-----BEGIN PKCS11 KEY URI-----\n" +
		base64.StdEncoding.EncodeToString([]byte("pkcs11:token=x;id=%01?module-path=/m")) + "\n-----END PKCS11 KEY URI-----\n"
	if _, err := c.Identity().Keys.Open([]byte(text)); !errors.Is(err, identity.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAllowedJobOperationsAreAList(t *testing.T) {
	for text, want := range map[string][]string{
		"[reboot.sh, rotate]":   {"reboot.sh", "rotate"},
		`["a,b", c]`:            {"a,b", "c"},
		"reboot.sh, rotate":     {"reboot.sh", "rotate"},
		"\n      - reboot.sh\n": {"reboot.sh"},
		"[]":                    nil,
		"":                      nil,
		"[{a: b}]":              {"error"},
		"{a: b}":                {"error"},
		"[true]":                {"error"},
	} {
		c, err := load(t, good+"agent:\n  jobs:\n    handlers: handlers\n    allow: "+text+"\n", config.Sources{})
		if problem := len(want) > 0 && want[0] == "error"; problem != (err != nil) {
			t.Errorf("%s: %v", text, err)
		} else if !problem && (!slices.Equal(c.Agent.Jobs.Allow, want) || filepath.Base(c.Agent.Jobs.Handlers) != "handlers") {
			t.Errorf("%s: got %+v", text, c.Agent.Jobs)
		}
	}
}

// A path that the system has no room for is found when the configuration is read, wherever it is
// written, and not when the agent listens or a program asks it.
func TestPathOfTheSocketHasALimit(t *testing.T) {
	most := len(syscall.RawSockaddrUnix{}.Path) - 1
	fits, long := "/"+strings.Repeat("x", most-1), "/"+strings.Repeat("x", most)
	for place, sources := range map[string]config.Sources{
		"device.yaml:4:17": {},
		"environment variable IOT_DEVICE_AGENT_SOCKET": {Environ: []string{"IOT_DEVICE_AGENT_SOCKET=" + long}},
		"--set": {Flags: []config.Setting{{Key: "agent.socket", Value: long, Flag: "--set"}}},
	} {
		file := good + "agent: {socket: " + long + "}\n"
		_, err := load(t, file, sources)
		if want := fmt.Sprintf("%s: agent.socket is a path of %d bytes; use one of %d at most, as in /run/iot_device/api.sock", place, most+1, most); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	for _, socket := range []string{fits, "a.sock"} {
		if _, err := load(t, good+"agent: {socket: "+socket+"}\n", config.Sources{}); err != nil {
			t.Error(err)
		}
	}
}
