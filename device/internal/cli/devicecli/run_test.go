package devicecli

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
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
