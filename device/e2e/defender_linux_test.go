package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/agent"
	"example.com/fleety/device/agent/defender"
	"example.com/fleety/device/localcore"
)

// The device reports to Device Defender what is open, once the policy of the page
// allows it. A rule of the emulator sends the report back.
func TestDefenderReportArrives(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "agent.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "`[{\"Effect\"")
	text, _, _ = strings.Cut(text, "]`")
	templates := t.TempDir()
	if err := os.CopyFS(templates, os.DirFS(filepath.Join("..", "..", "templates"))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(templates, "device_policy.json")
	policy, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	policy = []byte(strings.Replace(string(policy), `"Statement": [`, `"Statement": [{"Effect"`+text+",", 1))
	if err := os.WriteFile(path, policy, 0o600); err != nil || !json.Valid(policy) {
		t.Fatalf("%v\n%s", err, policy)
	}
	s := &site{binary: build(t, shipped), dir: t.TempDir(), cloud: startCloud(t, func(c *localcore.Config) { c.API, c.Templates = "", templates })}
	rule := `{"awsIotSqlVersion": "2016-03-23", "sql": "SELECT * FROM '$aws/things/+/defender/metrics/json'",
		"actions": [{"republish": {"roleArn": "arn:aws:iam::123456789012:role/republish", "topic": "fleet/${topic(3)}/down/report", "qos": 1}}]}`
	created, err := http.Post(s.cloud.APIURL()+"/rules/Reports", "application/json", strings.NewReader(rule))
	if err != nil {
		t.Fatal(err)
	}
	created.Body.Close()
	if created.StatusCode != http.StatusOK {
		t.Fatal(created.Status)
	}
	open, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	// A thing whose first report is due soon.
	const interval = 5 * time.Minute
	for defender.Offset(fmt.Sprintf("fleety_297468%05d", s.serials.Load()+1), interval) > 3*time.Second {
		s.serials.Add(1)
	}
	a := s.device(t, "device").agent(t)
	a.start(t)
	var report struct {
		Topic   string
		Payload string
	}
	received := errors.New("received")
	begin := func() { // there is a subscriber
		config, err := os.OpenFile(filepath.Join(a.dir, "device.yaml"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = config.WriteString("agent: {defender: {interval: 5m}}\n")
		}
		if err = errors.Join(err, config.Close(), a.cmd.Process.Signal(syscall.SIGHUP)); err != nil {
			t.Error(err)
		}
	}
	err = a.client.Subscribe(t.Context(), "report", begin, func(line json.RawMessage) error {
		return errors.Join(json.Unmarshal(line, &report), received)
	})
	var content struct {
		Header struct {
			ReportID int64 `json:"report_id"`
			Version  string
		}
		Metrics struct {
			ListeningTCPPorts struct {
				Ports []struct{ Port int }
				Total int
			} `json:"listening_tcp_ports"`
			TCPConnections json.RawMessage `json:"tcp_connections"`
		}
	}
	if !errors.Is(err, received) {
		t.Fatalf("%v\n%s", err, a.stderr)
	}
	if err := json.Unmarshal([]byte(report.Payload), &content); err != nil {
		t.Fatalf("%v: %+v", err, report)
	}
	m := content.Metrics
	listens := slices.ContainsFunc(m.ListeningTCPPorts.Ports, func(p struct{ Port int }) bool {
		return p.Port == open.Addr().(*net.TCPAddr).Port
	})
	if content.Header.Version != "1.0" || content.Header.ReportID == 0 || m.TCPConnections == nil || !listens && m.ListeningTCPPorts.Total == len(m.ListeningTCPPorts.Ports) {
		t.Errorf("report %s", report.Payload)
	}
	a.await(t, func(s agent.Status) bool { return s.Connected })
}
