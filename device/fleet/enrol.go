package fleet

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
)

// A launch is one run of the fleet.
type launch struct {
	Config
	meter *meter
	pace  paces
	mine  int // devices of this shard

	next    atomic.Int64 // the shard's next device
	entries []Device     // by the shard's number; each written by one goroutine
	members []*member    // what is to be held, likewise
}

// Enrol enrols the devices and, if they are to be held, keeps them connected
// for a while. When ctx ends it ends, too, and its error is that of ctx. There
// is a report whatever happens, except when nothing could be started: then it
// is nil and the error is that of [Config.Check]. That devices failed is told
// in the report and is no error.
func Enrol(ctx context.Context, c Config) (*Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	l := &launch{Config: c, mine: c.Shard.size(c.Serials.Count)}
	l.pace = c.Quotas.paces(c.Device(c.Serials.At(0)).Keys, c.Shard.Of)
	l.entries = make([]Device, l.mine)
	for k := range l.entries {
		l.entries[k] = Device{SerialNumber: c.Serials.At(c.Shard.device(k)), Outcome: NotStarted}
	}
	if c.Hold > 0 {
		l.members = make([]*member, l.mine)
	}
	l.meter = newMeter(l.mine)

	stop := l.meter.tell(l.Progress)
	l.enrol(ctx)
	l.meter.enrolmentEnds()
	r := l.report()
	if c.Hold > 0 && ctx.Err() == nil {
		r.Hold = l.hold(ctx)
	}
	stop()
	l.meter.fill(r)
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	return r, nil
}

// enrol returns when every device that began has ended.
func (l *launch) enrol(ctx context.Context) {
	if l.Load.Rate > 0 {
		l.enrolAtRate(ctx)
		return
	}
	var workers sync.WaitGroup
	n := min(l.Load.Concurrency, l.mine)
	for i := range n {
		workers.Go(func() {
			if sleep(ctx, l.Load.Ramp*time.Duration(i)/time.Duration(n)) != nil {
				return
			}
			for ctx.Err() == nil && !l.over() {
				k := int(l.next.Add(1)) - 1
				if k >= l.mine {
					return
				}
				l.device(ctx, k, time.Time{})
			}
		})
	}
	workers.Wait()
}

// enrolAtRate begins devices when they are due. One that finds too many under
// way waits, and its wait counts.
func (l *launch) enrolAtRate(ctx context.Context) {
	var devices sync.WaitGroup
	places := make(chan struct{}, l.Load.Concurrency)
	for k := range l.mine {
		due := l.meter.began.Add(l.Load.due(l.Shard.device(k)))
		if sleep(ctx, time.Until(due)) != nil || l.over() {
			break
		}
		devices.Go(func() {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-places }()
			l.device(ctx, k, due)
		})
	}
	devices.Wait()
}

// over reports whether no more devices are to begin.
func (l *launch) over() bool {
	return l.Load.Duration > 0 && time.Since(l.meter.began) >= l.Load.Duration
}

// device enrols the shard's k-th device, which was due then; zero means as
// soon as the quotas allow.
func (l *launch) device(ctx context.Context, k int, due time.Time) {
	if l.pace.begin.wait(ctx) != nil {
		return
	}
	if due.IsZero() {
		due = time.Now()
	}
	entry := &l.entries[k]
	p := &probe{launch: l, serial: entry.SerialNumber}
	id, provisioned, err := p.enrol(ctx)
	switch {
	case err == nil && provisioned:
		entry.Outcome = Enrolled
	case err == nil:
		entry.Outcome = Already
	case ctx.Err() != nil:
		entry.Outcome = Interrupted
	default:
		entry.Outcome = Failed
		entry.Stage, entry.Cause = p.stage, cause(err, entry.SerialNumber)
		entry.Class = provision.ClassOf(err).String()
	}
	entry.take(id, p.left())
	if err == nil && l.members != nil {
		l.members[k] = &member{identity: id, session: p.session}
	}
	l.meter.deviceEnds(entry, time.Since(due))
}

// take notes what of the device AWS IoT may know: its identity, or what was
// left half done.
func (d *Device) take(id *identity.Identity, pending *identity.Pending) {
	switch {
	case id != nil:
		d.ThingName, d.CertificateID = id.Record.ThingName, id.Record.CertificateID
	case pending != nil:
		d.ThingName, d.CertificateID = pending.ThingName, pending.CertificateID
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// logger returns where a device logs.
func (l *launch) logger(serial string) *slog.Logger {
	if l.Log == nil {
		return nil
	}
	return l.Log.With("serial", serial)
}
