package fleet

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A meter counts what a launch does. It is safe for concurrent use.
type meter struct {
	began time.Time
	cpu   float64
	total int

	latencies *latencies
	failures  *troubles
	retries   *troubles

	in, out  atomic.Int64 // bytes
	done     atomic.Int64 // devices that have an identity
	failed   atomic.Int64
	enrolled *counter // by second
	lost     *counter // devices that failed, by second
	connects *counter // CONNACKs, by second

	elapsed       time.Duration // of the enrolment
	enrolCPU      float64
	inThen, outTo int64 // bytes at the end of the enrolment

	phase atomic.Pointer[string]
	held  atomic.Int64
}

func newMeter(total int) *meter {
	now := time.Now()
	m := &meter{
		began: now, cpu: usage(), total: total,
		latencies: newLatencies(), failures: newTroubles(), retries: newTroubles(),
		enrolled: &counter{began: now}, lost: &counter{began: now}, connects: &counter{began: now},
	}
	m.enter(PhaseEnrol)
	return m
}

func (m *meter) enter(phase string) { m.phase.Store(&phase) }

func (m *meter) connected() { m.connects.add(time.Now()) }

// deviceEnds counts a device that took so long from when it was due.
func (m *meter) deviceEnds(d *Device, took time.Duration) {
	switch d.Outcome {
	case Enrolled, Already:
		m.latencies.record(StageDevice, took)
		m.done.Add(1)
		m.enrolled.add(time.Now())
	case Failed:
		m.failures.add(d.Stage, d.Cause)
		m.failed.Add(1)
		m.lost.add(time.Now())
	}
}

// enrolmentEnds keeps what has been used so far as the cost of enrolling.
func (m *meter) enrolmentEnds() {
	m.elapsed, m.enrolCPU = time.Since(m.began), usage()-m.cpu
	m.inThen, m.outTo = m.in.Load(), m.out.Load()
}

// The phases of a run.
const (
	PhaseEnrol   = "enrolling"
	PhaseConnect = "connecting" // to hold
	PhaseHold    = "holding"
	PhaseWait    = "waiting for the connections to be lost"
	PhaseReturn  = "reconnecting"
)

// Progress tells how far a run is.
type Progress struct {
	Phase   string
	Devices int // of this process
	Done    int // that have an identity
	Failed  int
	Held    int // that are connected to be held
	Elapsed time.Duration
}

// Rate returns the devices done a second.
func (p Progress) Rate() float64 {
	if p.Elapsed <= 0 {
		return 0
	}
	return float64(p.Done) / p.Elapsed.Seconds()
}

// Left returns how long the rest takes if all goes on as it has; zero when that
// cannot be told.
func (p Progress) Left() time.Duration {
	ended := p.Done + p.Failed
	if ended == 0 || ended >= p.Devices {
		return 0
	}
	return time.Duration(float64(p.Elapsed) * float64(p.Devices-ended) / float64(ended))
}

func (m *meter) progress() Progress {
	return Progress{
		Phase:   *m.phase.Load(),
		Devices: m.total,
		Done:    int(m.done.Load()),
		Failed:  int(m.failed.Load()),
		Held:    int(m.held.Load()),
		Elapsed: time.Since(m.began),
	}
}

// tell reports progress until the returned function is called, and once more
// then.
func (m *meter) tell(to func(Progress)) (stop func()) {
	const interval = 100 * time.Millisecond
	end := make(chan struct{})
	var teller sync.WaitGroup
	teller.Go(func() {
		ticks := time.NewTicker(interval)
		defer ticks.Stop()
		for {
			select {
			case <-ticks.C:
				to(m.progress())
			case <-end:
				to(m.progress())
				return
			}
		}
	})
	return func() {
		close(end)
		teller.Wait()
	}
}

// resident returns the bytes of memory that the process has now, after what it
// can give back is given back; 0 where that cannot be known.
func resident() int64 {
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
