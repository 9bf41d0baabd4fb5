// Command iot_core_local is AWS IoT Core on the developer's machine.
package main

import (
	"os"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/cli/corecli"
	"example.com/fleety/device/internal/term"
)

func main() {
	os.Exit(cli.Main(corecli.Program(), os.Args[1:], term.New(os.Stdin, os.Stdout, os.Stderr, os.Environ())))
}
