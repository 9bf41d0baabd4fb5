package devicecli

import (
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/fleety/device/internal/cli"
	"example.com/fleety/device/internal/config"
)

func TestLocalAPIServesShadows(t *testing.T) {
	mux := http.NewServeMux()
	dir := t.TempDir()
	d := &device{config: &config.Config{StateDir: dir}, files: &config.Files{}}
	d.config.Agent.Shadows = []config.Shadow{{}, {Name: "config"}}
	console := &cli.Console{Log: slog.New(slog.DiscardHandler)}
	if err := os.MkdirAll(agentDir(d.config), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.openShadows(console); err != nil {
		t.Fatal(err)
	}
	for pattern, handler := range d.routes(console) {
		mux.Handle(pattern, handler)
	}
	for _, tc := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/shadows/", "", 200, `{"state":{},"version":0,"pending":false}`},
		{"PATCH", "/v1/shadows/config", `{"state":{"reported":{"a":1}}}`, 200, `{"state":{"reported":{"a":1}},"version":0,"pending":true}`},
		{"PATCH", "/v1/shadows/", `{"state":{"reported":{"b":1}}}`, 200, `{"state":{"reported":{"b":1}},"version":0,"pending":true}`},
		{"GET", "/v1/shadows", "", 200, `{"state":{"reported":{"b":1}},"version":0,"pending":true}`},
		{"PATCH", "/v1/shadows", "x", 400, ""},
		{"GET", "/v1/shadows/config", "", 200, `{"state":{"reported":{"a":1}},"version":0,"pending":true}`},
		{"GET", "/v1/shadows/other", "", 404, ""},
		{"PATCH", "/v1/shadows/a/b", "{}", 404, ""},
		{"PATCH", "/v1/shadows/config", "x", 400, ""},
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body)))
		if w.Code != tc.status {
			t.Errorf("%s %s: %d %s", tc.method, tc.path, w.Code, w.Body)
		}
		if got := strings.TrimSpace(w.Body.String()); tc.want != "" && got != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.method, tc.path, got, tc.want)
		} else if tc.want == "" && !strings.Contains(got, `{"error":`) {
			t.Errorf("%s %s: %s", tc.method, tc.path, w.Body)
		}
	}
}

// What cannot be read says nothing of whether the device has an identity: the claim, which a device
// without one needs, is not left out.
func TestDeviceWhoseIdentityCannotBeReadIsNotOpened(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "device.yaml")
	text := "{serialNumber: 2974685, deviceLocation: USA, stateDir: loop, server: {endpoint: localhost}, " +
		"bootstrap: {cacertificatepath: root.pem, privatekeypath: claim.key, certificatepath: claim.pem, provisioningTemplate: T}}"
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "root.pem"), localhostRoots(t), 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err := open(t.Context(), &cli.Console{Log: slog.New(slog.DiscardHandler)}, config.Sources{Path: file}, false, false)
	if !errors.Is(err, syscall.ELOOP) {
		t.Error(err)
	}
}

// localhostRoots returns a certificate in PEM.
func localhostRoots(t *testing.T) []byte {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}
