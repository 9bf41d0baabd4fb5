package cli_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/cli/corecli"
	"example.com/fleety/device/internal/cli/devicecli"
	"example.com/fleety/device/internal/cli/fleetcli"
	"example.com/fleety/device/internal/term"
)

// The tests of this package run the programs as processes: this test binary under their names. Only
// the hook, which is another module's, is built.
var (
	binDir    string // iot_device, iot_core_local, iot_fleet and hook, for this machine
	deviceDir = must(filepath.Abs(filepath.Join("..", "..")))
	templates = filepath.Join(deviceDir, "..", "templates")

	programs = map[string]func() cli.Program{
		"iot_device": devicecli.Program, "iot_core_local": corecli.Program, "iot_fleet": fleetcli.Program,
	}
)

func TestMain(m *testing.M) {
	if program := programs[filepath.Base(os.Args[0])]; program != nil {
		os.Exit(cli.Main(program(), os.Args[1:], term.New(os.Stdin, os.Stdout, os.Stderr, os.Environ())))
	}
	os.Exit(func() int {
		os.Setenv("LANG", "C.UTF-8")
		// With the race detector a process waits at its end, by default 1 s.
		os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=50"))
		var err error
		if binDir, err = os.MkdirTemp("", "fleety-bin"); err == nil {
			defer os.RemoveAll(binDir)
			err = errors.Join(linkPrograms(), buildHook())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "making the programs:", err)
			return 1
		}
		return m.Run()
	}())
}

func linkPrograms() error {
	binary, err := os.Executable()
	for name := range programs {
		err = errors.Join(err, os.Symlink(binary, filepath.Join(binDir, name)))
	}
	return err
}

func buildHook() error {
	args := []string{"build", "-o", filepath.Join(binDir, "hook")}
	if raceEnabled {
		args = append(args, "-race", "-gcflags=github.com/aws/aws-sdk-go-v2/...=-l") // as make has them
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = filepath.Join(deviceDir, "..", "hook")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
