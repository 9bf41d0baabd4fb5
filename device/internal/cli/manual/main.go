// Command manual writes what a package has beside a program, made from the commands: man1/,
// completions/{bash,zsh,fish}/ and, for the device, config.yaml. It is a program of its own so that
// no other links what renders manual pages.
//
//	usage: manual PROGRAM FOLDER
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/cli/corecli"
	"example.com/fleety/device/internal/cli/devicecli"
	"example.com/fleety/device/internal/cli/fleetcli"
	"example.com/fleety/device/internal/config"
	"github.com/spf13/cobra/doc"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manual PROGRAM FOLDER")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "manual: error:", err)
		os.Exit(1)
	}
}

var programs = map[string]func() cli.Program{
	"iot_device": devicecli.Program, "iot_core_local": corecli.Program, "iot_fleet": fleetcli.Program,
}

// write writes a page for each command, of the date SOURCE_DATE_EPOCH, and what else there is.
func write(name, dir string) error {
	program, ok := programs[name]
	if !ok {
		return fmt.Errorf("no program %s", name)
	}
	root := cli.Tree(program())
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Title: strings.ToUpper(name), Section: "1", Source: name, Manual: "User commands"}
	for path, generate := range map[string]func(path string) error{
		"man1/page":                          func(p string) error { return doc.GenManTree(root, header, filepath.Dir(p)) },
		"completions/bash/" + name:           func(p string) error { return root.GenBashCompletionFileV2(p, true) },
		"completions/zsh/_" + name:           root.GenZshCompletionFile,
		"completions/fish/" + name + ".fish": func(p string) error { return root.GenFishCompletionFile(p, true) },
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := generate(path); err != nil {
			return err
		}
	}
	if name != "iot_device" {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(packaged(string(config.Example))), 0o644)
}

// packaged returns the example configuration as a package installs it. Nothing in it is of
// another's device: without its values a device is not configured. What changes is in
// /var/lib/iot_device, so that /etc can be read-only.
func packaged(example string) string {
	head, tail, _ := strings.Cut(example, "# Optional: where the device's own identity is kept.")
	_, agent, _ := strings.Cut(tail, "\n\n")
	const state = "/var/lib/iot_device"
	return strings.NewReplacer(
		`serialNumber: "2974685"`, `serialNumber: ""`,
		`deviceLocation: "USA"`, `deviceLocation: ""`,
		"# Optional: the folder of the device's identity, here the default.\n# stateDir: certs", "# The folder of the device's identity.\nstateDir: "+state,
		"endpoint: xxxx-ats.iot.REGION.amazonaws.com", `endpoint: ""`,
		"# cacertificatepath: certs/", "# cacertificatepath: /etc/iot_device/",
		"privatekeypath: certs/", "privatekeypath: "+state+"/claim/",
		"certificatepath: certs/", "certificatepath: "+state+"/claim/",
	).Replace(head + agent)
}
