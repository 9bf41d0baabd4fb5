package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"example.com/fleety/device/internal/config"
)

// good is a file without problems; tests change it.
const good = `serialNumber: "2974685"
deviceLocation: "USA"
server: {port: 8883, endpoint: abc123-ats.iot.eu-central-1.amazonaws.com}
`

// load writes doc to device.yaml and loads it from there, so that problems begin with
// "device.yaml".
func load(t *testing.T, doc string, s config.Sources) (*config.Config, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("device.yaml", []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Path = "device.yaml"
	return config.Load(t.Context(), s)
}

func TestLoadReadsEveryKeyOfTheDocumentedFile(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "example-config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	filled := strings.NewReplacer("xxxx-ats.iot.REGION", "abc123-ats.iot.eu-central-1", "# thingname:", "thingname:",
		"# primary:", "primary:", "#   certificatepath: certs/", "  certificatepath: certs/", "#   privatekeypath: certs/", "  privatekeypath: certs/",
	).Replace(string(doc))
	got, err := load(t, filled, config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		SerialNumber:   "2974685",
		DeviceLocation: "USA",
		License:        "Apache 2.0",
		ThingName:      "fleety_2974685",
		Path:           "device.yaml",
		StateDir:       "certs",
		Server:         config.Server{Endpoint: "abc123-ats.iot.eu-central-1.amazonaws.com", Port: 8883},
		Bootstrap: config.Bootstrap{
			PrivateKeyPath:       "certs/fleet-provisioning.private.key",
			CertificatePath:      "certs/fleet-provisioning.certificate.pem",
			CACertificatePath:    "certs/root.ca.bundle.pem",
			ProvisioningTemplate: "GoFleetProvisioningTemplate",
			Keys:                 config.KeysDevice,
			Afterwards:           config.AfterwardsKeep,
			Parameters:           map[string]string{},
		},
		Primary: config.Paths{
			CertificatePath: "certs/fleety_2974685.certificate.pem",
			PrivateKeyPath:  "certs/fleety_2974685.private.key",
		},
		Agent: config.Agent{Socket: "/run/iot_device/api.sock", Outbox: config.Outbox{MaxBytes: 64 << 20, MaxAge: 168 * time.Hour}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(config.Config{})); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

// Who sets the values that the example has no default for has a device of its own: no other key names
// the example's.
func TestExampleConfigurationNeedsThreeValues(t *testing.T) {
	filled := strings.NewReplacer("2974685", "2974686", "USA", "Berlin", "xxxx-ats.iot.REGION", "abc123-ats.iot.eu-central-1")
	lines := strings.Split(string(config.Example), "\n")
	for i, line := range lines {
		switch key, _, _ := strings.Cut(strings.TrimSpace(line), ":"); key {
		case "serialNumber", "deviceLocation", "endpoint":
			lines[i] = filled.Replace(line)
		}
	}
	c, err := load(t, strings.Join(lines, "\n"), config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v", *c); strings.Contains(text, "2974685") {
		t.Errorf("the configuration of 2974686 names 2974685: %s", text)
	}
}

func TestKeysAreCaseInsensitive(t *testing.T) {
	c, err := load(t, `SERIALNUMBER: "2974685"
DeviceLocation: Berlin
Server:
  EndPoint: localhost
  PORT: 443
BOOTSTRAP:
  provisioningtemplate: Other
`, config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	if c.SerialNumber != "2974685" || c.Server.Endpoint != "localhost" || c.Server.Port != 443 || c.Bootstrap.ProvisioningTemplate != "Other" {
		t.Errorf("got %+v", c)
	}
}

func TestSerialNumberWithoutQuotesKeepsItsLetters(t *testing.T) {
	for _, serial := range []string{"2974685", "00297468", "0x2974", "297468e5", "297_468", "297468.10"} {
		t.Run(serial, func(t *testing.T) {
			c, err := load(t, strings.Replace(good, `"2974685"`, serial, 1), config.Sources{})
			if strings.ContainsAny(serial, ".") {
				if err == nil {
					t.Errorf("a serial number with a dot passed: %q", c.SerialNumber)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.SerialNumber != serial {
				t.Errorf("got %q", c.SerialNumber)
			}
		})
	}
}

func TestPrecedenceIsFlagEnvironmentFileDefault(t *testing.T) {
	file := good + "bootstrap: {keys: service}\n"
	environ := []string{"IOT_DEVICE_BOOTSTRAP_KEYS=device", "IOT_DEVICE_SERVER_PORT=443", "IOT_DEVICE_SERVER_ENDPOINT=", "PATH=/bin"}
	flags := []config.Setting{{Key: "server.PORT", Value: "8884", Flag: "--set"}}
	tests := map[string]struct {
		sources  config.Sources
		wantKeys config.Keys
		wantPort int
		wantFrom string // of server.port
	}{
		"file over default":     {config.Sources{}, config.KeysService, 8883, "device.yaml:3:16"},
		"environment over file": {config.Sources{Environ: environ}, config.KeysDevice, 443, "environment variable IOT_DEVICE_SERVER_PORT"},
		"flag over environment": {config.Sources{Environ: environ, Flags: flags}, config.KeysDevice, 8884, "--set"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := load(t, file, tt.sources)
			if err != nil {
				t.Fatal(err)
			}
			if c.Bootstrap.Keys != tt.wantKeys || c.Server.Port != tt.wantPort {
				t.Errorf("got keys %s, port %d; want %s, %d", c.Bootstrap.Keys, c.Server.Port, tt.wantKeys, tt.wantPort)
			}
			if got := c.Origin("server.port").String(); got != tt.wantFrom {
				t.Errorf("server.port comes from %q, want %q", got, tt.wantFrom)
			}
			if c.Server.Endpoint != "abc123-ats.iot.eu-central-1.amazonaws.com" {
				t.Errorf("an empty variable replaced the endpoint: %q", c.Server.Endpoint)
			}
		})
	}
}

// Every key has a variable: none may be settable in the file alone.
func TestEveryKeyCanComeFromTheEnvironment(t *testing.T) {
	environ := []string{
		"IOT_DEVICE_SERIALNUMBER=2974681", "IOT_DEVICE_DEVICELOCATION=Seattle", "IOT_DEVICE_LICENSE=MIT",
		"IOT_DEVICE_THINGNAME=thing", "IOT_DEVICE_AUTHOR=Ada",
		"IOT_DEVICE_SERVER_ENDPOINT=localhost", "IOT_DEVICE_SERVER_PORT=1", "IOT_DEVICE_SERVER_PROXY=http://p:1",
		"IOT_DEVICE_SERVER_CREDENTIALSENDPOINT=localhost:8883",
		"IOT_DEVICE_BOOTSTRAP_PRIVATEKEYPATH=a", "IOT_DEVICE_BOOTSTRAP_CERTIFICATEPATH=b",
		"IOT_DEVICE_BOOTSTRAP_CACERTIFICATEPATH=c", "IOT_DEVICE_BOOTSTRAP_PROVISIONINGTEMPLATE=T",
		"IOT_DEVICE_BOOTSTRAP_KEYS=service", "IOT_DEVICE_BOOTSTRAP_PARAMETERS=floor=3, room = 7",
		"IOT_DEVICE_PRIMARY_CERTIFICATEPATH=d", "IOT_DEVICE_PRIMARY_PRIVATEKEYPATH=e",
		"IOT_DEVICE_STATEDIR=f", "IOT_DEVICE_BOOTSTRAP_AFTERWARDS=remove", "IOT_DEVICE_BOOTSTRAP_EAGER=false",
		"IOT_DEVICE_AGENT_SOCKET=g", "IOT_DEVICE_AGENT_ROTATEAFTER=1h", "IOT_DEVICE_AGENT_OUTBOX_MAXBYTES=3MiB", "IOT_DEVICE_AGENT_OUTBOX_MAXAGE=1m",
		"IOT_DEVICE_AGENT_TUNNEL_SERVICES=SSH=22", "IOT_DEVICE_AGENT_TUNNEL_ENDPOINT=localhost:1",
		"IOT_DEVICE_AGENT_JOBS_HANDLERS=h", "IOT_DEVICE_AGENT_JOBS_ALLOW=reboot.sh, rotate", "IOT_DEVICE_AGENT_JOBS_DOWNLOADS=i",
		"IOT_DEVICE_AGENT_JOBS_PUBLICKEY=j", "IOT_DEVICE_AGENT_JOBS_STEPTIMEOUT=2m",
	}
	got, err := load(t, "", config.Sources{Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Path: "device.yaml", SerialNumber: "2974681", DeviceLocation: "Seattle", License: "MIT", ThingName: "thing", Author: "Ada", StateDir: "f",
		Server: config.Server{Endpoint: "localhost", Port: 1, CredentialsEndpoint: "localhost:8883", Proxy: "http://p:1"},
		Bootstrap: config.Bootstrap{
			PrivateKeyPath: "a", CertificatePath: "b", CACertificatePath: "c", ProvisioningTemplate: "T",
			Keys: config.KeysService, Afterwards: config.AfterwardsRemove, Parameters: map[string]string{"floor": "3", "room": "7"},
		},
		Primary: config.Paths{CertificatePath: "d", PrivateKeyPath: "e"},
		Agent: config.Agent{Socket: "g", RotateAfter: time.Hour, Outbox: config.Outbox{MaxBytes: 3 << 20, MaxAge: time.Minute},
			Tunnel: config.Tunnel{Services: map[string]string{"SSH": "22"}, Endpoint: "localhost:1"},
			Jobs:   config.Jobs{Handlers: "h", Allow: []string{"reboot.sh", "rotate"}, Downloads: "i", PublicKey: "j", StepTimeout: 2 * time.Minute}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(config.Config{})); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestTemplateParametersAreThoseOfTheFileWithOurOwn(t *testing.T) {
	c, err := load(t, good+"author: Ada\nbootstrap:\n  parameters: {floor: 3, room: \"7\"}\n", config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"serialNumber": "2974685", "deviceLocation": "USA", "author": "Ada", "floor": "3", "room": "7"}
	if diff := cmp.Diff(want, c.TemplateParameters()); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
}

// A comma or a backslash separates nothing in a list of YAML.
func TestNamesOfAListKeepTheirCharacters(t *testing.T) {
	want := []string{`a\`, `b,c`, `d\,e`, `f\\g`}
	c, err := load(t, good+`agent: {jobs: {allow: ['a\', 'b,c', 'd\,e', 'f\\g']}}`, config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, c.Agent.Jobs.Allow); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// The whole line is checked: it must say where, what, and what to do.
func TestLoadReportsEachProblemInOneLine(t *testing.T) {
	tests := map[string]struct {
		doc  string
		want []string
	}{
		"bad YAML": {
			"serialNumber: [1\n",
			[]string{`device.yaml:1:15: not YAML: sequence end token ']' not found; correct the file there: the indentation, quotes and brackets, or the space behind a colon`},
		},
		"tab as indentation": {
			"server:\n\tport: 1\n",
			[]string{`device.yaml:2:1: not YAML: found a tab that cannot start any token; correct the file there: the indentation, quotes and brackets, or the space behind a colon`},
		},
		"misspelt key": {
			strings.Replace(good, "endpoint:", "endpont:", 1),
			[]string{
				`device.yaml:3:22: unknown key "endpont"; did you mean "endpoint"?`,
				`device.yaml: server.endpoint is missing; set it to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`,
			},
		},
		"misspelt section": {
			good + "bootstrp:\n  keys: device\n",
			[]string{`device.yaml:4:1: unknown key "bootstrp"; did you mean "bootstrap"?`},
		},
		"key in the wrong section": {
			good + "endpoint: localhost\n",
			[]string{`device.yaml:4:1: unknown key "endpoint"; did you mean "server.endpoint"?`},
		},
		"word of a key": {
			good + "bootstrap: {template: T}\n",
			[]string{`device.yaml:4:13: unknown key "template"; did you mean "provisioningTemplate"?`},
		},
		"key like no other": {
			good + "colour: red\n",
			[]string{`device.yaml:4:1: unknown key "colour"; remove it; "iot_device config init" writes a file with the known ones`},
		},
		"text for a number": {
			strings.Replace(good, "8883", "secure", 1),
			[]string{`device.yaml:3:16: server.port: "secure" is not a number; set it to a number`},
		},
		"list for text": {
			strings.Replace(good, `"USA"`, `[USA]`, 1),
			[]string{`device.yaml:2:17: deviceLocation must be text, not a list; correct its value`},
		},
		"true for text": {
			strings.Replace(good, `"USA"`, `yes please`, 1) + "author: true\n",
			[]string{`device.yaml:4:9: author must be text, not true or false; correct its value`},
		},
		"text for a section": {
			"serialNumber: \"2974685\"\ndeviceLocation: USA\nserver: localhost\n",
			[]string{
				`device.yaml:3:9: server must be a mapping of keys to values, not text; write it as KEY: VALUE`,
				`device.yaml: server.endpoint is missing; set it to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`,
			},
		},
		"the same key twice": {
			good + "SERIALNUMBER: \"1\"\n",
			[]string{`device.yaml:4:1: key "SERIALNUMBER" is there twice, first in line 1; keep one`},
		},
		"the same key twice, once with its section": {
			"server.port: 443\n" + good,
			[]string{`device.yaml:4:10: key "server.port" is there twice, first in line 1; keep one`},
		},
		"Latin-1": {
			strings.Replace(good, "USA", "\xdcberlingen", 1) + "bootstrap: {parameters: {floor: \xfc}}\n",
			[]string{
				`device.yaml:2:17: deviceLocation: its value is not UTF-8 text; save the file as UTF-8`,
				`device.yaml:4:33: template parameter "floor" is not UTF-8 text; save the file as UTF-8`,
			},
		},
		"two documents": {
			"---\n" + good + "---\na: 1\n",
			[]string{`device.yaml:6:1: a second YAML document; keep one document in the file`},
		},
		"empty file": {
			"",
			[]string{
				`device.yaml: serialNumber is missing; add the device's serial number, as in serialNumber: "2974685", or serialNumberFrom`,
				`device.yaml: deviceLocation is missing; add where the device is, as in deviceLocation: "USA"`,
				`device.yaml: server.endpoint is missing; set it to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`,
			},
		},
		"placeholder left in": {
			strings.Replace(good, "abc123-ats.iot.eu-central-1", "xxxx-ats.iot.REGION", 1),
			[]string{`device.yaml:3:32: server.endpoint "xxxx-ats.iot.REGION.amazonaws.com" is still the placeholder of the example; set it to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`},
		},
		"half of the placeholder left in": {
			strings.Replace(good, "abc123-ats", "xxxx-ats", 1),
			[]string{`device.yaml:3:32: server.endpoint "xxxx-ats.iot.eu-central-1.amazonaws.com" is still the placeholder of the example; set it to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`},
		},
		"endpoint with a scheme": {
			strings.Replace(good, "abc123-ats", "mqtts://abc123-ats", 1),
			[]string{`device.yaml:3:32: server.endpoint "mqtts://abc123-ats.iot.eu-central-1.amazonaws.com" has a scheme; give the host name alone`},
		},
		"endpoint with a port": {
			strings.Replace(good, "amazonaws.com", "amazonaws.com:8883", 1),
			[]string{`device.yaml:3:32: server.endpoint "abc123-ats.iot.eu-central-1.amazonaws.com:8883" has a port; give the host name alone, and the port as server.port`},
		},
		"ARN instead of the endpoint": {
			strings.Replace(good, "abc123-ats.iot.eu-central-1.amazonaws.com", `"arn:aws:iot:eu-central-1:123456789012:*"`, 1),
			[]string{`device.yaml:3:32: server.endpoint "arn:aws:iot:eu-central-1:123456789012:*" is not a host name; set it to the output of "aws iot describe-endpoint --endpoint-type iot:Data-ATS"`},
		},
		"port out of range": {
			strings.Replace(good, "8883", "70000", 1),
			[]string{`device.yaml:3:16: server.port 70000 is not a port; use 8883, or 443 where only that is open`},
		},
		"unknown flow": {
			good + "bootstrap: {keys: cloud}\n",
			[]string{`device.yaml:4:19: bootstrap.keys "cloud" is unknown; use device (the key is made here), service (AWS IoT makes it), tpm, or a PKCS #11 URI`},
		},
		"template that AWS would not name so": {
			good + "bootstrap: {provisioningTemplate: my template}\n",
			[]string{`device.yaml:4:35: bootstrap.provisioningTemplate "my template" is not the name of a template; use 1 to 36 characters of a-z A-Z 0-9 _ -; the CDK app creates GoFleetProvisioningTemplate`},
		},
		"thing name of another device": {
			good + "thingname: fleety_1\n",
			[]string{`device.yaml:4:12: thingname "fleety_1" does not end with serialNumber "2974685", as the names that GoFleetProvisioningTemplate gives do; set it to "fleety_2974685", or remove it`},
		},
		"serial number that cannot name a thing": {
			strings.Replace(good, `"2974685"`, `"../297468"`, 1),
			[]string{`device.yaml:1:15: serialNumber "../297468" cannot be part of a thing name; use only a-z A-Z 0-9 : _ -, 64 characters at most`},
		},
		"serial number that is too long": {
			strings.Replace(good, `"2974685"`, "297468"+strings.Repeat("5", 59), 1),
			[]string{`device.yaml:1:15: serialNumber has 65 characters; use 64 at most`},
		},
		"reserved template parameter": {
			good + "bootstrap:\n  parameters:\n    serialNumber: \"1\"\n    author: me\n",
			[]string{
				`device.yaml:5:3: template parameter "author" is set in bootstrap.parameters; use --author instead`,
				`device.yaml:5:3: template parameter "serialNumber" is set in bootstrap.parameters; use serialNumber at the top of the file instead`,
			},
		},
		"template parameter that is no text": {
			good + "bootstrap:\n  parameters: {floor: [3]}\n",
			[]string{`device.yaml:5:23: template parameter "floor" must be text, not a list; put its value in quotes`},
		},
		"a parameter whose name is true or false": {
			good + "bootstrap:\n  parameters: {true: \"3\"}\n",
			[]string{`device.yaml:5:16: the name of a template parameter must be text, not true or false; put it in quotes`},
		},
		"parameters that are no mapping": {
			good + "bootstrap:\n  parameters: floor\n",
			[]string{`device.yaml:5:15: bootstrap.parameters must be a mapping of names to text, not text; write it as {NAME: VALUE}`},
		},
		"mapping for text": {
			good + "author: {name: Ada}\n",
			[]string{`device.yaml:4:10: author must be text, not a mapping; correct its value`},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tt.doc, config.Sources{})
			if err == nil {
				t.Fatal("no problem found")
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEndpointNames(t *testing.T) {
	const aws = ".iot.eu-central-1.amazonaws.com"
	for endpoint, right := range map[string]bool{
		"abc123-ats" + aws: true, "ABC123-ats" + aws: true, "abc123-ats" + aws + ".": true, "localhost": true,
		"abc123.ats.iot.cn-north-1.amazonaws.com.cn": true, "data.iot-fips.us-east-1.amazonaws.com": true,
		"iot.your-company.com": true, "x.example.com": true, "mqtt.region.example.com": true, "emulator_1": true, "::1": true,
		"abc123-ats" + aws + "..": false, ".abc123-ats" + aws: false, "a..b.com": false, ".": false,
		strings.Repeat("a", 64) + ".com": false, strings.Repeat("abcdefg.", 40) + "com": false,
		"your-endpoint-ats" + aws: false, "account-specific-prefix-ats" + aws: false, "a3EXAMPLE-ats" + aws: false,
		"xxxx" + aws: false, "abc123-ats.iot.region.amazonaws.com": false, "${ENDPOINT}": false,
	} {
		_, err := load(t, good, config.Sources{Flags: []config.Setting{{Key: "server.endpoint", Value: endpoint, Flag: "--set"}}})
		if (err == nil) != right {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestTextIsReadHoweverYAMLWritesIt(t *testing.T) {
	for name, doc := range map[string]string{
		"a directive first": "%YAML 1.2\n---\n" + good + "...\n",
		"a tag":             strings.Replace(good, `"2974685"`, "!!str 2974685", 1),
		"a port in quotes":  strings.Replace(good, "8883", `"8883"`, 1),
		"a block":           strings.Replace(good, `"2974685"`, "|\n  2974685", 1),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := load(t, doc, config.Sources{})
			if err != nil {
				t.Fatal(err)
			}
			if c.SerialNumber != "2974685" || c.Server.Port != 8883 {
				t.Errorf("serial number %q, port %d", c.SerialNumber, c.Server.Port)
			}
		})
	}
}

func TestProxyPasswordIsNotShown(t *testing.T) {
	_, err := load(t, good, config.Sources{Environ: []string{"IOT_DEVICE_SERVER_PROXY=ftp://me:hunter2@proxy"}})
	if err == nil {
		t.Fatal("an FTP proxy passed")
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the password is in %q", err)
	}
}

func TestProblemsOfOtherSourcesNameThem(t *testing.T) {
	_, err := load(t, good, config.Sources{
		Environ: []string{"IOT_DEVICE_SERVER_PORT=https"},
		Flags:   []config.Setting{{Key: "server.pot", Value: "1", Flag: "--set"}, {Key: "bootstrap.parameters", Value: "a", Flag: "--set"}, {Key: "Server", Value: "localhost", Flag: "--set"}},
	})
	want := []string{
		`environment variable IOT_DEVICE_SERVER_PORT: server.port: "https" is not a number; set it to a number`,
		`--set: unknown key "pot"; did you mean "port"?`,
		`--set: bootstrap.parameters: "a" has the form neither of NAME=VALUE,NAME=VALUE (with \, for a comma in a value) nor of a JSON object; set it to a mapping of names to text`,
		`--set: "Server" is a section; set one of its keys, as in server.port=443`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestLoadNamesAFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, make([]byte, 17<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ path, want string }{
		"missing":   {filepath.Join(dir, "none.yaml"), "none.yaml: no such file or directory; name the configuration with --config"},
		"directory": {dir, "is a directory; name a YAML file with --config"},
		"too large": {large, "large.yaml: has more than 16384 bytes; name a YAML file with --config"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := config.Load(t.Context(), config.Sources{Path: tt.path})
			if c != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v; want an error with %q", c, err, tt.want)
			}
		})
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: &x [1]\nb: *x\n<<: *x\n"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Add([]byte("bootstrap: {parameters: {a: |\n  b\n}}\n"))
	f.Add([]byte("server: !!binary x\n\"port\": 0x\n"))
	f.Add([]byte("--- \n...\n%YAML 1.2\n--- a\n"))
	path := filepath.Join(f.TempDir(), "device.yaml")
	f.Fuzz(func(t *testing.T, doc []byte) {
		if err := os.WriteFile(path, doc, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(t.Context(), config.Sources{Path: path})
		if c == nil && err == nil {
			t.Fatal("neither a configuration nor an error")
		}
		if err == nil && (c.SerialNumber == "" || c.Server.Endpoint == "" || c.Server.Port < 1 || c.Server.Port > 65535) {
			t.Fatalf("%q passed as %+v", doc, c)
		}
		problems, ok := errors.AsType[config.Problems](err)
		if err != nil && !ok {
			t.Fatalf("error of type %T", err)
		}
		for _, p := range problems {
			if strings.Contains(p.Error(), "\n") {
				t.Fatalf("problem of several lines: %q", p)
			}
		}
	})
}

// What a connection would reject is a problem of the configuration, and shows no password.
func TestProxyIsCheckedAsItIsUsed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "device.yaml")
	if err := os.WriteFile(path, []byte("serialNumber: \"1\"\ndeviceLocation: USA\nserver: {endpoint: localhost}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for proxy, ok := range map[string]bool{
		"http://user:secret@proxy:99999": false, "http://user:secret@:3128": false, "http://user:secret@proxy:3128/?q": false, "http://user:secret@proxy#f": false,
		"socks5://user:secret@proxy": false, "http://user:secret%zz@proxy": false, "user:secret@proxy:3128": false, "none": false,
		"http://user:p%40ss@proxy:3128": true, "https://proxy": true, "HTTP://[::1]:1/": true, "direct": true, "": true,
	} {
		_, err := config.Load(t.Context(), config.Sources{Path: path, Flags: []config.Setting{{Key: "server.proxy", Value: proxy, Flag: "--set"}}})
		if (err == nil) != ok || err != nil && (!strings.Contains(err.Error(), "--set: server.proxy") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: %v", proxy, err)
		}
	}
}
