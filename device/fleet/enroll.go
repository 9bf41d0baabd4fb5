package fleet

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// A launch is one run of the fleet.
type launch struct {
	Config
	meter *meter
	paces paces

	devices []Device      // by the shard's number; each written by one goroutine
	held    []*heldDevice // likewise; nil if nothing is held
}

// Enroll enrolls the devices and, if they are to be held, keeps them connected for a while. It ends
// early when ctx ends, with that context's cause. There is always a report, except when nothing
// could be started: then it is nil and the error is that of [Config.Check]. Devices that failed are
// in the report and are no error.
func Enroll(ctx context.Context, c Config) (*Report, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	l := &launch{Config: c, devices: make([]Device, c.Shard.size(c.Serials.Count))}
	l.paces = c.Quotas.paces(c.Device(c.Serials.At(0)).Keys, c.Shard.Of)
	for k := range l.devices {
		l.devices[k] = Device{SerialNumber: c.Serials.At(c.Shard.device(k)), Outcome: NotStarted}
	}
	if c.Hold > 0 {
		l.held = make([]*heldDevice, len(l.devices))
	}
	l.meter = newMeter(len(l.devices))

	stop := l.meter.reportProgress(ctx, l.Progress)
	l.enrollAll(ctx)
	r := l.report()
	if c.Hold > 0 && ctx.Err() == nil {
		r.Hold = l.hold(ctx)
	}
	stop()
	l.meter.fill(r)
	return r, context.Cause(ctx)
}

// enrollAll begins one device after the other, and returns when every device that began
// has ended. In an open loop a device that is due while too many are in progress waits, and
// all that are due after it wait with it: their latencies count from when they were due.
func (l *launch) enrollAll(ctx context.Context) {
	var devices errgroup.Group
	defer devices.Wait() // there is no error
	devices.SetLimit(l.Load.Concurrency)
	for k := range l.devices {
		var due time.Time
		if l.Load.Rate > 0 {
			after := float64(l.Shard.device(k)) / l.Load.Rate * float64(time.Second)
			due = l.meter.began.Add(time.Duration(min(after, math.MaxInt64/2))) // a century
		}
		if sleep(ctx, time.Until(due)) != nil {
			return
		}
		devices.Go(func() error {
			l.enroll(ctx, k, due)
			return nil
		})
	}
}

// enroll enrolls the shard's k-th device, which was due at that time; zero
// means as soon as the quotas allow.
func (l *launch) enroll(ctx context.Context, k int, due time.Time) {
	if l.paces.wait(ctx, stepBegin) != nil {
		return
	}
	if due.IsZero() {
		due = time.Now()
	}
	d := &l.devices[k]
	stage := StageConnect // of the latest step
	var store *identity.Store
	result, err := func() (_ *provision.Result, err error) {
		ctx, cancel := context.WithTimeout(ctx, l.DeviceTimeout)
		defer cancel()
		stored, open := identity.Config{SerialNumber: d.SerialNumber, Log: l.Log}, identity.NewMemoryStore
		if l.Keep != "" { // each in its own folder, which spares each device the search through all others
			stored.Dir, open = filepath.Join(l.Keep, d.SerialNumber), identity.NewStore
		}
		if store, err = open(stored); err != nil {
			return nil, err
		}
		c := l.Device(d.SerialNumber)
		c.Store, c.Session.OnConnect, c.Session.OnClose = store, l.meter.connected, l.meter.closed
		c.Progress = func(e provision.Event) { l.step(ctx, e, d.SerialNumber, &stage) }
		if l.Log != nil {
			c.Log = l.Log.With("serial", d.SerialNumber)
		}
		return provision.Run(ctx, c)
	}()
	switch {
	case err == nil:
		id := result.Identity
		d.Outcome, d.ThingName, d.CertificateID = Already, id.Record.ThingName, id.Record.CertificateID
		if result.Provisioned {
			d.Outcome = Enrolled
		}
		if l.held != nil {
			l.held[k] = l.newHeldDevice(id)
		}
	case ctx.Err() != nil:
		d.Outcome = Interrupted
	default:
		d.Outcome, d.Stage, d.Cause = Failed, stage, cause(err, d.SerialNumber)
		d.Class = awsiot.ClassOf(err).String()
	}
	if err != nil && store != nil {
		if pending := store.Status().Pending; pending != nil { // AWS IoT has a certificate of it
			d.ThingName, d.CertificateID = pending.ThingName, pending.CertificateID
		}
	}
	l.meter.ended(d, time.Since(due))
}

// stageOfStep has the stage of each step that a device waits for.
var stageOfStep = map[provision.Step]Stage{
	provision.StepConnectClaim:  StageConnect,
	provision.StepSubscribe:     StageSubscribe,
	provision.StepMakeKey:       StageCreate,
	provision.StepCreate:        StageCreate,
	provision.StepStore:         StageCreate,
	provision.StepRegister:      StageRegister,
	provision.StepProbe:         StageReconnect,
	provision.StepConnectDevice: StageReconnect,
	provision.StepPublishBirth:  StageBirth,
	provision.StepCommit:        StageBirth,
}

// step measures a step of one device, on the goroutine of its provisioning, and
// makes it wait for the quotas before it begins.
func (l *launch) step(ctx context.Context, e provision.Event, serial string, at *Stage) {
	stage, ok := stageOfStep[e.Step]
	if !ok {
		return
	}
	switch {
	case !e.Ended:
		*at = stage
		if l.paces.wait(ctx, e.Step) != nil { // at once, where its turn comes after the device's end
			<-ctx.Done() // with which the step ends
		}
	case e.Err == nil:
		switch e.Step {
		// Those that are a stage each; connecting with the claim is three, and
		// measured with the session.
		case provision.StepSubscribe, provision.StepCreate, provision.StepRegister, provision.StepConnectDevice, provision.StepPublishBirth:
			l.meter.record(stage, e.Elapsed)
		}
	default:
		*at = stageOf(e.Err, stage)
		_, network := errors.AsType[*session.Error](e.Err)
		_, unanswered := errors.AsType[*provision.TimeoutError](e.Err)
		if awsiot.ClassOf(e.Err) == awsiot.Temporary && !network && !unanswered { // AWS IoT throttles, or fails itself
			l.paces.throttled(e.Step)
		}
		if !errors.Is(e.Err, context.Canceled) { // the end of the run
			l.meter.fail(l.meter.retries, *at, cause(e.Err, serial))
		}
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	over, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-over.Done()
	return ctx.Err()
}
