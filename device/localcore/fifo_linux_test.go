package localcore_test

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/localcore"
)

func TestFIFOInPlaceOfAFileIsRejectedAtOnce(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]func(dir string) localcore.Config{
		"fleet_template.json": func(dir string) localcore.Config { return localcore.Config{Templates: dir} },
		"manifest.json":       func(dir string) localcore.Config { return localcore.Config{Assembly: dir} },
		"bootstrap":           func(dir string) localcore.Config { return localcore.Config{Hook: filepath.Join(dir, "bootstrap")} },
		"authority.pem":       func(dir string) localcore.Config { return localcore.Config{State: dir} },
		"registry.db":         func(dir string) localcore.Config { return localcore.Config{State: dir} },
		"services.db":         func(dir string) localcore.Config { return localcore.Config{State: dir} },
		"claim.json":          func(dir string) localcore.Config { return localcore.Config{State: dir} },
		"device.yaml":         func(dir string) localcore.Config { return localcore.Config{Credentials: dir} },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mkfifo(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			c := config(dir)
			c.FastIssuer = true
			failed := make(chan error, 1)
			go func() {
				s, err := localcore.Start(t.Context(), c)
				if err == nil {
					s.Close()
				}
				failed <- err
			}()
			select {
			case err := <-failed:
				if err == nil {
					t.Error("started")
				}
			case <-time.After(10 * time.Second):
				t.Error("still waits")
			}
		})
	}
}
