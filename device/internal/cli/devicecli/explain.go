package devicecli

import (
	"errors"
	"strings"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
	"example.com/fleety/device/internal/doctor"
)

// A bootstrapError is an error of a bootstrap, with the configuration that its
// hint may have to name.
type bootstrapError struct {
	config *config.Config
	err    error
}

func (e *bootstrapError) Error() string { return e.err.Error() }
func (e *bootstrapError) Unwrap() error { return e.err }

// A credentialsError is an error of the credentials provider, which has an endpoint
// of its own.
type credentialsError struct {
	config *config.Config
	err    error
}

func (e *credentialsError) Error() string { return e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

var hintsOfCredentials = strings.NewReplacer("server.endpoint and server.port", "server.credentialsEndpoint", "server.endpoint", "server.credentialsEndpoint",
	"use server.port 443 or server.proxy", "use server.proxy", "iot:Data-ATS", "iot:CredentialProvider")

// explain returns what an error means: the exit code by its class, and the hint
// by its cause.
func explain(err error) cli.Explanation {
	var c *config.Config
	if e, ok := errors.AsType[*bootstrapError](err); ok {
		c = e.config
	}
	hints := strings.NewReplacer()
	if e, ok := errors.AsType[*credentialsError](err); ok {
		copied := *e.config
		copied.Server.Endpoint, copied.Server.Port, _ = e.config.CredentialsProvider() // it was used
		c, hints = &copied, hintsOfCredentials
	}
	e := cli.Explanation{Code: cli.ExitCode(awsiot.ClassOf(err))}
	if cause, ok := doctor.CauseOf(err, c); ok {
		e.Hint = hints.Replace(cause.Hint())
	}
	return e
}
