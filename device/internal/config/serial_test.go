//go:build unix

package config_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/config"
)

// from is a file without a serial number; tests say where it comes from.
var from = strings.Replace(good, `serialNumber: "2974685"`, "serialNumberFrom: ", 1)

// program writes a shell script and returns its path.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "serial")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSerialNumberIsReadFromWhereTheConfigurationSays(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config.SetFirmware(t, map[string]string{"dmi": write("dmi", "297468-DMI\n"), "device-tree": write("tree", "297468dt\x00")})
	file := write("file", "\r\n 297468f \n\x00")
	for name, tt := range map[string]struct {
		from    string
		sources config.Sources
		want    string
	}{
		"a file":                             {from: "{file: " + file + "}", want: "297468f"},
		"a file with a byte order mark":      {from: "{file: " + write("mark", "\ufeff297468f\r\n") + "}", want: "297468f"},
		"a file, as a section":               {from: "\n  FILE: " + file, want: "297468f"},
		"a program":                          {from: "{program: " + program(t, "echo 297468p; echo noise >&2") + "}", want: "297468p"},
		"a program whose child goes on":      {from: "{program: " + program(t, "sleep 30 & echo 297468p") + "}", want: "297468p"},
		"the firmware's DMI":                 {from: "dmi", want: "297468-DMI"},
		"the device tree, which ends in NUL": {from: "device-tree", want: "297468dt"},
		"the environment, which is stronger than the file": {from: "dmi", want: "297468f",
			sources: config.Sources{Environ: []string{"IOT_DEVICE_SERIALNUMBERFROM_FILE=" + file}}},
		"a serial number that is stronger": {from: "{program: /nonexistent}", want: "2974685",
			sources: config.Sources{Environ: []string{"IOT_DEVICE_SERIALNUMBER=2974685"}}},
		"a place that is stronger than a serial number": {from: "dmi\nserialNumber: \"1\"", want: "297468dt",
			sources: config.Sources{Flags: []config.Setting{{Key: "serialNumberFrom", Value: "device-tree", Flag: "--set"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := load(t, strings.Replace(from, "From: ", "From: "+tt.from, 1), tt.sources)
			if err != nil {
				t.Fatal(err)
			}
			if c.SerialNumber != tt.want || c.TemplateParameters()["serialNumber"] != tt.want {
				t.Errorf("serial number %q, want %q", c.SerialNumber, tt.want)
			}
		})
	}
}

func TestRelativeFileOfTheSerialNumberStartsAtTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"serial": "2974685\n", "device.yaml": strings.Replace(from, "From: ", "From: {file: serial}", 1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(t.Context(), config.Sources{Path: filepath.Join(dir, "device.yaml")})
	if err != nil || c.SerialNumber != "2974685" {
		t.Errorf("%+v, %v", c, err)
	}
}

// A program of that name somewhere in $PATH is another one.
func TestRelativeProgramOfTheSerialNumberStartsAtTheConfiguration(t *testing.T) {
	t.Setenv("PATH", filepath.Dir(program(t, "echo other"))+string(filepath.ListSeparator)+os.Getenv("PATH"))
	t.Chdir(filepath.Dir(program(t, "echo 2974685")))
	if err := os.WriteFile("device.yaml", []byte(strings.Replace(from, "From: ", "From: {program: serial}", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(t.Context(), config.Sources{Path: "device.yaml"})
	if err != nil || c.SerialNumber != "2974685" {
		t.Errorf("%+v, %v", c, err)
	}
}

// The setting may be right although the program fails: it does not end with that the configuration is wrong.
func TestProgramOfTheSerialNumberThatFailsIsNoMisconfiguration(t *testing.T) {
	for name, tt := range map[string]struct {
		program string
		ended   error // why there is no time for it
		want    string
	}{
		"it fails":        {program(t, "exit 3"), nil, "exit status 3"},
		"it has no time":  {program(t, "sleep 60"), errors.New("--timeout is over"), "--timeout is over"},
		"it says nothing": {program(t, ":"), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if tt.ended != nil {
				cancel(tt.ended)
			}
			path := filepath.Join(t.TempDir(), "device.yaml")
			if err := os.WriteFile(path, []byte(strings.Replace(from, "From: ", "From: {program: "+tt.program+"}", 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := config.Load(ctx, config.Sources{Path: path})
			if awsiot.ClassOf(err) != awsiot.Failed || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestProgramOfTheSerialNumberThatPrintsTooMuchIsAProblem(t *testing.T) {
	c, err := load(t, strings.Replace(from, "From: ", "From: {program: "+program(t, "yes | head -c 50000000")+"}", 1), config.Sources{})
	if problems, ok := errors.AsType[config.Problems](err); !ok || problems[0].Key != "serialNumberFrom.program" || c.SerialNumber != "" {
		t.Errorf("%v", err)
	}
	if n := len(err.Error()); n > 1000 {
		t.Errorf("a problem of %d bytes", n)
	}
}

// What boards have whose maker has given them no serial number would be that of many devices.
func TestPlaceholdersAreNoSerialNumbers(t *testing.T) {
	for _, text := range []string{
		"", " \n", "\x00\x00", "To be filled by O.E.M.", "To Be Filled By O.E.M.\n", "Default string", "System Serial Number", "Not Specified",
		"Not Applicable", "None", "N/A", "unknown", "INVALID", "O.E.M.", "Serial", "Chassis Serial Number", "0", "00000000", "0000-0000-0000", "0.0.0",
		"FFFFFFFF", "xxxxxxxxxx", "........", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "123456789", "0123456789", "0123456789ABCDEF",
		"297468\x005", "297 468", "297468/5", "297468.5", "297468ü", "\xff\xfe2\x009\x00", strings.Repeat("2974", 20), "2974685\n2974686",
	} {
		path := filepath.Join(t.TempDir(), "serial")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := load(t, strings.Replace(from, "From: ", "From: {file: "+path+"}", 1), config.Sources{})
		problems, ok := errors.AsType[config.Problems](err)
		if !ok || len(problems) != 1 || problems[0].Key != "serialNumberFrom.file" || problems[0].Remedy == "" || strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("%q: %q %v", text, c.SerialNumber, err)
		}
	}
	for _, text := range []string{"2974680", "297468-00", "10000000abcdef12", "5000", "DEFAULTS1x", "N1", "serial-297468"} {
		path := filepath.Join(t.TempDir(), "serial")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := load(t, strings.Replace(from, "From: ", "From: {file: "+path+"}", 1), config.Sources{}); err != nil || c.SerialNumber != text {
			t.Errorf("%q: %q %v", text, c.SerialNumber, err)
		}
	}
}

func TestPlaceOfTheSerialNumberThatFailsIsAProblemOfItsKey(t *testing.T) {
	config.SetFirmware(t, map[string]string{"dmi": filepath.Join(t.TempDir(), "none")})
	for name, tt := range map[string]struct{ from, key, want string }{
		"no such file":                {"{file: /nonexistent}", "serialNumberFrom.file", "no such file"},
		"a directory":                 {"{file: /}", "serialNumberFrom.file", "directory"},
		"no such program":             {"{program: /nonexistent}", "serialNumberFrom.program", "no such file"},
		"a program that fails":        {"{program: " + program(t, "echo '"+"\x1b"+"[31mno sensor' >&2; exit 3") + "}", "serialNumberFrom.program", "exit status 3: "},
		"a program that says nothing": {"{program: " + program(t, "exit 0") + "}", "serialNumberFrom.program", ""},
		"no DMI":                      {"dmi", "serialNumberFrom", "no such file"},
		"an unknown place":            {"smbios", "serialNumberFrom", `"smbios"`},
		"both a file and a program":   {"{file: a, program: b}", "serialNumberFrom.program", "both"},
		"also a serial number":        {"dmi\nserialNumber: \"2974685\"", "serialNumberFrom", "both"},
		"a misspelt place":            {"{fil: a}", "serialNumberFrom.fil", `"file"`},
		"a list":                      {"[dmi]", "serialNumberFrom", "a list"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, strings.Replace(from, "From: ", "From: "+tt.from, 1), config.Sources{})
			problems, _ := errors.AsType[config.Problems](err)
			if len(problems) == 0 || !strings.EqualFold(problems[0].Key, tt.key) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("problems %q, want one of %s with %q", problems, tt.key, tt.want)
			}
		})
	}
}

// A new firmware may forget the serial number: the device keeps its identity.
func TestIdentityOutlivesThePlaceOfTheSerialNumber(t *testing.T) {
	state := filepath.Join(t.TempDir(), "site [1") // no pattern of names
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	record := func(serial string) {
		data, err := json.Marshal(map[string]any{"formatVersion": 1, "thingName": "fleety_" + serial, "serialNumber": serial, "certificateId": strings.Repeat("a", 64)})
		if err == nil {
			err = os.WriteFile(filepath.Join(state, "fleety_"+serial+".json"), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	doc := strings.Replace(from, "From: ", "From: {file: /nonexistent}", 1) + "stateDir: '" + state + "'\n"
	if err := syscall.Mkfifo(filepath.Join(state, "a.json"), 0o600); err != nil { // which is no record, and has no writer
		t.Fatal(err)
	}
	record("2974685")
	if c, err := load(t, doc, config.Sources{}); err != nil || c.SerialNumber != "2974685" || len(c.Warnings) != 1 {
		t.Errorf("one identity: %+v, %v", c, err)
	}
	record("2974686")
	if _, err := load(t, doc, config.Sources{}); err == nil {
		t.Error("one of two identities was taken")
	}
}
