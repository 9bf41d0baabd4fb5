package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/localcore"
	"example.com/fleety/hook/payload"
)

// BenchmarkPeer measures a peer that comes as a package, AWS's own device SDK
// for JavaScript, doing what iot_device does with service keys: the same local
// core, the same links as [BenchmarkBootstrap], a process for each device. Its
// script keeps nothing on disk.
func BenchmarkPeer(b *testing.B) {
	folder := filepath.Join("..", "localcore", "testdata", "awssdk")
	if _, err := exec.LookPath("node"); err != nil {
		b.Skip("the peer needs node")
	}
	if found, _ := filepath.Glob(filepath.Join(folder, "node_modules", "aws-iot-device-sdk-v2")); found == nil {
		b.Skip("the peer is not installed: npm ci --ignore-scripts in " + folder)
	}
	s := newSite(b, shipped)
	for _, rtt := range []time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond} {
		b.Run(fmt.Sprintf("aws-iot-device-sdk-js-v2/%v", rtt), func(b *testing.B) { s.benchmarkPeer(b, folder, rtt) })
	}
}

func (s *site) benchmarkPeer(b *testing.B, folder string, rtt time.Duration) {
	link := newLink(b, s.cloud.address(), rtt/2)
	defer link.close()
	var cpu time.Duration
	var peak int64
	for b.Loop() {
		b.StopTimer()
		work := s.peersWork(b, link.port())
		b.StartTimer()
		cmd := exec.CommandContext(b.Context(), "node", "provision.js")
		cmd.Dir, cmd.Stdin = folder, bytes.NewReader(work)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		peak = max(peak, int64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)<<10)
	}
	b.ReportMetric(cpu.Seconds()*1e3/float64(b.N), "cpu-ms/op")
	b.ReportMetric(float64(peak), "peak-bytes")
}

// peersWork is what the peer's script reads, for a new device.
func (s *site) peersWork(b *testing.B, port int) []byte {
	b.Helper()
	claim := s.cloud.Claim()
	work, err := json.Marshal(map[string]any{
		"protocol": "mqtt311", "endpoint": "localhost", "port": port, "root": string(s.cloud.RootPEM()),
		"certificate": string(claim.CertificatePEM), "key": string(claim.PrivateKeyPEM), "template": localcore.TemplateName,
		"parameters": map[string]string{
			payload.SerialNumber:   fmt.Sprintf("%s%05d", payload.SerialPrefix, s.serials.Add(1)),
			payload.DeviceLocation: "USA",
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	return work
}
