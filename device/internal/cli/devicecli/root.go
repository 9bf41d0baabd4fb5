// Package devicecli holds the commands of iot_device. Each command reads its flags, calls the
// package that does the work, and prints its result. What an error means for the user is in package
// doctor's table of causes.
package devicecli

import (
	_ "embed"
	"errors"
	"strings"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/doctor"
	"github.com/spf13/cobra"
)

// Program describes iot_device, to run it and for its manual.
func Program() cli.Program {
	return cli.Program{
		Name: "iot_device",
		Help: help,
		Commands: func(c *cli.Console) []*cobra.Command {
			return []*cobra.Command{
				newBootstrapCmd(c), (&bootstrapOptions{rotate: true}).command(c, "rotate"), newReportCmd(c, "status", "status", runStatus), newReportCmd(c, "doctor", "report", runDoctor),
				newConfigCmd(c), newExportCmd(c), newRunCmd(c), newPublishCmd(c), newSubscribeCmd(c), newShadowCmd(c), newCredentialsCmd(c),
			}
		},
		Explain:     explain,
		Interrupted: "when they run again, bootstrap and rotate go on where they were interrupted",
	}
}

// help is what the commands say about themselves.
//
//go:embed help.txt
var help string

// A deviceError is an error with the configuration that its hint may have to name.
type deviceError struct {
	error
	config      *config.Config
	credentials bool // of the credentials provider, which has an endpoint of its own
}

func (e *deviceError) Unwrap() error { return e.error }

var hintsOfCredentials = strings.NewReplacer("server.endpoint and server.port", "server.credentialsEndpoint", "server.endpoint", "server.credentialsEndpoint",
	"use server.port 443 or server.proxy", "use server.proxy", "iot:Data-ATS", "iot:CredentialProvider")

// explain returns what an error means: the exit code by its class, and the hint by its cause.
func explain(err error) cli.Explanation {
	var c *config.Config
	hints := strings.NewReplacer()
	if e, ok := errors.AsType[*deviceError](err); ok {
		c = e.config
		if e.credentials {
			copied := *c
			copied.Server.Endpoint, copied.Server.Port, _ = c.CredentialsProvider() // it was used
			c, hints = &copied, hintsOfCredentials
		}
	}
	e := cli.Explanation{Code: cli.ExitCode(awsiot.ClassOf(err))}
	if cause, ok := doctor.CauseOf(err, c); ok {
		e.Hint = c.Commands(hints.Replace(cause.Hint()))
	}
	switch {
	case errors.Is(err, agent.ErrNotRunning):
		e.Hint = c.Commands("start it with \"iot_device run\"") + ", or as a service with \"systemctl start iot_device\""
	case errors.Is(err, agent.ErrRunning):
		e.Hint = "AWS IoT allows one connection of a device, and that process has it: end it first, as with \"systemctl stop iot_device\"; iot_device rotate, status and doctor work beside the agent"
	}
	return e
}
