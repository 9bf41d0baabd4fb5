package fleet

import (
	"context"
	"errors"
	"net"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// A probe goes through one device's enrolment and measures it.
type probe struct {
	*launch
	serial  string
	ctx     context.Context // of the enrolment, for the waits in between its steps
	store   *identity.Store
	session session.Options // as the device uses it
	stage   Stage           // of the last step
}

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

// enrol runs the device's provisioning.
func (p *probe) enrol(ctx context.Context) (*identity.Identity, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, p.DeviceTimeout)
	defer cancel()
	p.ctx, p.stage = ctx, StageConnect
	c := p.Device(p.serial)
	var err error
	if p.store, err = p.launch.store(p.serial); err != nil {
		return nil, false, err
	}
	p.session = p.measured(c.Session)
	c.Store, c.Session, c.Progress, c.Log = p.store, p.session, p.step, p.logger(p.serial)
	result, err := provision.Run(ctx, c)
	if err != nil {
		return nil, false, err
	}
	return result.Identity, result.Provisioned, nil
}

// left returns what a failed enrolment has left, nil if nothing.
func (p *probe) left() *identity.Pending {
	if p.store == nil {
		return nil
	}
	return p.store.Status().Pending
}

// measured returns options whose sessions are measured.
func (l *launch) measured(o session.Options) session.Options {
	dial := o.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	o.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &countedConn{conn, l.meter}, nil
	}
	o.OnConnect = func(s session.Stats) {
		l.meter.latencies.record(StageDial, s.Dial)
		l.meter.latencies.record(StageTLS, s.Handshake)
		l.meter.latencies.record(StageConnect, s.Connect)
		l.meter.connected()
	}
	return o
}

// step is told of every step of the provisioning, on its own goroutine, so
// that it may make it wait.
func (p *probe) step(e provision.Event) {
	stage, ok := stageOfStep[e.Step]
	if !ok {
		return
	}
	switch e.Phase {
	case provision.Begin:
		p.stage = stage
		_ = p.pace.before(p.ctx, e) // whatever ended the wait ends the step
	case provision.Done:
		p.done(e, stage)
	case provision.Failed:
		p.stage = stageOf(e.Err, stage)
		p.pace.failed(e)
		if errors.Is(e.Err, context.Canceled) {
			return // the end of the run, which is no trouble of the device's
		}
		p.meter.retries.add(p.stage, cause(e.Err, p.serial))
	}
}

// done records the steps that are one stage each. Connecting with the claim is
// three, and measured with the session.
func (p *probe) done(e provision.Event, stage Stage) {
	switch e.Step {
	case provision.StepSubscribe, provision.StepCreate, provision.StepRegister, provision.StepConnectDevice, provision.StepPublishBirth:
		p.meter.latencies.record(stage, e.Elapsed)
	}
}

// A countedConn counts the bytes that go over the wire, TLS included.
type countedConn struct {
	net.Conn
	meter *meter
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.meter.in.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.meter.out.Add(int64(n))
	return n, err
}
