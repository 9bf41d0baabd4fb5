//go:build !unix

package lambdahost

import (
	"os"
	"os/exec"
)

func ownGroup(*exec.Cmd) {}

// killGroup kills the process. This system has no process groups.
func killGroup(p *os.Process) { p.Kill() }
