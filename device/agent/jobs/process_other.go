//go:build !unix

package jobs

import (
	"context"
	"errors"
)

func run(context.Context, []string, []string, string, func(*process) error) (stdout, stderr tail, err error) {
	return stdout, stderr, errors.New("handlers and commands run on Unix systems only")
}

func (p *process) kill() {}

func credential(string) (*struct{ Uid, Gid uint32 }, error) { return nil, nil }

func bootID() string { return "" }
