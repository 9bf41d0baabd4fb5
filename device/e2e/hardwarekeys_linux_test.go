package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/fleety/device/awsiot"
)

// A device whose key is in hardware provisions, verifies its identity and
// passes its doctor like every other.
func TestKeysInHardware(t *testing.T) {
	t.Parallel()
	t.Run("TPM", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, shipped)
		s.provisionInHardware(t, "tpm:"+startSoftwareTPM(t)+"?pcrs=0,7")
	})
	t.Run("PKCS 11", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, withPKCS11)
		module, pin := startSoftHSM(t)
		s.provisionInHardware(t, "pkcs11:token=device?module-path="+module+"&pin-source=file:"+pin)
	})
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
		cmd.Dir = d.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
}

// needTool skips a test where a program is missing; CI installs it.
func needTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("%s is missing, and CI installs it", name)
	} else if err != nil {
		t.Skipf("%s is missing", name)
	}
	return path
}

func startSoftwareTPM(t *testing.T) (socket string) {
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

// softHSMModule is where Debian installs it.
const softHSMModule = "/usr/lib/softhsm/libsofthsm2.so"

// startSoftHSM makes a token named device, of which the programs that tests
// start know by a variable.
func startSoftHSM(t *testing.T) (module, pin string) {
	t.Helper()
	util := needTool(t, "softhsm2-util")
	dir := filepath.Join(binDir, "softhsm")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "softhsm2.conf")
	writeFile(t, config, "directories.tokendir = "+dir+"\nlog.level = ERROR\n", 0o600)
	os.Setenv("SOFTHSM2_CONF", config) // read by SoftHSM alone
	pin = filepath.Join(dir, "pin")
	writeFile(t, pin, "1234\n", 0o600)
	out, err := exec.Command(util, "--init-token", "--free", "--label", "device", "--so-pin", "87654321", "--pin", "1234").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return softHSMModule, pin
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
