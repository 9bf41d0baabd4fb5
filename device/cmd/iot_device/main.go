// Command iot_device gives a device its own identity in AWS IoT Core.
package main

import (
	"os"
	"runtime"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/cli/devicecli"
	"example.com/fleety/device/internal/term"
)

func main() {
	runtime.GOMAXPROCS(1) // it waits for the network and the disk, and each processor takes memory
	os.Exit(cli.Main(devicecli.Program(), os.Args[1:], term.New(os.Stdin, os.Stdout, os.Stderr, os.Environ())))
}
