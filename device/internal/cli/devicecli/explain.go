package devicecli

import (
	"errors"

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

// explain returns what an error means: the exit code by its class, and the hint
// by its cause.
func explain(err error) cli.Explanation {
	var c *config.Config
	if e, ok := errors.AsType[*bootstrapError](err); ok {
		c = e.config
	}
	e := cli.Explanation{Code: cli.ExitCode(awsiot.ClassOf(err))}
	if cause, ok := doctor.CauseOf(err, c); ok {
		e.Hint = cause.Hint()
	}
	return e
}
