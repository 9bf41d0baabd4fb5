package config_test

import (
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/config"
)

// An operator runs the program as the user of its service, in a directory that is closed to that
// user.
func TestConfigurationOfTheSystemIsReadInADirectoryOfAnotherUser(t *testing.T) {
	closed := t.TempDir()
	t.Chdir(closed)
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		runtime.LockOSThread() // whose user for files is another one, alone of all threads
		defer runtime.UnlockOSThread()
		syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
		defer syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0)
	}
	config.SetSystemPath(t, "/nonexistent/config.yaml")
	if _, err := config.Load(t.Context(), config.Sources{}); awsiot.ClassOf(err) != awsiot.Failed {
		t.Errorf("without a configuration of the system: %v", err)
	}
	const readable = "/etc/passwd" // by every user, and no configuration
	config.SetSystemPath(t, readable)
	if _, err := config.Load(t.Context(), config.Sources{}); err == nil || !strings.Contains(err.Error(), readable) {
		t.Errorf("with one: %v", err)
	}
}
