// Command iot_fleet enrolls a fleet of simulated devices for real, and measures it.
package main

import (
	"os"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/cli/fleetcli"
	"example.com/fleety/device/internal/term"
)

func main() {
	os.Exit(cli.Main(fleetcli.Program(), os.Args[1:], term.New(os.Stdin, os.Stdout, os.Stderr, os.Environ())))
}
