package fleet

import (
	"context"
	"errors"

	"example.com/fleety/device/provision"
	"example.com/fleety/device/session"
)

// What one enrolment takes of each quota.
const (
	connectsPerDevice = 2
	publishsPerDevice = 3 // create, register, birth
)

// paces are the pacers of a launch, nil where there is no quota. begin lets
// devices in no faster than the slowest quota lets them through, so that they
// wait here and not with an open connection and a token that grows old.
type paces struct {
	begin, connect, subscribe, publish, create, register *pacer
}

// paces returns pacers for a process that is one of share.
func (q *Quotas) paces(keys provision.Keys, share int) paces {
	if q == nil {
		return paces{}
	}
	_, slowest := q.binding(keys)
	return paces{
		begin:     newPacer(slowest, share),
		connect:   newPacer(q.Connect, share),
		subscribe: newPacer(q.Subscribe, share),
		publish:   newPacer(q.Publish, share),
		create:    newPacer(q.create(keys), share),
		register:  newPacer(q.RegisterThing, share),
	}
}

// of returns the pacers of what a step asks for.
func (p paces) of(s provision.Step) []*pacer {
	switch s {
	case provision.StepConnectClaim, provision.StepConnectDevice, provision.StepProbe:
		return []*pacer{p.connect}
	case provision.StepSubscribe:
		return []*pacer{p.subscribe}
	case provision.StepCreate:
		return []*pacer{p.publish, p.create}
	case provision.StepRegister:
		return []*pacer{p.publish, p.register}
	case provision.StepPublishBirth:
		return []*pacer{p.publish}
	}
	return nil
}

// before waits until a step may begin.
func (p paces) before(ctx context.Context, e provision.Event) error {
	for _, pacer := range p.of(e.Step) {
		if err := pacer.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// failed slows down after an answer that asks for it.
func (p paces) failed(e provision.Event) {
	if !overloaded(e.Err) {
		return
	}
	p.begin.throttled()
	for _, pacer := range p.of(e.Step) {
		pacer.throttled()
	}
}

// overloaded reports whether AWS IoT answered that it cannot now: throttling,
// or a failure of its own.
func overloaded(err error) bool {
	_, network := errors.AsType[*session.Error](err)
	_, unanswered := errors.AsType[*provision.TimeoutError](err)
	return provision.ClassOf(err) == provision.Temporary && !network && !unanswered
}
