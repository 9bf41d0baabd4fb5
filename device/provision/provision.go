// Package provision exchanges a claim certificate for a device's own identity: AWS IoT's fleet
// provisioning by claim, resumable at every step. What it has reached is kept by package identity;
// after a crash, a lost answer or a full disk the next [Run] continues from there.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html
package provision

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

// Keys says who makes the device's private key.
type Keys string

// The two flows of fleet provisioning by claim.
const (
	DeviceKeys  Keys = "device"  // the device, and sends a CSR: CreateCertificateFromCsr. The key never leaves the device
	ServiceKeys Keys = "service" // AWS IoT: CreateKeysAndCertificate
)

// DefaultAnswerTimeout is how long a run waits for each answer: three times
// what AWS IoT allows the pre-provisioning hook.
const DefaultAnswerTimeout = 15 * time.Second

// Config says what to provision, where and with which claim. Store, Session
// and Template are required.
type Config struct {
	Store *identity.Store // keeps the identity and the provisioning's journal
	// Session says how to reach AWS IoT. ClientID, Certificate and OnMessage
	// are Run's own and ignored here.
	Session session.Options
	// Claims are claim certificates with their keys. None is needed while an identity exists that
	// is not to be replaced. Another one is tried when AWS IoT denies those before it, as
	// it does one that leaked and was withdrawn. Silence counts as a denial here
	// after five times in a row, however soon: the next claim may work.
	Claims     []*tls.Certificate
	Template   string            // the provisioning template's name
	Parameters map[string]string // the template's parameters, all of them, sent as they are
	Author     string            // the name to record with the provisioning
	Keys       Keys              // chooses the flow; default DeviceKeys
	// ThingName, if set, must be what AWS IoT answers, or Run returns a
	// *[ThingNameError]. It names the thing where the answer names none: a
	// template without a thing, or an answer that cannot be read.
	ThingName string
	// ExpectedThingName is the name that the template is known to give; default
	// ThingName. It is tried, not enforced: when the answer of RegisterThing was lost,
	// a connection under this name shows whether the thing was registered.
	ExpectedThingName string
	// Reprovision replaces an identity, also a broken one, or resumes that. The
	// old one stays until the new one is proved. Without it an identity is only
	// proved, whatever replacement is pending.
	Reprovision bool
	// Rotate replaces the identity as Reprovision does, but the device asks with its present
	// certificate, which proves that it has the present key; Claims are not used, and the key is
	// always made on the device. AWS IoT must allow that: the stack's rotation policy and its hook
	// do. Run returns an error that wraps [identity.ErrNone] when there is no identity.
	Rotate bool
	// Eager sends the create request together with SUBSCRIBE, which saves a
	// round trip. Where that fails, the run continues without.
	Eager bool
	// AnswerTimeout bounds each wait for one answer; default
	// [DefaultAnswerTimeout]. The whole run is bounded by its context.
	AnswerTimeout time.Duration
	// Progress, if set, is called as each step begins and ends, on Run's own
	// goroutine. What was reached before a step begins is on stable storage.
	Progress func(Event)
	Log      *slog.Logger // receives what an operator may need later; default none
}

func (c Config) withDefaults() (Config, error) {
	var err error
	switch {
	case c.Store == nil:
		err = errors.New("identity store is missing")
	case c.Template == "":
		err = errors.New("provisioning template is missing")
	case c.Keys != "" && c.Keys != DeviceKeys && c.Keys != ServiceKeys:
		err = fmt.Errorf("keys %q is neither %q nor %q", c.Keys, DeviceKeys, ServiceKeys)
	}
	if err != nil {
		return c, awsiot.WithClass(awsiot.Misconfigured, err)
	}
	if c.Rotate {
		c.Reprovision, c.Keys = true, DeviceKeys
	}
	c.Keys = cmp.Or(c.Keys, DeviceKeys)
	c.ExpectedThingName = cmp.Or(c.ExpectedThingName, c.ThingName)
	c.AnswerTimeout = cmp.Or(max(c.AnswerTimeout, 0), DefaultAnswerTimeout)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.Progress == nil {
		c.Progress = func(Event) {}
	}
	if c.Session.Now == nil {
		c.Session.Now = time.Now
	}
	return c, nil
}

// A Result is a device's proved identity. The device configuration in its record is nil when AWS
// IoT's answer to RegisterThing was lost; only provisioning the device again brings another.
type Result struct {
	Identity    *identity.Identity
	Provisioned bool // this run registered the thing
	// Retired is the id of the certificate that the identity had before this run replaced it, empty if
	// there was none. It is not deactivated; whether an operator has, the device cannot know. See
	// [DeactivateCommand].
	Retired string
	// Pending is a replacement that an earlier run began and this one left as it
	// is: Config.Reprovision resumes it, [identity.Store.DiscardPending] ends it.
	Pending    *identity.Pending
	RoundTrips RoundTrips // that this run waited for
}

// RoundTrips are those that a run waited for, one after the other, from the
// first SYN up to the CONNACK under the device's own certificate. Attempts
// that failed are not counted, and neither is the look-up of names.
type RoundTrips struct {
	Claim    int `json:"claim"`    // TCP, TLS and CONNECT with the claim certificate
	Exchange int `json:"exchange"` // SUBSCRIBE, create, RegisterThing
	Device   int `json:"device"`   // what was left of TCP, TLS and CONNECT with the new one
	Total    int `json:"total"`
}

func (t RoundTrips) sum() RoundTrips {
	t.Total = t.Claim + t.Exchange + t.Device
	return t
}

// DeactivateCommand returns what deactivates the certificate that an identity has replaced, for the aws
// CLI.
func DeactivateCommand(r identity.Record) string {
	command := "aws iot update-certificate --certificate-id " + r.Replaces + " --new-status INACTIVE"
	if region := awsiot.ParseEndpoint(r.Endpoint).Region; region != "" {
		command += " --region " + region
	}
	return command
}

// Run provisions the device if it has no identity, or resumes where an earlier run was interrupted,
// and then proves the identity: it connects with it and publishes a birth message, as Sparkplug
// calls it. With an identity it only proves it, unless that is denied or damaged and a replacement
// is registered already: then the replacement is proved and installed.
//
// Temporary failures are tried again until ctx ends, a rejection with status
// 403 a few times, slowly. [awsiot.ClassOf] classes the error. At most one Run
// per store works at a time; a second one returns an *[identity.LockedError].
func Run(ctx context.Context, c Config) (*Result, error) { return runWith(ctx, c, awsTiming) }

// A Step is one step of a run, in the order of AWS's own description of provisioning by claim.
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

// An Event reports that a step begins or ends: every step that begins ends. It never holds a secret.
type Event struct {
	Step  Step
	Ended bool // the step is done or, with an Err, has failed
	// Detail says with what: AWS's name of the operation, an endpoint, a
	// thing, a certificate id, a topic. May be empty.
	Detail     string
	Elapsed    time.Duration // since the step began; for a [StepWait] that begins, how long it will wait
	RoundTrips int           // that the step waited for; 0 where it begins
	Err        error         // why it failed or, for a StepWait that begins, what is tried again
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
	r.Progress(Event{Step: step, Detail: detail})
	began := time.Now()
	before := r.trips.sum().Total
	err := work()
	r.Progress(Event{step, true, detail, time.Since(began), r.trips.sum().Total - before, err})
	if name, ok := doing[step]; ok && err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// A ThingNameError reports that AWS IoT registered the certificate for a thing with another name than
// the configuration requires, or named none, as for a template without a thing. The certificate is
// active and kept: once the configuration has the thing's name, the next run resumes.
type ThingNameError struct {
	Want, Got     string // Got is empty where AWS IoT named no thing
	CertificateID string
}

func (e *ThingNameError) Error() string {
	if e.Got == "" {
		return fmt.Sprintf("AWS IoT registered certificate %s without naming a thing", e.CertificateID)
	}
	return fmt.Sprintf("AWS IoT named the thing %q, the configuration requires %q", e.Got, e.Want)
}

// Class returns [awsiot.Misconfigured].
func (e *ThingNameError) Class() awsiot.Class { return awsiot.Misconfigured }

// A TimeoutError reports that no answer arrived in time.
type TimeoutError struct {
	To    string // the operation or packet
	After time.Duration
}

func (e *TimeoutError) Error() string { return fmt.Sprintf("no answer to %s within %s", e.To, e.After) }

// Class returns [awsiot.Temporary].
func (e *TimeoutError) Class() awsiot.Class { return awsiot.Temporary }
