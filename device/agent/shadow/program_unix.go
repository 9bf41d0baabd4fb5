//go:build unix

package shadow

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// checkProgram returns an error unless the program is executable, and nobody but
// root and the agent's user can have changed it.
func checkProgram(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for _, p := range []string{path, filepath.Dir(path)} {
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case p == path && (!info.Mode().IsRegular() || info.Mode()&0o111 == 0):
			return fmt.Errorf("%s is not an executable file; run: chmod +x %[1]s", p)
		case info.Mode()&0o022 != 0:
			return fmt.Errorf("%s is writable by others (mode %04o); run: chmod go-w %[1]s", p, info.Mode().Perm())
		case ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
			return fmt.Errorf("%s is owned neither by root nor by the agent's user", p)
		}
	}
	return nil
}

// leadGroup has the end of the context end all processes of the program.
func leadGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
}
