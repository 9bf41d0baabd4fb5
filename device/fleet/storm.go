package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// Stormed tells of a storm: devices that lost their connections at once, and
// how they came back.
type Stormed struct {
	Devices       int     `json:"devices"` // that were connected before
	Returned      int     `json:"returned"`
	Refused       int     `json:"refused"` // given up for a refusal
	WindowSeconds float64 `json:"windowSeconds"`
	ReturnSeconds float64 `json:"returnSeconds"` // from the first loss until the last was back
	// Connects are the CONNACKs by the second from the first loss on, Attempts
	// the attempts, those included that found nobody to answer.
	Connects []int `json:"connects"`
	Attempts []int `json:"attempts"`
	// PeakConnects is the greatest of Connects; IdealConnects what it would be
	// if the same devices came back evenly over the window. Without jitter that
	// is the window that there could have been.
	PeakConnects  int     `json:"peakConnects"`
	IdealConnects float64 `json:"idealConnects"`
}

// StormConfig says who is to lose the connection and how they come back.
// Device and Identities are required.
type StormConfig struct {
	// Device returns how a device reaches AWS IoT; only its Session counts.
	Device     func(serial string) provision.Config
	Identities []*identity.Identity
	// Concurrency bounds the connecting before the storm; zero means
	// [DefaultConcurrency]. Nothing bounds the coming back.
	Concurrency int
	// Window is the time over which the first attempts spread, each at random
	// within it (full jitter); the windows of further attempts double. Zero
	// means [DefaultWindow].
	Window time.Duration
	// NoJitter comes back at once, and again after pauses that double, as a
	// naive device does: to see what jitter is good for.
	NoJitter bool
	// Cut ends the connections from this side, all at once. Otherwise the storm
	// begins when the broker ends them.
	Cut bool

	Progress func(Progress)
}

// Defaults and limits of a storm.
const (
	DefaultWindow = 30 * time.Second
	MaxWindow     = time.Hour
	// calmAfter is how long nobody may have been lost for a storm to be over.
	calmAfter = 2 * time.Second
)

// Check reports what keeps a storm from starting.
func (c StormConfig) Check() error {
	switch {
	case len(c.Identities) == 0:
		return errors.New("no devices with an identity: enrol some with --keep first")
	case c.Window < 0 || c.Window > MaxWindow:
		return &ValueError{"window", c.Window.String(), fmt.Sprintf("more than 0 and at most %s", MaxWindow)}
	case c.Concurrency < 0 || c.Concurrency > MaxConcurrency:
		return &ValueError{"concurrency", fmt.Sprint(c.Concurrency), fmt.Sprintf("1 to %d", MaxConcurrency)}
	}
	const own = 64
	return checkFiles(own + 2*len(c.Identities))
}

// A storm is a crowd that loses its connections.
type storm struct {
	*crowd
	StormConfig
	began    atomic.Pointer[time.Time] // the first loss
	last     atomic.Int64              // the latest return, nanoseconds after began
	calm     atomic.Int64              // the latest loss, Unix nanoseconds
	returned atomic.Int64
	refused  atomic.Int64
	attempts counter
	connects counter
}

// Storm connects all devices, waits until they lose their connections, and
// measures how they come back. When ctx ends the storm is over, and its error
// is that of ctx; the report tells how far it came.
func Storm(ctx context.Context, c StormConfig) (*Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	s := newStorm(c)
	stop := s.meter.tell(s.StormConfig.Progress)
	s.meter.enter(PhaseConnect)
	s.connectAll(ctx)
	s.meter.enter(PhaseWait)
	s.rage(ctx)
	r := s.report()
	s.closeAll()
	stop()
	s.meter.enrolmentEnds()
	s.meter.fill(r)
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	return r, nil
}

func newStorm(c StormConfig) *storm {
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	l := &launch{Config: Config{Device: c.Device}, meter: newMeter(len(c.Identities))}
	l.Load.Concurrency = c.Concurrency
	l.Load = l.Load.withDefaults()
	l.meter.done.Store(int64(len(c.Identities)))
	s := &storm{crowd: &crowd{launch: l}, StormConfig: c}
	for _, id := range c.Identities {
		o := l.measured(c.Device(id.Record.SerialNumber).Session)
		s.members = append(s.members, &member{identity: id, session: o})
	}
	return s
}

// rage waits for the storm and returns when it is over: everyone who was lost
// is back or refused, and nobody else is lost for a while.
func (s *storm) rage(ctx context.Context) {
	ctx, over := context.WithCancel(ctx)
	defer over()
	var members sync.WaitGroup
	for _, m := range s.members {
		if m.live != nil {
			members.Go(func() { s.endure(ctx, m) })
		}
	}
	if s.Cut {
		for _, m := range s.members {
			if live := m.live; live != nil {
				members.Go(func() { _ = live.Close(ctx) })
			}
		}
	}
	for s.meter.held.Load() > 0 || s.began.Load() != nil {
		if sleep(ctx, 50*time.Millisecond) != nil || s.isOver() {
			break
		}
	}
	over()
	members.Wait()
}

func (s *storm) isOver() bool {
	lost := s.lost.Load()
	return lost > 0 && lost == s.returned.Load()+s.refused.Load() &&
		time.Since(time.Unix(0, s.calm.Load())) > calmAfter
}

// endure waits for the member's loss and brings it back.
func (s *storm) endure(ctx context.Context, m *member) {
	select {
	case <-m.live.Done():
	case <-ctx.Done():
		return
	}
	lostAt := s.loss()
	_ = m.live.Close(ctx)
	m.live = nil
	err := s.comeBack(ctx, m)
	switch {
	case err == nil:
		s.meter.latencies.record(StageReturn, time.Since(lostAt))
		raise(&s.last, int64(time.Since(*s.began.Load())))
		s.returned.Add(1)
	case ctx.Err() == nil:
		s.refused.Add(1)
	}
}

// loss notes that a connection was lost now.
func (s *storm) loss() time.Time {
	now := time.Now()
	if s.began.CompareAndSwap(nil, &now) {
		s.meter.enter(PhaseReturn)
	}
	s.calm.Store(now.UnixNano())
	s.meter.held.Add(-1)
	s.lost.Add(1)
	return now
}

// comeBack connects again until that succeeds or is refused.
func (s *storm) comeBack(ctx context.Context, m *member) error {
	delays := s.delays()
	for {
		if err := sleep(ctx, delays.NextBackOff()); err != nil {
			return err
		}
		s.count(&s.attempts)
		live, err := session.Connect(ctx, m.options())
		if err == nil {
			m.live = live
			s.count(&s.connects)
			s.arrived()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.meter.retries.add(stageOf(err, StageReturn), cause(err, m.identity.Record.SerialNumber))
		if !temporary(err) {
			return err
		}
	}
}

func (s *storm) count(c *counter) { c.addAfter(time.Since(*s.began.Load())) }

// delays are full jitter, or none at first and then pauses that everybody
// shares.
func (s *storm) delays() backoff.BackOff {
	if !s.NoJitter {
		return newBackOff(s.Window)
	}
	return &shared{next: 0}
}

// shared are delays without any jitter: none, one second, two, four.
type shared struct{ next time.Duration }

// NextBackOff implements [backoff.BackOff].
func (b *shared) NextBackOff() time.Duration {
	delay := b.next
	b.next = min(max(connectInterval, 2*delay), maxDelay)
	return delay
}

// Reset implements [backoff.BackOff].
func (b *shared) Reset() { b.next = 0 }

func (s *storm) report() *Report {
	first := s.Identities[0].Record
	r := &Report{
		FormatVersion: ReportVersion,
		Command:       "storm",
		Endpoint:      s.StormConfig.Device(first.SerialNumber).Session.Endpoint,
		Started:       s.meter.began.UTC().Truncate(time.Millisecond),
		Plan:          Plan{Devices: len(s.Identities), FirstSerial: first.SerialNumber, Shards: []Shard{{1, 1}}, Concurrency: s.Load.Concurrency},
		Devices:       []Device{},
		Storm: &Stormed{
			Devices: int(s.lost.Load()), Returned: int(s.returned.Load()), Refused: int(s.refused.Load()),
			WindowSeconds: s.Window.Seconds(), ReturnSeconds: time.Duration(s.last.Load()).Seconds(),
			Connects: s.connects.counts(), Attempts: s.attempts.counts(),
		},
	}
	r.Counts = Counts{Devices: len(s.Identities)}
	if s.NoJitter {
		r.Storm.WindowSeconds = 0
	}
	for _, n := range r.Storm.Connects {
		r.Storm.PeakConnects = max(r.Storm.PeakConnects, n)
	}
	r.Storm.IdealConnects = float64(r.Storm.Returned) / max(1, s.Window.Seconds()) // counted by the second
	return r
}
