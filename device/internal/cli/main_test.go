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

// The tests of this package run the programs as processes: this test binary under their names. The
// hook, which is another module's, is built, and with the race detector so are programs of binDir: it
// takes a tenth of a second to start, which is most of what hundreds of short commands do.
var (
	binDir    string // iot_device, iot_core_local, iot_fleet and hook, for this machine
	racingDir string // the programs with the race detector if this test has it, for those that go on
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
			err = errors.Join(makePrograms(), buildHook())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "making the programs:", err)
			return 1
		}
		return m.Run()
	}())
}

func makePrograms() error {
	binary, err := os.Executable()
	racingDir = filepath.Join(binDir, "racing")
	err = errors.Join(err, os.Mkdir(racingDir, 0o755))
	for name := range programs {
		err = errors.Join(err, os.Symlink(binary, filepath.Join(racingDir, name)))
		if !raceEnabled {
			err = errors.Join(err, os.Symlink(binary, filepath.Join(binDir, name)))
			continue
		}
		build := exec.Command("go", "build", "-o", filepath.Join(binDir, name), "./cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		err = errors.Join(err, runIn(deviceDir, build))
	}
	return err
}

func buildHook() error {
	build := exec.Command("go", "build", "-o", filepath.Join(binDir, "hook"))
	if raceEnabled {
		build.Args = append(build.Args, "-race")
	}
	return runIn(filepath.Join(deviceDir, "..", "hook"), build)
}

// runIn runs a build in the folder of a module.
func runIn(dir string, build *exec.Cmd) error {
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", build.Args, err, out)
	}
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
