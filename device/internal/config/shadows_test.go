package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/internal/config"
)

const shadowsFile = `serialNumber: "1"
deviceLocation: USA
server: {endpoint: localhost}
`

func TestShadowsAreReadFromFileEnvironmentAndFlags(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "device.yaml")
	for name, tc := range map[string]struct {
		file    string
		environ []string
		want    []config.Shadow
	}{
		"file":        {"agent: {shadows: [{}, {name: config, FILE: desired.json, program: /bin/apply}]}", nil, []config.Shadow{{}, {Name: "config", File: filepath.Join(dir, "desired.json"), Program: "/bin/apply"}}},
		"block":       {"agent:\n  shadows:\n  - name: 7\n    file: /a\n", nil, []config.Shadow{{Name: "7", File: "/a"}}},
		"empty":       {"agent: {shadows: []}", nil, nil},
		"environment": {"agent: {shadows: [{name: a}]}", []string{`IOT_DEVICE_AGENT_SHADOWS=[{"name":"b","file":"c"}]`}, []config.Shadow{{Name: "b", File: "c"}}},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, shadowsFile+tc.file)
			c, err := config.Load(t.Context(), config.Sources{Path: path, Environ: tc.environ})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, c.Agent.Shadows); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWrongShadowsAreProblemsWithTheirPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device.yaml")
	for name, shadows := range map[string]string{
		"not a list":    "a",
		"mapping":       "{name: a}",
		"text":          "[a]",
		"unknown key":   "[{name: a, pragram: b}]",
		"list for text": "[{name: [a]}]",
		"key twice":     "[{name: a, Name: b}]",
		"name twice":    "[{name: a}, {name: a}]",
		"classic twice": "[{}, {file: a}]",
		"name":          "[{name: a/b}]",
		"name #":        "[{name: '#'}]",
		"long name":     "[{name: " + strings.Repeat("x", 65) + "}]",
		"too many":      "[{name: a}, {name: b}, {name: c}, {name: d}, {name: e}, {name: f}, {name: g}]",
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, shadowsFile+"agent: {shadows: "+shadows+"}")
			_, err := config.Load(t.Context(), config.Sources{Path: path})
			if problems, ok := errors.AsType[config.Problems](err); !ok || problems[0].Key != "agent.shadows" || problems[0].Origin.Line != 4 {
				t.Errorf("%+v", err)
			}
		})
	}
	write(t, path, shadowsFile)
	for _, value := range []string{"a", "{}", `[{"nome":"a"}]`, `[]x`, "[{\"name\":\"\xff\"}]", `["a"]`} {
		if _, err := config.Load(t.Context(), config.Sources{Path: path, Flags: []config.Setting{{Key: "agent.shadows", Value: value, Flag: "--set"}}}); err == nil {
			t.Errorf("%s is accepted", value)
		}
	}
}

// The desired state must replace nothing that the device needs, by whatever path.
func TestShadowsHaveFilesOfTheirOwn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "device.yaml")
	if err := os.Symlink(".", filepath.Join(dir, "linked")); err != nil {
		t.Skip(err)
	}
	for name, tc := range map[string]struct {
		agent string
		want  bool
	}{
		"another shadow's":      {"shadows: [{name: a, file: x.json}, {name: b, file: ./x.json}]", false},
		"through a link":        {"shadows: [{name: a, file: x.json}, {name: b, file: linked/x.json}]", false},
		"a program":             {"shadows: [{name: a, program: /bin/apply}, {name: b, file: /bin/apply}]", false},
		"the configuration":     {"shadows: [{file: device.yaml}]", false},
		"the claim's key":       {"shadows: [{file: linked/certs/fleet-provisioning.private.key}]", false},
		"the record":            {"shadows: [{file: certs/fleety_1.json}]", false},
		"the private key":       {"shadows: [{file: certs/fleety_1.private.key}]", false},
		"the key of downloads":  {"jobs: {publicKey: key.pem}, shadows: [{file: key.pem}]", false},
		"each its own, or none": {"shadows: [{name: a, file: x.json}, {name: b, file: y.json}, {name: c}, {name: d}]", true},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, shadowsFile+"agent: {"+tc.agent+"}")
			_, err := config.Load(t.Context(), config.Sources{Path: path})
			problems, _ := errors.AsType[config.Problems](err)
			if ok := err == nil; ok != tc.want || !ok && (len(problems) != 1 || problems[0].Key != "agent.shadows" || problems[0].Origin.Line != 4) {
				t.Errorf("%+v", err)
			}
		})
	}
}

// A job must replace nothing that the device needs with what it downloads.
func TestFolderOfDownloadsHoldsNoFileOfOthers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "device.yaml")
	if err := os.Symlink(".", filepath.Join(dir, "linked")); err != nil {
		t.Skip(err)
	}
	write(t, filepath.Join(dir, "serial", "number"), "1")
	file := "serialNumberFrom: {file: serial/number}\ndeviceLocation: USA\nserver: {endpoint: localhost}\n" +
		"stateDir: state/here\nprimary: {certificatepath: certs/c.pem, privatekeypath: certs/k.pem}\n"
	for name, tc := range map[string]struct {
		downloads string
		want      bool
	}{
		"of its own":                {"downloads", true},
		"below the identity":        {"certs/downloads", true},
		"the identity's":            {"certs", false},
		"through a link":            {"linked/certs", false},
		"that of the configuration": {".", false},
		"the root":                  {"/", false},
		"that of the public key":    {"keys", false},
		"that of the handlers":      {"handlers", false},
		"that of the serial number": {"serial", false},
		"that of the state":         {"state", false},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, file+"agent: {jobs: {handlers: handlers, publicKey: keys/a/key.pem, downloads: "+tc.downloads+"}}")
			_, err := config.Load(t.Context(), config.Sources{Path: path})
			problems, _ := errors.AsType[config.Problems](err)
			if ok := err == nil; ok != tc.want || !ok && (len(problems) != 1 || problems[0].Key != "agent.jobs.downloads" || problems[0].Origin.Line != 6) {
				t.Errorf("%+v", err)
			}
		})
	}
}
