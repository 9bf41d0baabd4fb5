package fleet

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

const (
	// connectInterval is the shortest time between two CONNECTs of one client id.
	// https://docs.aws.amazon.com/general/latest/gr/iot-core.html
	connectInterval = time.Second
	// maxDelay bounds the delay before another attempt to connect.
	maxDelay = 2 * time.Minute
)

// Held describes the devices that were held.
type Held struct {
	Devices         int     `json:"devices"`         // to be held
	Connected       int     `json:"connected"`       // at the end
	Most            int     `json:"most"`            // connected at once
	ConnectSeconds  float64 `json:"connectSeconds"`  // until all had connected or failed
	HeldSeconds     float64 `json:"heldSeconds"`     // after that
	Lost            int     `json:"lost"`            // connections
	Published       int     `json:"published"`       // and acknowledged
	PublishFailures int     `json:"publishFailures"` // not acknowledged
	BytesPerDevice  int64   `json:"bytesPerDevice"`  // of this process's memory; 0 if unknown
	CPUPercent      float64 `json:"cpuPercent"`      // of one core, while holding
	IntervalSeconds float64 `json:"intervalSeconds"` // between two messages of a device
	// NotConnectedWhy is the latest cause of a failed attempt to connect, when
	// devices are not connected at the end.
	NotConnectedWhy string `json:"notConnectedWhy,omitempty"`
	// Reconnect is nil when no connection was lost.
	Reconnect *Reconnect `json:"reconnect,omitempty"`
}

// Reconnect describes how the devices that lost their connection reconnected.
// Each device counts once, however often it lost its connection.
type Reconnect struct {
	Devices       int     `json:"devices"`       // that lost a connection
	Returned      int     `json:"returned"`      // of those, connected at the end
	Rejected      int     `json:"rejected"`      // of those, rejected: retrying does not help
	WindowSeconds float64 `json:"windowSeconds"` // of the first attempts; 0 without jitter
	ReturnSeconds float64 `json:"returnSeconds"` // from the first loss to the latest reconnection
	// Connects are the CONNACKs per second from the first loss on, Attempts the
	// attempts, those without a reply included.
	Connects []int `json:"connects"`
	Attempts []int `json:"attempts"`
	// PeakConnects is the greatest of Connects; IdealConnects what it would be if
	// the same devices reconnected evenly over the window.
	PeakConnects  int     `json:"peakConnects"`
	IdealConnects float64 `json:"idealConnects"`
}

// A heldDevice is a device that is held connected. It keeps no more of the
// identity than another handshake takes: there are many.
type heldDevice struct {
	serial, thing string
	proved        time.Time // with a connection of its own
	options       session.Options

	live     *session.Session // nil while not connected; used by one goroutine at a time
	lost     bool             // a connection, at least once
	rejected bool
}

func (l *launch) newHeldDevice(id *identity.Identity) *heldDevice {
	d := &heldDevice{serial: id.Record.SerialNumber, thing: id.Record.ThingName, proved: time.Now()}
	d.options = l.Device(d.serial).Session
	d.options.ClientID, d.options.OnConnect = d.thing, l.meter.connected
	c := id.TLS()
	c.Leaf = nil // a client needs no parsed certificate
	d.options.Certificate = func(context.Context) (*tls.Certificate, error) { return c, nil }
	return d
}

// A hold counts while devices are held.
type hold struct {
	l       *launch
	devices []*heldDevice
	cut     chan struct{} // closed to end all connections at once

	mu        sync.Mutex
	held      Held      // under mu
	firstLoss time.Time // under mu; zero before
}

// count changes what was counted.
func (h *hold) count(change func(*Held)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.held)
}

// hold connects all enrolled devices, keeps them connected for the duration of
// Config.Hold, and closes them.
func (l *launch) hold(ctx context.Context) *Held {
	h := &hold{l: l, cut: make(chan struct{})}
	h.devices = slices.DeleteFunc(l.held, func(d *heldDevice) bool { return d == nil })
	before, began := resident(), time.Now()
	l.meter.enter(PhaseConnect)
	h.each(func(d *heldDevice) {
		ctx, cancel := context.WithTimeout(ctx, l.DeviceTimeout)
		defer cancel()
		began := time.Time{}
		err := h.connect(ctx, d, StageHold, func(attempt int) error {
			wait := time.Until(d.proved.Add(connectInterval)) // it has just connected with this client id
			if attempt > 0 {
				wait = connectInterval + rand.N(min(time.Second<<min(attempt-1, 10), maxDelay))
			}
			if err := sleep(ctx, wait); err != nil {
				return err
			}
			if attempt == 0 {
				began = time.Now()
			}
			return h.l.paces.wait(ctx, provision.StepConnectDevice)
		})
		if err == nil {
			l.meter.record(StageHold, time.Since(began))
		} else if !d.rejected && !errors.Is(ctx.Err(), context.Canceled) { // by the end of the run
			l.meter.fail(l.meter.retries, StageHold, "timed out")
			h.count(func(r *Held) { r.NotConnectedWhy = cmp.Or(r.NotConnectedWhy, "timed out") })
		}
	})
	r := &h.held // until the keepers begin, and after they have ended
	r.Devices, r.ConnectSeconds, r.IntervalSeconds = len(h.devices), time.Since(began).Seconds(), l.Interval.Seconds()
	if n := l.meter.held.Load(); n > 0 && before > 0 {
		r.BytesPerDevice = max(0, resident()-before) / n
	}

	l.meter.enter(PhaseHold)
	began, cpu := time.Now(), usage()
	holding, end := context.WithTimeout(ctx, l.Hold)
	if l.ReconnectAfter > 0 {
		timer := time.AfterFunc(l.ReconnectAfter, func() { close(h.cut) })
		defer timer.Stop()
	}
	var keepers sync.WaitGroup
	for _, d := range h.devices {
		if d.live != nil {
			keepers.Go(func() { h.keep(ctx, holding, d) })
		}
	}
	keepers.Wait()
	end()
	r.HeldSeconds = time.Since(began).Seconds()
	r.CPUPercent = 100 * ratio(usage()-cpu, r.HeldSeconds)
	h.countDevices()
	h.each(func(d *heldDevice) {
		if d.live != nil {
			_ = d.live.Close(context.WithoutCancel(ctx)) // it has its own time limit
		}
	})
	return r
}

// each runs work for every device, a few at a time.
func (h *hold) each(work func(*heldDevice)) {
	var group errgroup.Group
	group.SetLimit(h.l.Load.Concurrency)
	for _, d := range h.devices {
		group.Go(func() error {
			work(d)
			return nil
		})
	}
	_ = group.Wait() // there is none
}

// connect connects a device, repeatedly while that may help. turn waits for each attempt, from 0.
func (h *hold) connect(ctx context.Context, d *heldDevice, stage Stage, turn func(attempt int) error) error {
	for attempt := 0; ; attempt++ {
		if err := turn(attempt); err != nil {
			return err
		}
		live, err := session.Connect(ctx, d.options)
		if err == nil {
			d.live = live
			h.count(func(r *Held) { r.Most = max(r.Most, int(h.l.meter.held.Add(1))) })
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		why := cause(err, d.serial)
		h.count(func(r *Held) { r.NotConnectedWhy = why })
		h.l.meter.fail(h.l.meter.retries, stageOf(err, stage), why)
		// A server that closes without a reply may have denied the connection, but
		// may as well be restarting.
		if e, ok := errors.AsType[*session.Error](err); !ok || e.Class() != awsiot.Temporary {
			d.rejected = true
			return err
		}
	}
}

// keep keeps a device connected and publishing until holding ends, which ctx is the parent of. The
// first message comes at random, so that those of many devices are spread. The last one is waited
// for: one that a broker leaves unacknowledged counts, whenever it stops to answer.
func (h *hold) keep(ctx, holding context.Context, d *heldDevice) {
	timer := time.NewTimer(rand.N(h.l.Interval))
	defer timer.Stop()
	cut := h.cut
	for n := 1; ; {
		select {
		case <-holding.Done():
			return
		case <-timer.C:
			if h.l.paces.wait(holding, provision.StepPublishBirth) == nil {
				h.publish(ctx, d, n)
			}
			n++
			timer.Reset(h.l.Interval)
			continue
		case <-cut:
			cut = nil
		case <-d.live.Done():
		}
		_ = d.live.Close(ctx)
		d.live = nil
		if h.reconnect(holding, d) != nil {
			return
		}
	}
}

// reconnect connects a device that has just lost its connection. The quotas do
// not delay it: devices in the field do not know of one another.
func (h *hold) reconnect(ctx context.Context, d *heldDevice) error {
	lostAt, first := time.Now(), time.Time{}
	d.lost = true
	h.count(func(r *Held) {
		r.Lost++
		if r.Reconnect == nil {
			r.Reconnect, h.firstLoss = &Reconnect{Connects: []int{}, Attempts: []int{}}, lostAt
		}
		first = h.firstLoss
	})
	h.l.meter.held.Add(-1)
	err := h.connect(ctx, d, StageReturn, func(attempt int) error {
		limit := min(h.l.ReconnectWindow<<min(attempt, 10), max(h.l.ReconnectWindow, maxDelay))
		delay := rand.N(limit)
		if h.l.NoJitter {
			delay = min(connectInterval*(1<<min(attempt, 10)/2), maxDelay) // 0, 1, 2, 4 … seconds
		}
		if err := sleep(ctx, delay); err != nil {
			return err
		}
		h.count(func(r *Held) { countAt(&r.Reconnect.Attempts, time.Since(first)) })
		return nil
	})
	if err == nil {
		after := time.Since(first)
		h.count(func(r *Held) {
			countAt(&r.Reconnect.Connects, after)
			r.Reconnect.ReturnSeconds = max(r.Reconnect.ReturnSeconds, after.Seconds())
		})
		h.l.meter.record(StageReturn, time.Since(lostAt))
	}
	return err
}

// publish publishes a message that shows that the device is alive.
func (h *hold) publish(ctx context.Context, d *heldDevice, number int) {
	message := awsiot.EncodeJSON(map[string]any{"thingName": d.thing, "number": number, "time": time.Now().UTC()})
	reply, cancel := context.WithTimeout(ctx, provision.DefaultAnswerTimeout)
	defer cancel()
	began := time.Now()
	// That the connection is lost is noticed by keep.
	switch err := d.live.Publish(reply, "fleet/"+d.thing, message); {
	case err == nil:
		h.l.meter.record(StagePublish, time.Since(began))
		h.count(func(r *Held) { r.Published++ })
	case ctx.Err() == nil:
		h.count(func(r *Held) { r.PublishFailures++ })
		h.l.meter.fail(h.l.meter.retries, StagePublish, cause(err, d.serial))
	}
}

// countDevices fills what follows from the devices, whose goroutines have ended.
func (h *hold) countDevices() {
	r := cmp.Or(h.held.Reconnect, new(Reconnect))
	if !h.l.NoJitter {
		r.WindowSeconds = h.l.ReconnectWindow.Seconds()
	}
	for _, d := range h.devices {
		connected := d.live != nil && d.live.Err() == nil
		if connected {
			h.held.Connected++
		}
		if !d.lost {
			continue
		}
		r.Devices++
		if connected {
			r.Returned++
		}
		if d.rejected {
			r.Rejected++
		}
	}
	if h.held.Connected == h.held.Devices {
		h.held.NotConnectedWhy = ""
	}
	r.sum()
}

// sum fills what follows from the counts.
func (r *Reconnect) sum() {
	r.PeakConnects = slices.Max(append([]int{0}, r.Connects...))
	r.IdealConnects = float64(r.Returned) / max(1, r.WindowSeconds) // counted by the second
}
