package fleet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// connectInterval is what AWS IoT wants between two CONNECTs of one client id.
// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
const connectInterval = time.Second

// Held tells of the devices that were held.
type Held struct {
	Devices         int     `json:"devices"`         // that were to be held
	Connected       int     `json:"connected"`       // at the end
	Most            int     `json:"most"`            // at once
	ConnectSeconds  float64 `json:"connectSeconds"`  // until all had connected or failed
	HeldSeconds     float64 `json:"heldSeconds"`     // after that
	Lost            int     `json:"lost"`            // connections that ended without our doing
	Published       int     `json:"published"`       // and acknowledged
	PublishFailures int     `json:"publishFailures"` //
	BytesPerDevice  int64   `json:"bytesPerDevice"`  // of this process's memory; 0 if unknown
	CPUPercent      float64 `json:"cpuPercent"`      // of one core, while holding
	NotConnectedWhy string  `json:"notConnectedWhy,omitempty"`
	IntervalSeconds float64 `json:"intervalSeconds"` // between two messages of a device
}

// A member is a device with an identity that is held connected.
type member struct {
	identity *identity.Identity
	session  session.Options
	live     *session.Session
}

// options are those of the member's own connection.
func (m *member) options() session.Options {
	o := m.session
	o.ClientID = m.identity.Record.ThingName
	cert := m.identity.TLS()
	o.Certificate = func(context.Context) (*tls.Certificate, error) { return cert, nil }
	return o
}

// crowd are the members of a launch and what is counted while they are held.
type crowd struct {
	*launch
	members   []*member
	lost      atomic.Int64
	published atomic.Int64
	unheard   atomic.Int64 // messages without acknowledgement
	most      atomic.Int64
	why       atomic.Pointer[string]
}

// hold connects all enrolled devices, keeps them for the time of Config.Hold,
// and lets them go.
func (l *launch) hold(ctx context.Context) *Held {
	c := &crowd{launch: l}
	for _, m := range l.members {
		if m != nil {
			c.members = append(c.members, m)
		}
	}
	before, began := resident(), time.Now()
	l.meter.enter(PhaseConnect)
	c.connectAll(ctx)
	h := &Held{Devices: len(c.members), ConnectSeconds: time.Since(began).Seconds(), IntervalSeconds: l.Interval.Seconds()}
	if n := l.meter.held.Load(); n > 0 && before > 0 {
		h.BytesPerDevice = (resident() - before) / n
	}
	l.meter.enter(PhaseHold)
	began, cpu := time.Now(), usage()
	holding, end := context.WithTimeout(ctx, l.Hold)
	c.keepAll(holding)
	end()
	h.HeldSeconds = time.Since(began).Seconds()
	h.CPUPercent = 100 * ratio(usage()-cpu, h.HeldSeconds)
	h.Connected, h.Most = int(l.meter.held.Load()), int(c.most.Load())
	c.closeAll()
	h.Lost, h.Published, h.PublishFailures = int(c.lost.Load()), int(c.published.Load()), int(c.unheard.Load())
	if why := c.why.Load(); why != nil {
		h.NotConnectedWhy = *why
	}
	return h
}

// each runs work for every member, a few at a time.
func (c *crowd) each(work func(*member)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(c.Load.Concurrency, len(c.members)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(c.members); i = next.Add(1) - 1 {
				work(c.members[i])
			}
		})
	}
	workers.Wait()
}

// connectAll connects every member, or gives it up for a refusal.
func (c *crowd) connectAll(ctx context.Context) {
	c.each(func(m *member) {
		// The device has just shown its identity under the same client id.
		turn := m.identity.Record.ProvedAt.Add(connectInterval)
		if sleep(ctx, time.Until(turn)) != nil {
			return
		}
		began := time.Now()
		if c.connect(ctx, m, newBackOff(time.Second)) == nil {
			c.meter.latencies.record(StageHold, time.Since(began))
		}
	})
}

// connect connects a member, again and again while that may help.
func (c *crowd) connect(ctx context.Context, m *member, delays *backoff.ExponentialBackOff) error {
	for {
		err := c.pace.connect.wait(ctx)
		if err == nil {
			m.live, err = session.Connect(ctx, m.options())
		}
		if err == nil {
			c.arrived()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		serial := m.identity.Record.SerialNumber
		c.meter.retries.add(stageOf(err, StageHold), cause(err, serial))
		if !temporary(err) {
			why := cause(err, serial)
			c.why.CompareAndSwap(nil, &why)
			return err
		}
		if err := sleep(ctx, connectInterval+delays.NextBackOff()); err != nil {
			return err
		}
	}
}

func (c *crowd) arrived() { raise(&c.most, c.meter.held.Add(1)) }

// raise makes a number n if it is less.
func raise(number *atomic.Int64, n int64) {
	for old := number.Load(); n > old && !number.CompareAndSwap(old, n); old = number.Load() {
	}
}

// keepAll keeps the members connected and publishing until ctx ends.
func (c *crowd) keepAll(ctx context.Context) {
	var keepers sync.WaitGroup
	for _, m := range c.members {
		if m.live != nil {
			keepers.Go(func() { c.keep(ctx, m) })
		}
	}
	keepers.Wait()
}

// keep keeps one member. The first message comes at random, so that messages
// of many devices spread.
func (c *crowd) keep(ctx context.Context, m *member) {
	timer := time.NewTimer(rand.N(c.Interval))
	defer timer.Stop()
	for n := 1; ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			c.publish(ctx, m, n)
			n++
			timer.Reset(c.Interval)
		case <-m.live.Done():
			c.lost.Add(1)
			c.meter.held.Add(-1)
			lostAt := time.Now()
			delays := newBackOff(time.Second)
			_ = m.live.Close(ctx)
			m.live = nil
			if sleep(ctx, delays.NextBackOff()) != nil || c.connect(ctx, m, delays) != nil {
				return
			}
			c.meter.latencies.record(StageReturn, time.Since(lostAt))
		}
	}
}

// A sign of life is what a held device publishes.
type sign struct {
	ThingName string    `json:"thingName"`
	Number    int       `json:"number"`
	Time      time.Time `json:"time"`
}

func (c *crowd) publish(ctx context.Context, m *member, number int) {
	thing := m.identity.Record.ThingName
	payload, err := json.Marshal(sign{thing, number, time.Now().UTC()})
	if err != nil || c.pace.publish.wait(ctx) != nil {
		return
	}
	answer, cancel := context.WithTimeout(ctx, provision.DefaultAnswerTimeout)
	defer cancel()
	began := time.Now()
	// The connection's own loss is noticed where it is kept.
	switch err := m.live.Publish(answer, "fleet/"+thing, payload); {
	case err == nil:
		c.meter.latencies.record(StagePublish, time.Since(began))
		c.published.Add(1)
	case ctx.Err() == nil:
		c.unheard.Add(1)
		c.meter.retries.add(StagePublish, cause(err, m.identity.Record.SerialNumber))
	}
}

// closeAll lets every member go.
func (c *crowd) closeAll() {
	c.each(func(m *member) {
		if m.live != nil {
			_ = m.live.Close(context.Background()) // it has its own time limit
			m.live = nil
		}
	})
}
