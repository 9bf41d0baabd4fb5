//go:build linux

package fleet_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/fleety/device/fleet"
	"example.com/fleety/device/localcore"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
	"example.com/fleety/hook/payload"
)

// BenchmarkHeld enrolls devices and holds them, against an iot_core_local in a process of its own
// with the real hook. Metrics:
//
//	devices/s      enrolled in a second
//	%core          the emulator's share of the CPU time of both, hook included
//	fleet-kB/held  memory for each device that is held, on this side
//	core-kB/held   the same on the emulator's, as it is resident, garbage included
func BenchmarkHeld(b *testing.B) {
	defer runtime.KeepAlive(make([]byte, 16<<20)) // the ballast of iot_fleet
	core := startProcess(b)
	c := core.config(b, b.N)
	c.Hold, c.Interval = time.Second, time.Minute
	idle := core.resident(b)
	var once sync.Once
	var held int64
	c.Progress = func(p fleet.Progress) {
		if p.Phase == fleet.PhaseHold {
			once.Do(func() { held = core.resident(b) })
		}
	}
	b.ResetTimer()
	var r *fleet.Report
	_, fleetCPU := took(func() { r = enroll(b, c) })
	b.StopTimer()
	if r.Hold.Most != b.N {
		b.Errorf("held %+v, retries %+v", r.Hold, r.Retries)
	}
	coreCPU := core.stop(b)
	b.ReportMetric(r.DevicesPerSecond, "devices/s")
	b.ReportMetric(100*coreCPU.Seconds()/(coreCPU+fleetCPU).Seconds(), "%core")
	b.ReportMetric(float64(r.Hold.BytesPerDevice)/1000, "fleet-kB/held")
	b.ReportMetric(float64(held-idle)/1000/float64(b.N), "core-kB/held")
}

// A coreProcess is an iot_core_local in a process of its own.
type coreProcess struct {
	cmd   *exec.Cmd
	dir   string
	ready struct {
		Endpoint string
		Port     int
	}
}

func startProcess(b *testing.B) *coreProcess {
	b.Helper()
	p := &coreProcess{dir: b.TempDir()}
	p.cmd = exec.CommandContext(b.Context(), build(b, "..", "./cmd/iot_core_local"), "serve", "--json", "--log-level", "error",
		"--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--templates", "../../templates", "--hook", build(b, "../../hook", "."), "--credentials", p.dir)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &p.ready)
	}
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// config describes n devices against the process.
func (p *coreProcess) config(b *testing.B, n int) fleet.Config {
	b.Helper()
	claim, err := tls.LoadX509KeyPair(filepath.Join(p.dir, "fleet-provisioning.certificate.pem"), filepath.Join(p.dir, "fleet-provisioning.private.key"))
	if err != nil {
		b.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(p.dir, "root.ca.bundle.pem"))
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	serials, err := fleet.NewSerials(payload.SerialPrefix, "", n)
	if err != nil {
		b.Fatal(err)
	}
	return fleet.Config{Serials: serials, Device: func(serial string) provision.Config {
		return provision.Config{
			Session:           session.Options{Endpoint: p.ready.Endpoint, Port: p.ready.Port, RootCAs: roots, Proxy: "direct"},
			Claims:            []*tls.Certificate{&claim},
			Template:          localcore.TemplateName,
			Parameters:        map[string]string{payload.SerialNumber: serial, payload.DeviceLocation: "USA"},
			ExpectedThingName: "fleety_" + serial,
		}
	}}
}

// resident returns the bytes of memory of the process.
func (p *coreProcess) resident(b *testing.B) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		b.Error(err)
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	var kB int64
	if _, err := fmt.Sscan(after, &kB); err != nil {
		b.Error(err)
	}
	return kB << 10
}

// stop ends the process and returns the CPU time of it and its children.
func (p *coreProcess) stop(b *testing.B) time.Duration {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		b.Error(err)
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}
