package e2e

import (
	"flag"
	"fmt"
	"sort"
	"strings"
	"sync"
	"testing"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore"
)

var crashPairs = flag.Int("crash.pairs", 97, "tests of two failures take one of so many pairs of instants; 1 takes all")

// killAt makes a binary with failpoints kill itself before that change to the
// disk, the first being 1.
func killAt(call int) string { return fmt.Sprintf("IOT_DEVICE_KILL_AT_DISK_CALL=%d", call) }

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

// changes returns how many changes to the disk an undisturbed run makes, which is counted
// once for each flow.
func changes(t *testing.T, flow string) int {
	t.Helper()
	counted.Lock()
	defer counted.Unlock()
	if n, ok := counted.changes[flow]; ok {
		return n
	}
	s := newSite(t, withKillers)
	n := sort.Search(200, func(n int) bool { return !runTo(t, s.device(t, flow), n+1) })
	if n < 30 { // four steps and three files, each created, written, synced and renamed
		t.Fatalf("only %d changes of the disk", n)
	}
	counted.changes[flow] = n
	return n
}

var counted = struct {
	sync.Mutex
	changes map[string]int // by flow
}{changes: map[string]int{}}

func TestAKillBeforeAnyChangeOfTheDiskLosesNothing(t *testing.T) {
	t.Parallel()
	for _, flow := range flows {
		t.Run(flow, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, withKillers)
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
	t.Parallel()
	for _, flow := range flows {
		s := newSite(t, withKillers)
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

// TestKillAndLostAnswerLoseNothing pairs a change to the disk before which the
// device is killed with a request whose answer is lost, before it or after.
func TestKillAndLostAnswerLoseNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, withKillers)
	var mu sync.Mutex
	loses := map[string]awsiot.Operation{} // by serial number; once each
	s.cloud.Faults.Set(func(x localcore.Exchange) localcore.Fault {
		mu.Lock()
		defer mu.Unlock()
		for serial, operation := range loses {
			if operation == x.Operation && strings.Contains(x.ClientID, serial) {
				delete(loses, serial)
				return localcore.Fault{CloseAfter: true}
			}
		}
		return localcore.Fault{}
	})
	n := changes(t, "device")
	for worker := range crashWorkers {
		t.Run(fmt.Sprint(worker), func(t *testing.T) {
			t.Parallel()
			step := max(1, *crashPairs/30)
			for pair := worker * step; pair < 2*n; pair += crashWorkers * step {
				d := s.device(t, "device")
				mu.Lock()
				loses[d.serial] = []awsiot.Operation{awsiot.CreateCertificateFromCSR, awsiot.RegisterThing}[pair%2]
				mu.Unlock()
				runTo(t, d, 1+pair/2)
				d.mustRun(t)
				d.checkWhole(t, s.cloud)
			}
		})
	}
}
