package device_test

import (
	"flag"
	"fmt"
	"sort"
	"sync/atomic"
	"testing"
)

var crashPairs = flag.Int("crash.pairs", 97, "TestTwoKills takes one of so many pairs of instants; 1 takes all")

// killAt makes a binary with failpoints kill itself before that change to the
// disk, the first being 1.
func killAt(call int) string { return fmt.Sprintf("IOT_DEVICE_KILL_AT_DISK_CALL=%d", call) }

// A crashSite has a cloud and makes devices for it.
type crashSite struct {
	cloud       *cloud
	binary, dir string
	serials     atomic.Int64
}

func newCrashSite(t testing.TB, binary func() (string, error)) *crashSite {
	return &crashSite{cloud: startCloud(t), binary: build(t, binary), dir: t.TempDir()}
}

// device returns a new device that reaches the cloud directly.
func (s *crashSite) device(t testing.TB, flow string) *device {
	t.Helper()
	_, port := s.cloud.Endpoint()
	return s.deviceAt(t, flow, port)
}

// deviceAt returns a new device that reaches the cloud through a port.
func (s *crashSite) deviceAt(t testing.TB, flow string, port int) *device {
	t.Helper()
	return newDevice(t, s.binary, s.dir, fmt.Sprintf("297468%05d", s.serials.Add(1)), flow, s.cloud, port)
}

// runTo runs the device up to a change to the disk, and reports whether there
// was that change.
func runTo(t *testing.T, d *device, call int) bool {
	t.Helper()
	o := d.run(t, killAt(call))
	if !signalled(o.state) && o.code != 0 {
		t.Fatalf("%s: exit code %d:\n%s", d.serial, o.code, o.stderr)
	}
	d.load(t) // finds no half identity
	return signalled(o.state)
}

// changes returns how many changes to the disk an undisturbed run makes.
func changes(t *testing.T, flow string) int {
	t.Helper()
	s := newCrashSite(t, withKillers)
	n := sort.Search(200, func(n int) bool { return !runTo(t, s.device(t, flow), n+1) })
	if n < 30 { // four steps and three files, each created, written, synced and renamed
		t.Fatalf("only %d changes of the disk", n)
	}
	return n
}

func TestAKillBeforeAnyChangeOfTheDiskLosesNothing(t *testing.T) {
	for _, flow := range flows {
		t.Run(flow, func(t *testing.T) {
			t.Parallel()
			s := newCrashSite(t, withKillers)
			var devices []*device
			for call := range changes(t, flow) {
				d := s.device(t, flow)
				if !runTo(t, d, 1+call) {
					t.Errorf("%s: not killed at change %d", d.serial, 1+call)
				}
				d.mustRun(t)
				d.checkWhole(t, s.cloud)
				devices = append(devices, d)
			}
			s.cloud.checkNothingLeft(t, devices)
		})
	}
}

func TestTwoKillsLoseNothing(t *testing.T) {
	for _, flow := range flows {
		s := newCrashSite(t, withKillers)
		n := changes(t, flow)
		for worker := range crashWorkers {
			t.Run(fmt.Sprint(flow, worker), func(t *testing.T) {
				t.Parallel()
				for pair := worker * *crashPairs; pair < n*n; pair += crashWorkers * *crashPairs {
					d := s.device(t, flow)
					runTo(t, d, 1+pair/n)
					runTo(t, d, 1+pair%n)
					d.mustRun(t)
					d.checkWhole(t, s.cloud)
				}
			})
		}
	}
}
