package jobs

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"example.com/fleety/device/awsiot"
)

// A file that does not fit leaves the disk to others.
func TestDownloadThatFillsTheDiskGivesItBack(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	b, files, url := newDownloadBench(t)
	if err := syscall.Mount("tmpfs", b.config.Downloads, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("this system mounts no small disk: ", err)
	}
	t.Cleanup(func() {
		// A program that another test starts may have a file of it open, until it runs.
		if err := syscall.Unmount(b.config.Downloads, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	b.create("j", runHandler(DownloadFile, url, "firmware", digest(files.content)))
	b.powerOn()
	b.await("j", awsiot.JobFailed)
	if err := os.WriteFile(filepath.Join(b.config.Downloads, "other"), make([]byte, 60<<10), 0o600); err != nil {
		t.Error(err)
	}
}
