package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// What a bootstrap may take of a small device. Of the binary, TLS, X.509, JSON
// and logs take 5.2 MB, cobra 0.6, paho 0.6 (a third of it WebSockets, which it
// always links), goccy/go-yaml 0.4, proxies 0.1; the agent's net/http and bbolt 1.3,
// its shadows, jobs and tunnels 0.8.
const (
	maxBinarySize = 12_000_000 // bytes, stripped, for linux/amd64
	maxMemory     = 11 << 20   // bytes resident at the peak
	maxIdleAgent  = 16_000_000 // bytes resident of an agent that is connected
)

func onAMD64(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the limits are for linux/amd64")
	}
}

func TestBinaryIsSmall(t *testing.T) {
	onAMD64(t)
	size := sizeOf(t, build(t, shipped))
	t.Logf("%d bytes", size)
	if size > maxBinarySize {
		t.Errorf("the binary has %d bytes, limit %d; \"go tool nm -size -sort size\" shows what takes them", size, maxBinarySize)
	}
}

func TestBootstrapTakesLittleMemory(t *testing.T) {
	onAMD64(t)
	s := newSite(t, shipped)
	for _, flow := range flows {
		t.Run(flow, func(t *testing.T) {
			peak := s.device(t, flow).peakMemory(t)
			t.Logf("%d bytes", peak)
			if peak > maxMemory {
				t.Errorf("a bootstrap takes %d bytes, limit %d", peak, maxMemory)
			}
		})
	}
}

func TestIdleAgentTakesLittleMemory(t *testing.T) {
	onAMD64(t)
	a := newSite(t, shipped).device(t, "device").agent(t)
	a.start(t)
	a.await(t, sent)
	size := resident(t, a.cmd.Process.Pid)
	t.Logf("%d bytes", size)
	if size > maxIdleAgent {
		t.Errorf("an idle agent takes %d bytes, limit %d", size, maxIdleAgent)
	}
}

// resident returns how many bytes of a process are resident.
func resident(t testing.TB, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "VmRSS:")
	var kilobytes int
	if _, err := fmt.Sscan(text, &kilobytes); err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}

func sizeOf(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// peakMemory runs the device and returns how many bytes were resident at most.
// It asks the kernel every millisecond: what wait4 reports of a child counts
// the process that started it, too.
func (d *device) peakMemory(t testing.TB) (peak int64) {
	t.Helper()
	cmd, stderr := d.command(t.Context())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			if peak == 0 {
				t.Fatal("the kernel reported nothing")
			}
			return peak
		case <-tick.C:
			peak = max(peak, highWater(t, cmd.Process.Pid))
		}
	}
}

// highWater returns the peak of a process's resident memory so far, 0 when it
// has ended.
func highWater(t testing.TB, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0 // a zombie has none
}
