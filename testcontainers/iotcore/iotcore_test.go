package iotcore_test

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"

	"example.com/fleety/testcontainers/iotcore"
)

// A container of the image that .ci/release/images makes: a test finds its API,
// its claim and its MQTT port, and what it passes to serve counts.
func TestContainer(t *testing.T) {
	engine(t)
	c, err := iotcore.Run(t.Context(), load(t), iotcore.WithArguments("--log-format", "json"))
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	api, err := c.APIURL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var templates struct {
		Templates []struct{ TemplateName string }
	}
	answer, err := http.Get(api + "/provisioning-templates")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&templates); err != nil || len(templates.Templates) != 1 {
		t.Errorf("templates: %+v, %v", templates, err)
	}

	certificate, key, err := c.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := c.RootCA(t.Context())
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(root) {
		t.Fatalf("root %q: %v", root, err)
	}
	host, port, err := c.MQTTEndpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dialer := tls.Dialer{Config: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "localhost"}}
	conn, err := dialer.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// CONNECT of MQTT 3.1.1 with a clean session and the client id "claim-1".
	connect := "\x10\x13\x00\x04MQTT\x04\x02\x00\x1e\x00\x07claim-1"
	connack := make([]byte, 4)
	if _, err := io.WriteString(conn, connect); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, connack); err != nil || !bytes.Equal(connack, []byte{0x20, 2, 0, 0}) {
		t.Errorf("CONNACK %x, %v", connack, err)
	}
	// The engine hands the log on in its own time.
	var text []byte
	for deadline := time.Now().Add(time.Minute); err == nil && !bytes.Contains(text, []byte(`{"time":`)) && time.Now().Before(deadline); {
		var logs io.ReadCloser
		if logs, err = c.Logs(t.Context()); err == nil {
			text, err = io.ReadAll(logs)
			logs.Close()
		}
	}
	if err != nil || !bytes.Contains(text, []byte(`{"time":`)) {
		t.Errorf("the log is not JSON: %v\n%s", err, text)
	}
}

// engine has Testcontainers use the container engine of this machine, or a Podman
// of the test's own.
func engine(t *testing.T) {
	t.Helper()
	t.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true") // it would be another image; the test removes what it starts
	if _, err := os.Stat("/var/run/docker.sock"); err == nil || os.Getenv("DOCKER_HOST") != "" {
		return
	}
	for _, name := range []string{"podman", "runc", "busybox"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	// Defaults that need no right which a container or a virtual machine may lack.
	containers := "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n"
	if err := os.WriteFile(filepath.Join(dir, "containers.conf"), []byte(containers), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINERS_CONF", filepath.Join(dir, "containers.conf"))
	storage := []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
	// A machine that is a container itself may not be allowed to run one.
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	rootfs := filepath.Join(dir, "rootfs")
	if output, err := exec.Command("install", "-D", busybox, filepath.Join(rootfs, "bin/busybox")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if output, err := exec.Command("podman", append(storage, "run", "--rm", "--rootfs", rootfs, "/bin/busybox", "true")...).CombinedOutput(); err != nil {
		t.Skipf("this machine runs no containers: %v\n%s", err, output)
	}
	socket := filepath.Join(dir, "s")
	service := exec.Command("podman", append(storage, "system", "service", "--time", "0", "unix://"+socket)...)
	service.Stderr = os.Stderr
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		service.Process.Signal(os.Interrupt)
		service.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("podman does not listen")
		}
	}
	t.Setenv("DOCKER_HOST", "unix://"+socket)
}

// load builds the image of iot_core_local as a release does, gives it to the engine
// and returns its name.
func load(t *testing.T) string {
	t.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	stage, layout := t.TempDir(), t.TempDir()
	run := func(dir, name string, args ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), name, args...)
		c.Dir, c.Env = filepath.Join(top, dir), append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
		if output, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(c.Args, " "), err, output)
		}
	}
	run("device", "go", "build", "-trimpath", "-o", filepath.Join(stage, "iot_core_local_linux_"+runtime.GOARCH), "./cmd/iot_core_local")
	run(".", "scripts/build-hook.sh", filepath.Join(stage, "hook_"+runtime.GOARCH), runtime.GOARCH)
	if err := os.WriteFile(filepath.Join(stage, "iot_core_local_THIRD_PARTY_NOTICES.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOWORK", "off")
	run(".ci/release", "go", "run", "./images", "test", "unknown", "0", stage, layout)

	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.AddFS(os.DirFS(filepath.Join(layout, "iot_core_local"))); err != nil {
		t.Fatal(err)
	}
	w.Close()
	provider, err := testcontainers.NewDockerProvider()
	if err != nil {
		t.Fatal(err)
	}
	defer provider.Close()
	answer, err := provider.Client().ImageLoad(t.Context(), &archive)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	text, err := io.ReadAll(answer)
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`Loaded image(?: ID)?: ([^"\\\s]+)`).FindSubmatch(text)
	if name == nil {
		t.Fatalf("the engine answers %s", text)
	}
	return string(name[1])
}
