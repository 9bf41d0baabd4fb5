package fleet

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Stage is a part of what a device goes through.
type Stage string

// The stages. A device opens two connections, one with the claim and one with
// its own certificate, and dial, TLS and connect count both. Of the second
// most is prepared while the first is in use; reconnect is what is left of it
// to wait for. Failed attempts are not in the latencies.
const (
	StageDial      Stage = "dial"      // look-up and TCP
	StageTLS       Stage = "TLS"       // up to the client's last word
	StageConnect   Stage = "connect"   // CONNECT to CONNACK
	StageSubscribe Stage = "subscribe" // to the answers, in one packet
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
var stages = []Stage{
	StageDial, StageTLS, StageConnect, StageSubscribe, StageCreate, StageRegister,
	StageReconnect, StageBirth, StageDevice, StageHold, StagePublish, StageReturn,
}

// Bounds and precision of latencies.
const (
	shortest    = time.Microsecond
	longest     = 2 * time.Hour
	significant = 3 // decimal digits
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(shortest.Microseconds(), longest.Microseconds(), significant)
}

// latencies holds a histogram per stage, in microseconds. It is safe for
// concurrent use.
type latencies struct {
	mu     sync.Mutex
	stages map[Stage]*hdrhistogram.Histogram // under mu
}

func newLatencies() *latencies { return &latencies{stages: map[Stage]*hdrhistogram.Histogram{}} }

func (l *latencies) record(s Stage, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.stages[s]
	if h == nil {
		h = newHistogram()
		l.stages[s] = h
	}
	_ = h.RecordValue(min(max(took, shortest), longest).Microseconds()) // within bounds
}

// A Trouble is something that went wrong, and how often.
type Trouble struct {
	Stage Stage  `json:"stage"`
	Cause string `json:"cause"`
	Count int    `json:"count"`
}

// troubles counts what went wrong by stage and cause. It is safe for
// concurrent use.
type troubles struct {
	mu     sync.Mutex
	counts map[Trouble]int // by Trouble without Count; under mu
}

// maxCauses bounds the list against causes that differ in every device.
const maxCauses = 100

func newTroubles() *troubles { return &troubles{counts: map[Trouble]int{}} }

func (t *troubles) add(s Stage, cause string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := Trouble{Stage: s, Cause: cause}
	if _, known := t.counts[key]; !known && len(t.counts) >= maxCauses {
		key.Cause = "other"
	}
	t.counts[key]++
}

// A counter counts by the second since its beginning. It is safe for
// concurrent use.
type counter struct {
	began time.Time
	mu    sync.Mutex
	by    []int // under mu
}

func (c *counter) add(at time.Time) { c.addAfter(at.Sub(c.began)) }

// addAfter counts something that was so long after the beginning.
func (c *counter) addAfter(d time.Duration) {
	second := max(0, int(d/time.Second))
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.by) <= second {
		c.by = append(c.by, 0)
	}
	c.by[second]++
}

func (c *counter) counts() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]int{}, c.by...)
}
