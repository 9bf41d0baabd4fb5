package provision

import (
	"fmt"
	"time"
)

// A Step is one step of a run, in the order of AWS's own description of
// provisioning by claim.
type Step string

// The steps. A run that resumes or only proves an identity skips some.
const (
	StepConnectClaim   Step = "connect with claim certificate"
	StepConnectPresent Step = "connect with present certificate" // to rotate
	StepSubscribe      Step = "subscribe to response topics"
	StepMakeKey        Step = "generate private key"
	StepCreate         Step = "create certificate"
	StepStore          Step = "store key and certificate"
	StepRegister       Step = "register thing"
	StepProbe          Step = "check registration"
	StepConnectDevice  Step = "connect with device certificate"
	StepPublishBirth   Step = "publish birth message"
	StepCommit         Step = "save identity"
	StepWait           Step = "retry"
)

// A Phase of a step.
type Phase int

// The phases of a step. Every Begin is followed by a Done or a Failed.
const (
	Begin Phase = iota
	Done
	Failed
)

// String returns the phase in one lower-case word.
func (p Phase) String() string { return [...]string{"begin", "done", "failed"}[p] }

func phaseAfter(err error) Phase {
	if err != nil {
		return Failed
	}
	return Done
}

// An Event reports a step that begins or ends. It never holds a secret.
type Event struct {
	Step  Step
	Phase Phase
	// Detail says with what: AWS's name of the operation, an endpoint, a
	// thing, a certificate id, a topic. May be empty.
	Detail     string
	Elapsed    time.Duration // since the step began; for [StepWait] at Begin, how long it will wait
	RoundTrips int           // that the step waited for; at Begin 0
	Err        error         // why it failed or, for StepWait at Begin, what is tried again
}

// doing names the steps in errors, where what they return does not.
var doing = map[Step]string{
	StepConnectClaim:   "connecting with claim certificate",
	StepConnectPresent: "connecting with present certificate",
	StepSubscribe:      "subscribing to response topics",
	StepCreate:         "creating certificate",
	StepStore:          "storing key and certificate",
	StepRegister:       "registering thing",
	StepProbe:          "checking registration",
	StepConnectDevice:  "connecting with device certificate",
	StepPublishBirth:   "publishing birth message",
}

// step does a step's work and reports its begin and end.
func (r *run) step(step Step, detail string, work func() error) error {
	r.Progress(Event{Step: step, Phase: Begin, Detail: detail})
	began := time.Now()
	before := r.trips.sum().Total
	err := work()
	r.Progress(Event{step, phaseAfter(err), detail, time.Since(began), r.trips.sum().Total - before, err})
	if name, ok := doing[step]; ok && err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return err
}
