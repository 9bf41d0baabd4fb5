// Package provision exchanges a claim certificate for a device's own identity:
// AWS IoT's fleet provisioning by claim, resumable at every step. What it has
// reached is kept by package identity; after a crash, a lost answer or a full
// disk the next [Run] continues from there.
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
	// DeviceKeys makes the key on the device and sends a CSR:
	// CreateCertificateFromCsr. The key never leaves the device.
	DeviceKeys Keys = "device"
	// ServiceKeys uses a key that AWS IoT generates: CreateKeysAndCertificate.
	ServiceKeys Keys = "service"
)

// DefaultAnswerTimeout is how long a run waits for each answer: three times
// what AWS IoT allows the pre-provisioning hook.
const DefaultAnswerTimeout = 15 * time.Second

// Config says what to provision, where and with which claim. Store, Session
// and Template are required.
type Config struct {
	// Store keeps the identity and the provisioning's journal.
	Store *identity.Store
	// Session says how to reach AWS IoT. ClientID, Certificate and OnMessage
	// are Run's own and ignored here.
	Session session.Options
	// Claim is the claim certificate with its key. It is not needed while an
	// identity exists that is not to be replaced.
	Claim *tls.Certificate
	// OtherClaims are tried in turn when AWS IoT denies the claims before them, as
	// it does one that leaked and was withdrawn. Silence counts as a denial here
	// after five times in a row, however soon: the next claim may work.
	OtherClaims []*tls.Certificate
	// Template is the provisioning template's name.
	Template string
	// Parameters are the template's parameters, all of them, sent as they are.
	Parameters map[string]string
	// Author is the name to record with the provisioning.
	Author string
	// Keys chooses the flow; default DeviceKeys.
	Keys Keys
	// ThingName, if set, must be what AWS IoT answers; otherwise Run returns a
	// *[ThingNameError]. It names the thing where the answer names none: a
	// template without a thing, or an answer that cannot be read.
	ThingName string
	// ExpectedThingName is the name that the template is known to give. It is
	// tried, not enforced: when the answer of RegisterThing was lost, a
	// connection under this name shows whether the thing was registered.
	// Default: ThingName.
	ExpectedThingName string
	// Reprovision replaces an identity, also a broken one, or resumes that. The
	// old one stays until the new one is proved. Without it an identity is only
	// proved, whatever replacement is pending.
	Reprovision bool
	// Rotate replaces the identity as Reprovision does, but the device asks with
	// its present certificate, which proves that it has the present key; Claim is
	// not used, and the key is always made on the device. AWS IoT must allow
	// that: the stack's rotation policy and its hook do. Run returns an error that
	// wraps [identity.ErrNone] when there is no identity.
	Rotate bool
	// Eager sends the create request together with SUBSCRIBE, which saves a
	// round trip. Where that fails, the run continues without.
	Eager bool
	// AnswerTimeout bounds each wait for one answer; default
	// [DefaultAnswerTimeout]. The whole run is bounded by its context.
	AnswerTimeout time.Duration
	// Progress, if set, is called as each step begins and ends, on Run's own
	// goroutine. When a step begins, all that was reached before it is on
	// stable storage.
	Progress func(Event)
	// Log receives what an operator may need later; default none.
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Store == nil:
		return c, &ConfigError{Setting: "identity store", Reason: "is missing"}
	case c.Template == "":
		return c, &ConfigError{Setting: "provisioning template", Reason: "is missing"}
	case c.Keys != "" && c.Keys != DeviceKeys && c.Keys != ServiceKeys:
		return c, &ConfigError{Setting: "keys", Reason: fmt.Sprintf("%q is neither %q nor %q", c.Keys, DeviceKeys, ServiceKeys)}
	}
	if c.Rotate {
		c.Reprovision, c.Keys = true, DeviceKeys
	}
	c.Keys = cmp.Or(c.Keys, DeviceKeys)
	c.ExpectedThingName = cmp.Or(c.ExpectedThingName, c.ThingName)
	if c.AnswerTimeout <= 0 {
		c.AnswerTimeout = DefaultAnswerTimeout
	}
	if c.Progress == nil {
		c.Progress = func(Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Session.Now == nil {
		c.Session.Now = time.Now
	}
	return c, nil
}

// A Result is a device's proved identity. The device configuration in its record
// is nil when AWS IoT's answer to RegisterThing was lost; only provisioning the
// device again brings another.
type Result struct {
	Identity *identity.Identity
	// Provisioned: this run registered the thing.
	Provisioned bool
	// Retired is the identity that this run replaced, nil if there was none.
	Retired *Retired
	// Pending is a replacement that an earlier run began and this one left as it
	// is: Config.Reprovision resumes it, [identity.Store.DiscardPending] ends it.
	Pending *identity.Pending
	// RoundTrips that this run waited for.
	RoundTrips RoundTrips
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

func (t RoundTrips) total() int { return t.Claim + t.Exchange + t.Device }

// Retired names the certificate that an identity had before it was replaced.
// Provisioning does not deactivate it; whether an operator has, the device
// cannot know.
type Retired struct {
	ThingName     string
	CertificateID string
	// Command, for the aws CLI, deactivates the certificate.
	Command string
}

func retiredBy(id *identity.Identity) *Retired {
	if id == nil || id.Record.Replaces == "" {
		return nil
	}
	command := "aws iot update-certificate --certificate-id " + id.Record.Replaces + " --new-status INACTIVE"
	if region := awsiot.ParseEndpoint(id.Record.Endpoint).Region; region != "" {
		command += " --region " + region
	}
	return &Retired{ThingName: id.Record.ThingName, CertificateID: id.Record.Replaces, Command: command}
}

// Run provisions the device if it has no identity, or resumes where an earlier
// run was interrupted, and then proves the identity: it connects with it and
// publishes a birth message, as Sparkplug calls it. With an identity it only
// proves it, unless that is denied or damaged and a replacement is registered
// already: then the replacement is proved and installed.
//
// Temporary failures are tried again until ctx ends, a rejection with status
// 403 a few times, slowly. [awsiot.ClassOf] classes the error. At most one Run
// per store works at a time; a second one returns an *[identity.LockedError].
func Run(ctx context.Context, c Config) (*Result, error) {
	return runWith(ctx, c, awsTiming)
}

func runWith(ctx context.Context, c Config, t timing) (*Result, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &run{
		Config:       c,
		timing:       t,
		clientID:     claimClientID(c.Store.SerialNumber()),
		connected:    map[string]time.Time{},
		silentCloses: map[string]silentCloses{},
		deniedClaim:  map[int]bool{},
	}
	if c.Claim != nil {
		r.claims = append([]*tls.Certificate{c.Claim}, c.OtherClaims...)
	}
	id, loadErr := c.Store.Load()
	r.proved = loadErr == nil
	journal, err := c.Store.Begin()
	if _, locked := errors.AsType[*identity.LockedError](err); err != nil && !locked && r.proved && !c.Reprovision {
		// A read-only disk or a damaged journal: proving needs neither.
		c.Log.WarnContext(ctx, "the provisioning journal cannot be used", "error", err)
		return r.proveExisting(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	r.journal = journal
	result, err := r.run(ctx)
	if closeErr := journal.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("closing provisioning journal: %w", closeErr)
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}
