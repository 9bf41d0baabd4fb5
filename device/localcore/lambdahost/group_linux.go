package lambdahost

import (
	"os"
	"os/exec"
	"syscall"
)

// ownGroup makes the process the head of its own group, and makes the kernel kill it when this
// program dies, however that happens.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// killGroup kills the process and those that it started.
func killGroup(p *os.Process) { syscall.Kill(-p.Pid, syscall.SIGKILL) }
