package e2e

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
)

// A device whose key is in hardware provisions, verifies its identity and
// passes its doctor like every other.
func TestKeysInHardware(t *testing.T) {
	t.Parallel()
	t.Run("TPM", func(t *testing.T) {
		t.Parallel()
		newSite(t, shipped).provisionInHardware(t, "tpm:"+startSoftwareTPM(t)+"?pcrs=0,7")
	})
	t.Run("PKCS 11", func(t *testing.T) {
		t.Parallel()
		newSite(t, withPKCS11).provisionInHardware(t, "pkcs11")
	})
}

// Where keys are in hardware, kills lose as little as where they are in files:
// before any change to the disk in a bootstrap, in two runs, in a rotation, and
// at random instants of rotations.
func TestKillsLoseNothingWhereKeysAreInATPM(t *testing.T) {
	t.Parallel()
	newSite(t, withKillers).kill(t, "tpm")
}

func TestKillsLoseNothingWhereKeysAreInAToken(t *testing.T) {
	t.Parallel()
	newSite(t, withBoth).kill(t, "pkcs11")
}

// kill takes one in so many of what it could do, unless the flags ask for all.
func (s *site) kill(t *testing.T, keys string) {
	step := min(*crashPairs, 12)
	n := sort.Search(200, func(n int) bool { return !runTo(t, s.device(t, keys), n+1) })
	for call := 0; call < n; call += step {
		d := s.device(t, keys)
		runTo(t, d, 1+call)
		if call%2 == 1 {
			runTo(t, d, 1+call*7%n)
		}
		d.mustRun(t)
		d.checkWhole(t, s.cloud)
	}
	t.Run("rotation", func(t *testing.T) { s.killRotations(t, keys, step) })
	t.Run("random", func(t *testing.T) { s.killRotationsAtRandom(t, keys, *crashKills/6) })
}

// hardware is where a device has its key: a TPM or a token of its own.
type hardware struct {
	socket   string   // of the TPM
	variable []string // by which SoftHSM finds the token
}

func (h *hardware) variables() []string {
	if h == nil {
		return nil
	}
	return h.variable
}

// newHardware returns what the configuration says of keys, with new hardware
// where that is tpm or pkcs11.
func newHardware(t testing.TB, keys string) (string, *hardware) {
	switch keys {
	case "tpm":
		h := &hardware{socket: startSoftwareTPM(t)}
		return "tpm:" + h.socket, h
	case "pkcs11":
		return startSoftHSM(t)
	}
	return keys, nil
}

// processEnded removes what a process has left in the TPM when it was killed, as
// the kernel's resource manager does.
func (h *hardware) processEnded() {
	if h == nil || h.socket == "" {
		return
	}
	t, err := linuxudstpm.Open(h.socket)
	if err != nil {
		return // the next run says so
	}
	defer t.Close()
	for _, first := range []uint32{0x80000000, 0x02000000} { // objects, sessions
		got, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 100}.Execute(t)
		if err != nil {
			return
		}
		if handles, err := got.CapabilityData.Data.Handles(); err == nil {
			for _, handle := range handles.Handle {
				_, _ = tpm2.FlushContext{FlushHandle: handle}.Execute(t)
			}
		}
	}
}

// lost reports whether a token is gone: SoftHSM rewrites its files in place, and a
// kill in that instant leaves half of one. A token of hardware has no such instant.
func (h *hardware) lost(t testing.TB) bool {
	t.Helper()
	if h == nil || h.variable == nil {
		return false
	}
	cmd := exec.CommandContext(t.Context(), "softhsm2-util", "--show-slots")
	cmd.Env = slices.Concat(os.Environ(), h.variable)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	initialized := regexp.MustCompile(`Initialized:\s+yes`)
	return !initialized.Match(out) || !strings.Contains(string(out), "Label:            device")
}

// loadFromHardware returns what status says of the device's identity: the tests
// cannot open its key.
func (d *device) loadFromHardware(t testing.TB) *identity.Identity {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), d.binary, "status", "--config", "device.yaml", "--json")
	cmd.Dir, cmd.Env = d.dir, slices.Concat(os.Environ(), d.hardware.variables())
	out, err := cmd.Output()
	var status struct {
		CertificateID string   `json:"certificateId"`
		Problems      []string `json:"problems"`
	}
	if json.Unmarshal(out, &status) != nil || len(status.Problems) > 0 {
		t.Fatalf("%s: status: %v\n%s", d.serial, err, out)
	}
	if status.CertificateID == "" {
		return nil
	}
	return &identity.Identity{Record: identity.Record{CertificateID: status.CertificateID}}
}

func (s *site) provisionInHardware(t *testing.T, keys string) {
	t.Helper()
	d := s.device(t, keys)
	first := d.run(t)
	if first.code != 0 || !first.result.Provisioned {
		t.Fatalf("exit %d\n%s", first.code, first.stderr)
	}
	if again := d.run(t); again.code != 0 || again.result.Provisioned || again.result.CertificateID != first.result.CertificateID {
		t.Errorf("second run: exit %d, %+v\n%s", again.code, again.result, again.stderr)
	}
	key, err := os.ReadFile(filepath.Join(d.dir, "certs", d.thing()+".private.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := awsiot.PrivateKey(key); err == nil {
		t.Error("the private key's file holds a private key")
	}
	for _, command := range []string{"status", "doctor"} {
		cmd := exec.CommandContext(t.Context(), d.binary, command, "--config", "device.yaml")
		cmd.Dir, cmd.Env = d.dir, slices.Concat(os.Environ(), d.hardware.variables())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
}

// needTool skips a test where a program is missing; CI installs it.
func needTool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("%s is missing, and CI installs it", name)
	} else if err != nil {
		t.Skipf("%s is missing", name)
	}
	return path
}

func startSoftwareTPM(t testing.TB) (socket string) {
	t.Helper()
	swtpm := needTool(t, "swtpm")
	dir, err := os.MkdirTemp("", "tpm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "sock")
	cmd := exec.Command(swtpm, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait(); os.RemoveAll(dir) })
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
	}
	t.Fatal("swtpm does not listen")
	return ""
}

// startSoftHSM makes a token, and returns the URI of keys in it.
func startSoftHSM(t testing.TB) (keys string, _ *hardware) {
	t.Helper()
	util := needTool(t, "softhsm2-util")
	dir := t.TempDir()
	config, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	writeFile(t, config, "directories.tokendir = "+dir+"\nlog.level = ERROR\n", 0o600)
	writeFile(t, pin, "1234\n", 0o600)
	h := &hardware{variable: []string{"SOFTHSM2_CONF=" + config}}
	cmd := exec.Command(util, "--init-token", "--free", "--label", "device", "--so-pin", "87654321", "--pin", "1234")
	cmd.Env = slices.Concat(os.Environ(), h.variable)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Debian installs the module there.
	return "pkcs11:token=device?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:" + pin, h
}

func buildWithPKCS11() (string, error) {
	path := filepath.Join(binDir, "iot_device_pkcs11")
	return path, runTool("make", "-s", "-C", "../..", "device-pkcs11", "DEVICE="+path)
}

// The program without cgo names the one that can.
func TestPKCS11NeedsItsBuild(t *testing.T) {
	t.Parallel()
	d := newSite(t, shipped).device(t, "pkcs11:token=device?module-path=/m")
	if o := d.run(t); o.code != 2 || !strings.Contains(o.stderr, "make device-pkcs11") {
		t.Errorf("exit %d\n%s", o.code, o.stderr)
	}
}
