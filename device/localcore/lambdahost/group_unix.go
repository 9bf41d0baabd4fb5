//go:build unix && !linux

package lambdahost

import (
	"os"
	"os/exec"
	"syscall"
)

// ownGroup makes the process the head of its own group.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

// killGroup kills the process and those that it started.
func killGroup(p *os.Process) { syscall.Kill(-p.Pid, syscall.SIGKILL) }
