package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// binDir holds the binaries that tests have built, for the length of the run.
var binDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if binDir, err = os.MkdirTemp("", "fleety-device"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(binDir)
		// Parallel tests here wait for disks and slow links, not for a processor: more at a time
		// than -parallel says.
		flag.Parse()
		if err := flag.Set("test.parallel", fmt.Sprint(crashWorkers)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// The device's binaries: as make ships it, and with points to be killed at.
var (
	shipped     = sync.OnceValues(buildShipped)
	withKillers = sync.OnceValues(buildWithKillers)
	withPKCS11  = sync.OnceValues(buildWithPKCS11)
	withBoth    = sync.OnceValues(buildWithBoth) // PKCS #11, and points to be killed at
)

// buildShipped leaves the flags to the Makefile, so that what is measured is
// what is shipped.
func buildShipped() (string, error) {
	path := filepath.Join(binDir, "iot_device")
	return path, runTool("make", "-s", "-C", "../..", "device", "DEVICE="+path)
}

func buildWithKillers() (string, error) { return buildKilling("iot_device_failpoints", "failpoints") }

func buildWithBoth() (string, error) {
	return buildKilling("iot_device_pkcs11_failpoints", "pkcs11,failpoints")
}

// buildKilling builds a device whose disk kills its process: the overlay replaces
// the file of package identity that opens the disk.
func buildKilling(name, tags string) (string, error) {
	path, overlay := filepath.Join(binDir, name), filepath.Join(binDir, name+".json")
	identity, err := filepath.Abs("../identity")
	if err != nil {
		return "", err
	}
	files, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(identity, "disk_real.go"): filepath.Join(identity, "killdisk_test.go"),
	}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, files, 0o600); err != nil {
		return "", err
	}
	cgo := "CGO_ENABLED=0"
	if strings.Contains(tags, "pkcs11") {
		cgo = "CGO_ENABLED=1"
		if _, err := withPKCS11(); err != nil { // compiles what both need, once
			return "", err
		}
	}
	return path, runTool("env", cgo, "go", "build", "-overlay", overlay, "-tags", tags, "-o", path, module+"device/cmd/iot_device")
}

// runTool builds without cgo, as what is shipped: packages are not compiled once more.
func runTool(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return nil
}

func build(t testing.TB, binary func() (string, error)) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// repository is the root of this repository, an absolute path.
func repository(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFile(t testing.TB, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
