package doctor

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// On a live system the disk is an overlay whose changes are in memory.
func TestOverlayIsWhereItsChangesAre(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount an overlay")
	}
	dir := t.TempDir()
	at := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mount := func(source, target, kind, options string) {
		if err := syscall.Mount(source, target, kind, 0, options); err != nil {
			t.Skip("this system mounts no such overlay: ", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mount("tmpfs", at("memory"), "tmpfs", "")
	for upper, want := range map[string]string{"memory": "tmpfs", "disk": fileSystem(dir)} {
		merged := at("merged-" + upper)
		mount("overlay", merged, "overlay", "lowerdir="+at("lower")+",upperdir="+at(upper+"/upper")+",workdir="+at(upper+"/work"))
		for _, path := range []string{merged, filepath.Join(merged, "not", "there")} {
			if got := fileSystem(path); got != want {
				t.Errorf("the overlay over %s is on %s, want %s", upper, got, want)
			}
		}
	}
	merged := at("merged read-only")
	mount("overlay", merged, "overlay", "lowerdir="+at("lower")+":"+at("lower2"))
	if got := fileSystem(merged); got != "overlayfs" {
		t.Errorf("an overlay that nothing can be written to is on %s", got)
	}
}
