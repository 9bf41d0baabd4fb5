//go:build unix

package config_test

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/internal/config"
)

// A FIFO or a device blocks its reader until somebody writes.
func TestOnlyRegularFilesAreRead(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(t, good+fmt.Sprintf("bootstrap: {certificatepath: %s, privatekeypath: %[1]s, cacertificatepath: /dev/zero}\n", fifo), config.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() {
		_, _, err := c.Check(true)
		done <- err
		_, err = config.Load(t.Context(), config.Sources{Path: fifo})
		done <- err
	}()
	for range 2 {
		select {
		case err := <-done:
			if awsiot.ClassOf(err) != awsiot.Misconfigured {
				t.Errorf("got %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it waits for a writer")
		}
	}
}
