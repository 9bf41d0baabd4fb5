//go:build unix

package program_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"example.com/fleety/device/agent/program"
)

func TestProgramsThatOthersCanChangeAreRejected(t *testing.T) {
	t.Parallel()
	link := func(mode os.FileMode) func(dir, path string) error {
		return func(dir, path string) error {
			elsewhere := filepath.Join(dir, "elsewhere")
			target := filepath.Join(elsewhere, "target")
			return errors.Join(os.Mkdir(elsewhere, 0o755), os.Rename(path, target), os.Chmod(elsewhere, mode), os.Symlink(target, path))
		}
	}
	for name, tc := range map[string]struct {
		change func(dir, path string) error
		ok     bool
	}{
		"mode 0755":                {func(_, path string) error { return os.Chmod(path, 0o755) }, true},
		"mode 0500":                {func(_, path string) error { return os.Chmod(path, 0o500) }, true},
		"not executable":           {func(_, path string) error { return os.Chmod(path, 0o644) }, false},
		"group-writable":           {func(_, path string) error { return os.Chmod(path, 0o775) }, false},
		"world-writable":           {func(_, path string) error { return os.Chmod(path, 0o757) }, false},
		"folder writable":          {func(dir, _ string) error { return os.Chmod(dir, 0o777) }, false},
		"missing":                  {func(_, path string) error { return os.Remove(path) }, false},
		"folder":                   {func(_, path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) }, false},
		"link":                     {link(0o755), true},
		"link into a shared place": {link(0o777), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "program")
			if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, nil, 0o755), tc.change(dir, path)); err != nil {
				t.Fatal(err)
			}
			if err := program.Check(path); (err == nil) != tc.ok {
				t.Error(err)
			}
		})
	}
}

func TestEnvironmentHasNothingOfTheAgent(t *testing.T) {
	for _, name := range []string{"IOT_DEVICE_SERVER_ENDPOINT", "NOTIFY_SOCKET", "WATCHDOG_USEC", "KEPT"} {
		t.Setenv(name, "value")
	}
	environ := program.Environment()
	for pair, want := range map[string]bool{"IOT_DEVICE_SERVER_ENDPOINT=value": false, "NOTIFY_SOCKET=value": false, "WATCHDOG_USEC=value": false, "KEPT=value": true} {
		if slices.Contains(environ, pair) != want {
			t.Errorf("%s: %v", pair, !want)
		}
	}
}
