package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/identity"
)

// A smallDisk is a file system of its own that holds a device's files.
type smallDisk struct{ path string }

// mountSmallDisk mounts a tmpfs where the device keeps its files. It takes
// root; where CI is set there is no way around it.
func mountSmallDisk(t *testing.T, d *device, options string) *smallDisk {
	t.Helper()
	m := &smallDisk{filepath.Join(d.dir, identity.DefaultDir)}
	if err := os.Mkdir(m.path, 0o700); err != nil {
		t.Fatal(err)
	}
	err := syscall.Mount("tmpfs", m.path, "tmpfs", 0, options)
	if errors.Is(err, syscall.EPERM) && os.Getenv("CI") == "" {
		t.Skip("mounting a file system takes root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(m.path, 0); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *smallDisk) remount(t *testing.T, flags uintptr, options string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", m.path, "tmpfs", syscall.MS_REMOUNT|flags, options); err != nil {
		t.Fatal(err)
	}
}

// ample is room for everything.
const ample = "size=1m,nr_inodes=100"

// Each size of the disk lets the device come one step further, until there is
// enough.
func TestFullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	full := map[string]func(room int) string{
		"blocks": func(room int) string { return fmt.Sprintf("size=%dk,nr_inodes=100", 4*room) },
		"inodes": func(room int) string { return fmt.Sprintf("size=1m,nr_inodes=%d", 1+room) },
	}
	for name, options := range full {
		for _, flow := range flows {
			t.Run(name+" "+flow, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, shipped)
				failed := map[string]bool{}
				var devices []*device
				for room := 1; ; room++ {
					d := s.device(t, flow)
					devices = append(devices, d)
					m := mountSmallDisk(t, d, options(room))
					o := d.runUntilFull(t)
					if o.code == 0 {
						break
					}
					checkSaysDiskIsFull(t, o)
					failed[d.state(t)] = true
					m.remount(t, 0, ample)
					d.mustRun(t)
					d.checkWhole(t, s.cloud)
				}
				s.cloud.checkNothingLeft(t, devices)
				if len(failed) < 3 {
					t.Errorf("the disk was full in these states only: %v", failed)
				}
			})
		}
	}
}

func TestFullDiskKeepsTheIdentityThatIsToBeReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	d := s.device(t, "device")
	m := mountSmallDisk(t, d, ample)
	old := d.mustRun(t).result.CertificateID
	d.flags = []string{"--reprovision"}
	for room := 4; ; room++ { // three files and the journal's lock are there
		m.remount(t, 0, fmt.Sprintf("size=%dk", 4*room))
		o := d.runUntilFull(t)
		if o.code == 0 {
			break
		}
		checkSaysDiskIsFull(t, o)
		if id := d.load(t); id.Record.CertificateID != old && id.Record.Replaces != old {
			t.Fatalf("with %d pages the identity is %+v", room, id.Record)
		}
	}
	if id := d.load(t); id.Record.Replaces != old {
		t.Errorf("the identity in the end does not replace the first one: %+v", id.Record)
	}
}

// runUntilFull runs a device that retries until its time-out. On a busy machine the
// first one is too short to get to the disk.
func (d *device) runUntilFull(t *testing.T) (o outcome) {
	t.Helper()
	flags := d.flags
	defer func() { d.flags = flags }()
	for _, timeout := range []string{"2s", "1m"} {
		d.flags = append(slices.Clone(flags), "--timeout", timeout)
		if o = d.run(t); o.code == 0 || strings.Contains(o.stderr, "no space left on device") {
			break
		}
	}
	return o
}

func checkSaysDiskIsFull(t *testing.T, o outcome) {
	t.Helper()
	for _, want := range []string{"iot_device: error: ", identity.DefaultDir + "/", "no space left on device", "iot_device: hint: "} {
		if !strings.Contains(o.stderr, want) {
			t.Errorf("stderr lacks %q:\n%s", want, o.stderr)
		}
	}
	if o.code != 4 || o.stdout != "" {
		t.Errorf("exit code %d, stdout %q", o.code, o.stdout)
	}
}

func TestReadOnlyDiskIsReported(t *testing.T) {
	s := newSite(t, shipped)
	d := s.device(t, "device")
	m := mountSmallDisk(t, d, ample)
	m.remount(t, syscall.MS_RDONLY, ample)
	if o := d.run(t); o.code != 1 || !strings.Contains(o.stderr, "read-only file system") {
		t.Errorf("exit code %d:\n%s", o.code, o.stderr)
	}
	m.remount(t, 0, ample)
	d.mustRun(t)
	d.checkWhole(t, s.cloud)
}

func TestReadOnlyDiskIsEnoughForAnIdentityThatIsThere(t *testing.T) {
	s := newSite(t, shipped)
	d := s.device(t, "device")
	m := mountSmallDisk(t, d, ample)
	d.mustRun(t)
	m.remount(t, syscall.MS_RDONLY, ample)
	d.mustRun(t)
	d.checkWhole(t, s.cloud)
}
