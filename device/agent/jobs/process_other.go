//go:build !unix

package jobs

import (
	"context"
	"errors"
)

var errNoProcesses = errors.New("handlers and commands run on Unix systems only")

func run(context.Context, []string, []string, string, func(*process) error) (stdout, stderr tail, err error) {
	return stdout, stderr, errNoProcesses
}

func (p *process) kill() {}

func checkHandler(string, string) (string, error) { return "", errNoProcesses }

func handlerEnvironment() []string { return nil }

func bootID() string { return "" }
