//go:build unix

package jobs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.com/fleety/device/agent/program"
)

const killDelay = 5 * time.Second // for a handler to end after SIGTERM, before SIGKILL

// gate is a shell script that waits for a line before it becomes the handler: by then its process
// id is on stable storage. Without the line it ends.
const gate = `read -r _ && exec "$0" "$@" </dev/null`

// run runs a program as the leader of a process group, and returns what it wrote last. started is
// called before the program does anything; it has an end of that with its error. When ctx ends, the
// whole group does.
func run(ctx context.Context, argv, environ []string, runAsUser string, started func(*process) error) (stdout, stderr tail, err error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", gate}, argv...)...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = environ, "/", &stdout, &stderr
	program.LeadGroup(cmd, syscall.SIGTERM)
	if cmd.SysProcAttr.Credential, err = credential(runAsUser); err != nil {
		return stdout, stderr, err
	}
	cmd.WaitDelay = killDelay
	opening, err := cmd.StdinPipe()
	if err != nil {
		return stdout, stderr, err
	}
	if err := cmd.Start(); err != nil {
		return stdout, stderr, err
	}
	err = started(&process{cmd.Process.Pid, startTime(cmd.Process.Pid)})
	if err == nil {
		_, _ = opening.Write([]byte("\n")) // where that fails, the gate has ended
	}
	opening.Close()
	waited := cmd.Wait()
	if ctx.Err() != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of the group, probably nothing
	}
	if errors.Is(waited, exec.ErrWaitDelay) { // it succeeded and left a process that has its output open
		waited = nil
	}
	return stdout, stderr, cmp.Or(err, waited)
}

// kill ends the process group of a handler that an agent started which is gone. It does nothing if
// another process has the id by now.
func (p *process) kill() {
	if p.Started == "" || startTime(p.ID) != p.Started {
		return
	}
	_ = syscall.Kill(-p.ID, syscall.SIGKILL)
	for deadline := time.Now().Add(killDelay); startTime(p.ID) == p.Started && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // its parent is init now, which takes a moment
	}
}

// startTime identifies a process together with its id; "" if no more than its exit status is left.
// See proc_pid_stat(5), fields 3 and 22.
func startTime(pid int) string {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // the name before may have spaces
	if len(fields) < 20 || fields[0][0] == 'Z' {
		return ""
	}
	return string(fields[19])
}

// credential returns what a program needs to run as that user, nil if it is the agent's.
func credential(name string) (*syscall.Credential, error) {
	if name == "" {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("runAsUser: %w", err)
	}
	if u.Uid == strconv.Itoa(os.Geteuid()) {
		return nil, nil
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("runAsUser: only root can run programs as %q, and the agent does not run as root", name)
	}
	groups, err := u.GroupIds()
	var ids []uint32
	for _, text := range append([]string{u.Uid, u.Gid}, groups...) {
		id, parseErr := strconv.ParseUint(text, 10, 32)
		ids, err = append(ids, uint32(id)), cmp.Or(err, parseErr)
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, err
}

// bootID changes with each boot; "" if it cannot be read.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}
