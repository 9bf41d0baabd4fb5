//go:build unix

package program

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"example.com/fleety/device/internal/osfile"
)

// Check returns an error unless the file is executable, and nobody but root and the agent's user
// can have changed it or replaced it in its folder. Of a symbolic link that is said of its target.
// On other systems than Unix it always returns one.
func Check(path string) error {
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
		case p == path && !info.Mode().IsRegular():
			return fmt.Errorf("%s is not a regular file", p)
		case p == path && info.Mode()&0o111 == 0:
			return fmt.Errorf("%s is not executable; run \"chmod +x %s\": %w", p, osfile.Quote(p), fs.ErrPermission)
		case info.Mode()&0o022 != 0:
			return fmt.Errorf("%s is writable by others (mode %04o); run \"chmod go-w %s\"", p, info.Mode().Perm(), osfile.Quote(p))
		case ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
			return fmt.Errorf("%s is owned neither by root nor by the agent's user", p)
		}
	}
	return nil
}

// LeadGroup makes a program the leader of a process group, all of which gets the signal when the
// context of the command ends. It does nothing on other systems.
func LeadGroup(cmd *exec.Cmd, signal syscall.Signal) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, signal); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
}
