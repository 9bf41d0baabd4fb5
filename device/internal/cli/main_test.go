package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The tests of this package run the real binaries as processes. TestMain
// builds them once.
var (
	binDir    string // iot_device, iot_core_local and hook, for this machine
	deviceDir = must(filepath.Abs(filepath.Join("..", "..")))
	templates = filepath.Join(deviceDir, "..", "templates")
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		os.Setenv("LANG", "C.UTF-8")
		var err error
		if binDir, err = os.MkdirTemp("", "fleety-bin"); err == nil {
			defer os.RemoveAll(binDir)
			err = buildBinaries()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "building the binaries:", err)
			return 1
		}
		return m.Run()
	}())
}

func buildBinaries() error {
	args := []string{"build"}
	if raceEnabled {
		args = append(args, "-race")
	}
	for _, b := range []struct{ dir, output, pkg string }{
		{deviceDir, binDir + string(filepath.Separator), "./cmd/..."},
		{filepath.Join(deviceDir, "..", "hook"), filepath.Join(binDir, "hook"), "."},
	} {
		cmd := exec.Command("go", append(args, "-o", b.output, b.pkg)...)
		cmd.Dir = b.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
		}
	}
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
