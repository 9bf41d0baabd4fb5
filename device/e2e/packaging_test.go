package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/identity/tpm"
)

// units are the shipped services, and the command that each runs.
var units = map[string]string{"iot_device.service": "run", "iot_device-bootstrap.service": "bootstrap"}

func readUnit(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../packaging", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// unitSettings returns what stands in a unit, the values of one name in their order.
func unitSettings(t *testing.T, name string) map[string][]string {
	t.Helper()
	settings := map[string][]string{}
	for line := range strings.Lines(readUnit(t, name)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			settings[name] = append(settings[name], value)
		}
	}
	return settings
}

func TestUnitFiles(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-analyze is not installed")
		}
		t.Skip("systemd-analyze is not installed")
	}
	// systemd looks for the program, and for the units that a unit names.
	dir, binary := t.TempDir(), build(t, shipped)
	var paths []string
	for name, verb := range units {
		text := readUnit(t, name)
		if !strings.Contains(text, "ExecStart=/usr/bin/iot_device "+verb+"\n") {
			t.Fatalf("%s does not start iot_device %s", name, verb)
		}
		path := filepath.Join(dir, name)
		writeFile(t, path, strings.Replace(text, "ExecStart=/usr/bin/iot_device", "ExecStart="+binary, 1), 0o644)
		paths = append(paths, path)
	}
	for name, args := range map[string][]string{
		"are valid":        {"verify", "--man=no"},
		"are well secured": {"security", "--offline=yes", "--threshold=15"}, // of 100; systemd calls up to 40 fine
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), "systemd-analyze", append(args, paths...)...).CombinedOutput()
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

// A unit runs what the package has, and the shell that the package's scripts need, too:
// a small image has no other program.
func TestUnitsRunNoProgramThatAnImageMayLack(t *testing.T) {
	for unit := range units {
		for name, values := range unitSettings(t, unit) {
			for _, value := range values {
				program, _, _ := strings.Cut(value, " ")
				if strings.HasPrefix(name, "Exec") && program != "/usr/bin/iot_device" && program != "/bin/sh" {
					t.Errorf("%s: %s=%s", unit, name, value)
				}
			}
		}
	}
}

// No device gives up for good, and none retries so often that a broken fleet is
// an attack.
func TestUnitsRetryEveryFailureSlowerAndSlower(t *testing.T) {
	for unit := range units {
		settings := unitSettings(t, unit)
		for name, want := range map[string]string{
			"Restart": "on-failure", "RestartSec": "30s", "RestartSteps": "10", "RestartMaxDelaySec": "1h",
			"StartLimitIntervalSec": "0", "LimitCORE": "0",
		} {
			if got := strings.Join(settings[name], " "); got != want {
				t.Errorf("%s: %s=%s, want %s", unit, name, got, want)
			}
		}
		for _, name := range []string{"RestartPreventExitStatus", "SuccessExitStatus"} {
			if codes, ok := settings[name]; ok {
				t.Errorf("%s: %s=%s: a device gives up for good", unit, name, codes)
			}
		}
	}
}

// The one-shot verifies the network and the time before its dependents run; the
// agent serves programs before either is there.
func TestAgentAloneStartsWithoutNetworkAndTime(t *testing.T) {
	if after := unitSettings(t, "iot_device-bootstrap.service")["After"]; !slices.Contains(after, "network-online.target time-sync.target") {
		t.Errorf("the one-shot starts after %q", after)
	}
	agent := unitSettings(t, "iot_device.service")
	if all := strings.Join(append(agent["After"], agent["Wants"]...), " "); strings.Contains(all, "online") || strings.Contains(all, "time-sync") {
		t.Errorf("the agent starts after %s", all)
	}
	for name, want := range map[string]string{
		"Type": "notify", "WatchdogSec": "2min", "RuntimeDirectory": "iot_device", "RuntimeDirectoryPreserve": "restart", "Conflicts": "iot_device-bootstrap.service",
	} {
		if got := strings.Join(agent[name], " "); got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
}

// What protects the device from the program is the same in both, and leaves it the
// TPM.
func TestUnitsAreSecuredAlikeAndMayUseTheTPM(t *testing.T) {
	protection := func(unit string) string {
		_, text, ok := strings.Cut(readUnit(t, unit), "\n# Access to its state")
		if !ok {
			t.Fatalf("%s does not say what it may access", unit)
		}
		before, _, _ := strings.Cut(text, "\nMemoryMax=")
		return before
	}
	if diff := cmp.Diff(protection("iot_device-bootstrap.service"), protection("iot_device.service")); diff != "" {
		t.Errorf("one-shot (-), agent (+):\n%s", diff)
	}
	settings := unitSettings(t, "iot_device.service")
	for name, want := range map[string]string{"DevicePolicy": "closed", "DeviceAllow": tpm.DefaultDevice + " rw", "PrivateDevices": "", "SupplementaryGroups": ""} {
		if got := strings.Join(settings[name], " "); got != want { // a group that is missing would fail the unit
			t.Errorf("%s=%s, want %q", name, got, want)
		}
	}
	sysusers, err := os.ReadFile("../packaging/iot_device.sysusers.conf")
	if err != nil || !strings.Contains(string(sysusers), "\nm iot_device tss\n") {
		t.Errorf("the user is not in the group of the TPM: %v\n%s", err, sysusers)
	}
}

func TestUserOfTheServiceCanBeCreated(t *testing.T) {
	if _, err := exec.LookPath("systemd-sysusers"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-sysusers is not installed")
		}
		t.Skip("systemd-sysusers is not installed")
	}
	for unit := range units {
		if user := unitSettings(t, unit)["User"]; !slices.Equal(user, []string{"iot_device"}) {
			t.Fatalf("%s runs as %s", unit, user)
		}
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
