package defender_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/fleety/device/agent/defender"
)

// A conn keeps what is published.
type conn struct {
	t       *testing.T
	at      []time.Time
	reports []report
}

type report struct {
	Header struct {
		ReportID int64 `json:"report_id"`
		Version  string
	}
	Metrics map[string]any
}

func (c *conn) ThingName() string    { return "fleety_1" }
func (c *conn) SessionPresent() bool { return true }

func (c *conn) Publish(_ context.Context, topic string, payload []byte) error {
	var r report
	if err := json.Unmarshal(payload, &r); err != nil || topic != "$aws/things/fleety_1/defender/metrics/json" || len(payload) > 128<<10 {
		c.t.Errorf("published to %s: %v, %s", topic, err, payload)
	}
	c.at, c.reports = append(c.at, time.Now()), append(c.reports, r)
	return nil
}

// copyNet copies the fixture of little-endian machines.
func copyNet(t *testing.T) string {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Reports are sent once in an interval, over connections too, with ids that rise, the sockets that
// others can reach, and the traffic since the report before.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, c := copyNet(t), &conn{t: t}
		began := time.Now()
		r := &defender.Reporter{Interval: 5 * time.Minute, Net: dir}
		for range 3 { // connections
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			if err := r.Serve(ctx, c); err != nil {
				t.Error(err)
			}
			cancel()
			text := "eth0: 1700 17 0 0 0 0 0 0 2900 29 0 0 0 0 0 0\nwlan0: 500 5 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n"
			if err := os.WriteFile(filepath.Join(dir, "dev"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if len(c.reports) < 5 || len(c.reports) > 6 || c.at[0].Sub(began) > 5*time.Minute {
			t.Fatalf("reports at %v", c.at)
		}
		for i := 1; i < len(c.reports); i++ {
			if c.at[i].Sub(c.at[i-1]) < 5*time.Minute || c.reports[i].Header.ReportID <= c.reports[i-1].Header.ReportID {
				t.Errorf("report %d at %v has id %d, the one before at %v %d", i, c.at[i], c.reports[i].Header.ReportID, c.at[i-1], c.reports[i-1].Header.ReportID)
			}
		}
		listed := func(total int, numbers ...float64) map[string]any {
			ports := []any{}
			for _, n := range numbers {
				ports = append(ports, map[string]any{"port": n})
			}
			return map[string]any{"ports": ports, "total": float64(total)}
		}
		want := map[string]any{
			"listening_tcp_ports": listed(2, 22, 8080),
			"listening_udp_ports": listed(1, 68),
			"tcp_connections": map[string]any{"established_connections": map[string]any{"total": 2.0, "connections": []any{
				map[string]any{"local_port": 54321.0, "remote_addr": "52.27.7.42:8883"},
				map[string]any{"local_port": 8080.0, "remote_addr": "192.168.0.11:40000"},
			}}},
		}
		if diff := cmp.Diff(want, c.reports[0].Metrics); diff != "" {
			t.Errorf("first report (-want +got):\n%s", diff)
		}
		sum := 0.0
		for _, r := range c.reports[1:] {
			stats := r.Metrics["network_stats"].(map[string]any)
			sum += stats["bytes_in"].(float64) + 1e4*stats["bytes_out"].(float64) + 1e8*stats["packets_in"].(float64) + 1e10*stats["packets_out"].(float64)
		}
		if sum != 700+900e4+7e8+9e10 {
			t.Errorf("traffic of %v", sum)
		}
		// One interface has gone, and another one has had larger packets.
		if err := os.WriteFile(filepath.Join(dir, "dev"), []byte("eth0: 9000 3 0 0 0 0 0 0 9000 3 0 0 0 0 0 0\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
		defer cancel()
		if err := r.Serve(ctx, c); err != nil {
			t.Error(err)
		}
		if stats := c.reports[len(c.reports)-1].Metrics["network_stats"]; stats != nil {
			t.Errorf("traffic of %v", stats)
		}
	})
}

// A report stays within the size of a message, whatever is open.
// A device may have no interface but the loopback for a while.
func TestReportWithoutInterfacesHasNoTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, c := copyNet(t), &conn{t: t}
		if err := os.WriteFile(filepath.Join(dir, "dev"), []byte("lo: 700 7 0 0 0 0 0 0 700 7 0 0 0 0 0 0\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 11*time.Minute)
		defer cancel()
		r := &defender.Reporter{Interval: 5 * time.Minute, Net: dir}
		if err := r.Serve(ctx, c); err != nil {
			t.Error(err)
		}
		want := map[string]any{"bytes_in": 0.0, "bytes_out": 0.0, "packets_in": 0.0, "packets_out": 0.0}
		if diff := cmp.Diff(want, c.reports[1].Metrics["network_stats"]); diff != "" {
			t.Errorf("traffic (-want +got):\n%s", diff)
		}
	})
}

func TestReportOfManySocketsFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, c := copyNet(t), &conn{t: t}
		line := "0: 0A00A8C0:D431 2A071B34:22B3 01\n1: 00000000:0016 00000000:0000 0A\n"
		if err := os.WriteFile(filepath.Join(dir, "tcp"), []byte(strings.Repeat(line, 20_000)), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		r := &defender.Reporter{Interval: 5 * time.Minute, Net: dir}
		if err := r.Serve(ctx, c); err != nil {
			t.Error(err)
		}
		if len(c.reports) != 1 || c.reports[0].Metrics["listening_tcp_ports"].(map[string]any)["total"] != 20_001.0 {
			t.Errorf("%d reports", len(c.reports))
		}
	})
}

func TestMachineWithoutProcIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &defender.Reporter{Interval: 5 * time.Minute, Net: t.TempDir()}
		if err := r.Serve(t.Context(), &conn{t: t}); err == nil {
			t.Error("reported nothing")
		}
	})
}
