package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const unitFile = "../packaging/iot_device.service"

// unitForThisMachine returns the unit file with the path of a binary that is
// here, since systemd looks for it.
func unitForThisMachine(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	const installed = "/usr/bin/iot_device"
	if !strings.Contains(string(text), "ExecStart="+installed+" bootstrap") {
		t.Fatalf("%s does not start %s", unitFile, installed)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(unitFile))
	here := strings.Replace(string(text), "ExecStart="+installed, "ExecStart="+build(t, shipped), 1)
	if err := os.WriteFile(path, []byte(here), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUnitFile(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-analyze is not installed")
		}
		t.Skip("systemd-analyze is not installed")
	}
	unit := unitForThisMachine(t)
	for name, args := range map[string][]string{
		"is valid":        {"verify", "--man=no"},
		"is well secured": {"security", "--offline=yes", "--threshold=15"}, // of 100; systemd calls up to 40 fine
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), "systemd-analyze", append(args, unit)...).CombinedOutput()
			if err != nil {
				t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
			}
			for line := range strings.Lines(string(out)) {
				// Keys of systemd 254, which earlier versions ignore.
				newer := strings.Contains(line, "Unknown key 'RestartSteps'") || strings.Contains(line, "Unknown key 'RestartMaxDelaySec'")
				if args[0] == "verify" && !newer {
					t.Errorf("systemd-analyze warns: %s", line)
				}
			}
		})
	}
}

// No device gives up for good, and none retries so often that a broken fleet is
// an attack.
func TestUnitRetriesEveryFailureSlowerAndSlower(t *testing.T) {
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			settings[name] = value
		}
	}
	for name, want := range map[string]string{
		"Restart": "on-failure", "RestartSec": "30s", "RestartSteps": "10", "RestartMaxDelaySec": "1h",
		"StartLimitIntervalSec": "0", "LimitCORE": "0", "After": "network-online.target time-sync.target",
	} {
		if settings[name] != want {
			t.Errorf("%s=%s, want %s", name, settings[name], want)
		}
	}
	for _, name := range []string{"RestartPreventExitStatus", "SuccessExitStatus"} {
		if codes, ok := settings[name]; ok {
			t.Errorf("%s=%s: a device gives up for good", name, codes)
		}
	}
}

func TestUserOfTheServiceCanBeCreated(t *testing.T) {
	if _, err := exec.LookPath("systemd-sysusers"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-sysusers is not installed")
		}
		t.Skip("systemd-sysusers is not installed")
	}
	unit, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(unit), "\nUser=iot_device\n") {
		t.Fatalf("%s names another user", unitFile)
	}
	config, err := filepath.Abs("../packaging/iot_device.sysusers.conf")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-sysusers", "--dry-run", "--root="+root, config).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "user 'iot_device'") {
		t.Errorf("systemd-sysusers: %v\n%s", err, out)
	}
}

// A manager is the service manager's end of sd_notify.
type manager struct {
	conn     *net.UnixConn
	messages chan []string
}

// last ends the messages: it follows those of the device.
const last = "last"

func newManager(t *testing.T) *manager {
	t.Helper()
	address := &net.UnixAddr{Net: "unixgram", Name: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &manager{conn, make(chan []string, 1)}
	go func() {
		var got []string
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil || string(buf[:n]) == last {
				m.messages <- got
				return
			}
			got = append(got, string(buf[:n]))
		}
	}()
	return m
}

func (m *manager) environ() string { return "NOTIFY_SOCKET=" + m.conn.LocalAddr().String() }

// all returns the notifications until now.
func (m *manager) all(t *testing.T) []string {
	t.Helper()
	conn, err := net.Dial("unixgram", m.conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, last); err != nil {
		t.Fatal(err)
	}
	return <-m.messages
}

func TestServiceManagerIsNotifiedOfEveryStep(t *testing.T) {
	s := newSite(t, shipped)
	d := s.device(t, "device")
	m := newManager(t)
	if o := d.run(t, m.environ()); o.code != 0 {
		t.Fatalf("exit code %d:\n%s", o.code, o.stderr)
	}
	id := d.load(t).Record.CertificateID
	want := []string{
		"STATUS=connect with claim certificate (localhost)",
		"STATUS=subscribe to response topics",
		"STATUS=generate private key",
		"STATUS=create certificate (CreateCertificateFromCsr)",
		"STATUS=store key and certificate (" + id + ")",
		"STATUS=register thing (GoFleetProvisioningTemplate)",
		"STATUS=connect with device certificate (" + d.thing() + ")",
		"STATUS=publish birth message (fleet/" + d.thing() + ")",
		"STATUS=save identity",
		"READY=1\nSTATUS=" + d.thing() + ": identity verified",
	}
	if diff := cmp.Diff(want, m.all(t)); diff != "" {
		t.Errorf("notifications (-want +got):\n%s", diff)
	}
}

func TestServiceManagerIsNotifiedOfAFailure(t *testing.T) {
	t.Parallel()
	s := newSite(t, shipped)
	_, port := s.cloud.Endpoint()
	d := newDevice(t, s.binary, s.dir, "1234567", "device", s.cloud, port)
	m := newManager(t)
	if o := d.run(t, m.environ()); o.code != 3 {
		t.Fatalf("exit code %d:\n%s", o.code, o.stderr)
	}
	sent := m.all(t)
	if len(sent) == 0 || !strings.HasPrefix(sent[len(sent)-1], "STATUS=register thing (GoFleetProvisioningTemplate): ") {
		t.Errorf("sent: %q", sent)
	}
	for _, message := range sent {
		if strings.Contains(message, "READY=1") {
			t.Errorf("sent %q", message)
		}
	}
}

func TestMissingServiceManagerDoesNoHarm(t *testing.T) {
	d := newSite(t, shipped).device(t, "device")
	if o := d.run(t, "NOTIFY_SOCKET="+filepath.Join(t.TempDir(), "nobody")); o.code != 0 {
		t.Errorf("exit code %d:\n%s", o.code, o.stderr)
	}
}
