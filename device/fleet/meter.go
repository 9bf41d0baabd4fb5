package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// A Stage is a part of what a device goes through.
type Stage string

// The stages. A device opens two connections, one with the claim and one with its own certificate,
// and dial, TLS and connect count both. Most of the second is prepared while the first is in use;
// reconnect is the part of it that the device waits for. Failed attempts are not in the latencies.
const (
	StageDial      Stage = "dial"      // name resolution and TCP
	StageTLS       Stage = "TLS"       // up to the client's last message
	StageConnect   Stage = "connect"   // CONNECT to CONNACK
	StageSubscribe Stage = "subscribe" // to the response topics, in one packet
	StageCreate    Stage = "create"    // the certificate
	StageRegister  Stage = "register"  // the thing, hook included
	StageReconnect Stage = "reconnect" // with the device's own certificate
	StageBirth     Stage = "birth"     // the first message, acknowledged
	StageDevice    Stage = "device"    // all of it, from when the device was due
	StageHold      Stage = "hold"      // connecting once more, to be held
	StagePublish   Stage = "publish"   // a message of a device that is held
	StageReturn    Stage = "return"    // from the loss of a connection to the next CONNACK
)

// stages in the order of reports.
var stages = [...]Stage{
	StageDial, StageTLS, StageConnect, StageSubscribe, StageCreate, StageRegister,
	StageReconnect, StageBirth, StageDevice, StageHold, StagePublish, StageReturn,
}

// Bounds and precision of latencies.
const (
	shortest    = time.Microsecond
	longest     = 2 * time.Hour
	significant = 3 // decimal digits
)

// A Failure is a cause of failed devices or attempts, and how often it occurred.
type Failure struct {
	Stage Stage  `json:"stage"`
	Cause string `json:"cause"`
	Count int    `json:"count"`
}

// maxCauses bounds the list against causes that differ in every device.
const maxCauses = 100

// failures counts failures, by Failure without Count.
type failures map[Failure]int

// add counts failures, each as often as its Count says.
func (t failures) add(list ...Failure) {
	for _, f := range list {
		n := f.Count
		f.Count = 0
		if _, known := t[f]; !known && len(t) >= maxCauses {
			f.Cause = "other"
		}
		t[f] += n
	}
}

// countAt counts an event that long after the beginning, by the second.
func countAt(by *[]int, after time.Duration) {
	*by = addCounts(*by, []int{1}, max(0, int(after/time.Second)))
}

// addCounts adds counts by the second that began late seconds later.
func addCounts(sum, counts []int, late int) []int {
	sum = append(sum, make([]int, max(0, late+len(counts)-len(sum)))...)
	for second, n := range counts {
		sum[late+second] += n
	}
	return sum
}

// A meter measures a launch. It is safe for concurrent use.
type meter struct {
	began time.Time
	cpu   float64 // before
	total int

	in, out      atomic.Int64 // bytes
	done, failed atomic.Int64 // devices
	held         atomic.Int64 // connected
	phase        atomic.Pointer[Phase]
	latest       atomic.Pointer[Failure]

	mu                sync.Mutex
	latencies         map[Stage]*hdrhistogram.Histogram // in microseconds; under mu
	failures, retries failures                          // under mu
	timeline          Timeline                          // under mu
}

func newMeter(total int) *meter {
	m := &meter{
		began: time.Now(), cpu: usage(), total: total,
		latencies: map[Stage]*hdrhistogram.Histogram{}, failures: failures{}, retries: failures{},
		timeline: Timeline{Enrolled: []int{}, Failed: []int{}, Connects: []int{}},
	}
	m.enter(PhaseEnroll)
	return m
}

// record adds a latency.
func (m *meter) record(s Stage, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.histogram(s).RecordValue(min(max(took, shortest), longest).Microseconds()) // within bounds
}

// histogram returns that of a stage; m.mu is held.
func (m *meter) histogram(s Stage) *hdrhistogram.Histogram {
	if m.latencies[s] == nil {
		m.latencies[s] = hdrhistogram.New(shortest.Microseconds(), longest.Microseconds(), significant)
	}
	return m.latencies[s]
}

// fail counts a failure of a device or of an attempt.
func (m *meter) fail(to failures, s Stage, cause string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	to.add(Failure{s, cause, 1})
	m.latest.Store(&Failure{s, cause, 1})
}

// count counts by the second.
func (m *meter) count(by *[]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	countAt(by, time.Since(m.began))
}

// connected measures a connection.
func (m *meter) connected(s session.Stats) {
	m.record(StageDial, s.Dial)
	m.record(StageTLS, s.Handshake)
	m.record(StageConnect, s.Connect)
	m.count(&m.timeline.Connects)
}

// closed counts what was transferred while enrolling.
func (m *meter) closed(s session.Stats) {
	m.in.Add(s.BytesIn)
	m.out.Add(s.BytesOut)
}

func (m *meter) enter(p Phase) { m.phase.Store(&p) }

// ended counts a device that took that long from when it was due.
func (m *meter) ended(d *Device, took time.Duration) {
	switch d.Outcome {
	case Enrolled, Already:
		m.record(StageDevice, took)
		m.done.Add(1)
		m.count(&m.timeline.Enrolled)
	case Failed:
		m.fail(m.failures, d.Stage, d.Cause)
		m.failed.Add(1)
		m.count(&m.timeline.Failed)
	}
}

// A Phase is a part of a run.
type Phase string

// The phases of a run.
const (
	PhaseEnroll  Phase = "enrolling"
	PhaseConnect Phase = "connecting" // to hold
	PhaseHold    Phase = "holding"
)

// Progress is the state of a run.
type Progress struct {
	Phase   Phase
	Devices int // of this process
	Done    int // that have an identity
	Failed  int
	Held    int // that are connected to be held
	Elapsed time.Duration
	Latest  *Failure // of a device or of an attempt; nil for none
}

// Rate returns the devices done per second.
func (p Progress) Rate() float64 { return ratio(float64(p.Done), p.Elapsed.Seconds()) }

// Left estimates the remaining time from the time so far; zero when it is unknown.
func (p Progress) Left() time.Duration {
	ended := p.Done + p.Failed
	if ended == 0 || ended >= p.Devices {
		return 0
	}
	return time.Duration(float64(p.Elapsed) * float64(p.Devices-ended) / float64(ended))
}

// reportProgress reports progress until the returned function is called, also when ctx ends, and once
// more then.
func (m *meter) reportProgress(ctx context.Context, to func(Progress)) (stop func()) {
	const interval = 100 * time.Millisecond
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	var reporter sync.WaitGroup
	reporter.Go(func() {
		for open := true; open; {
			open = sleep(ctx, interval) == nil
			to(Progress{
				Phase: *m.phase.Load(), Devices: m.total, Done: int(m.done.Load()), Failed: int(m.failed.Load()),
				Held: int(m.held.Load()), Elapsed: time.Since(m.began), Latest: m.latest.Load(),
			})
		}
	})
	return func() {
		end()
		reporter.Wait()
	}
}

// resident returns the process's resident memory in bytes, after what can be returned to the system
// is returned; 0 where it is unknown.
func resident() int64 {
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	var size, pages int64
	if _, scanErr := fmt.Sscan(string(statm), &size, &pages); err != nil || scanErr != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// stageOf returns the stage at which a connection failed.
func stageOf(err error, otherwise Stage) Stage {
	if e, ok := errors.AsType[*session.Error](err); ok {
		switch e.Stage {
		case session.StageResolve, session.StageDial, session.StageProxy:
			return StageDial
		case session.StageTLS:
			return StageTLS
		}
	}
	return otherwise
}

// cause returns why something failed, in a text that is the same for every device, so that failures
// can be counted.
func cause(err error, serial string) string {
	if e, ok := errors.AsType[*provision.TimeoutError](err); ok {
		return e.Error()
	}
	if errors.Is(err, session.ErrClosedSilently) {
		return strings.TrimSuffix("connection closed without a response to "+session.Unanswered(err), " to ")
	}
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return "server sent a TLS alert: " + alert.Error()
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	}
	return strings.ReplaceAll(root(err).Error(), serial, "SERIAL")
}

// root follows the chain of causes to its end. Of several it takes the last, since what wraps an
// error says what that was.
func root(err error) error {
	if several, ok := err.(interface{ Unwrap() []error }); ok && len(several.Unwrap()) > 0 {
		errs := several.Unwrap()
		return root(errs[len(errs)-1])
	}
	if next := errors.Unwrap(err); next != nil {
		return root(next)
	}
	return err
}
