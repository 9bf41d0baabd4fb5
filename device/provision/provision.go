// Package provision trades a claim certificate for a device's own identity:
// AWS IoT's fleet provisioning by claim, resumable at every step. What it has
// reached is kept by package identity; after a crash, a lost answer or a full
// disk the next [Run] goes on from there.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html
package provision

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"example.com/fleety/device/identity"
	"example.com/fleety/device/session"
)

// Keys tells who makes the device's private key.
type Keys string

// The two flows of fleet provisioning by claim.
const (
	// DeviceKeys makes the key on the device and sends a CSR:
	// CreateCertificateFromCsr. The key never leaves the device.
	DeviceKeys Keys = "device"
	// ServiceKeys takes a key that AWS IoT made: CreateKeysAndCertificate.
	ServiceKeys Keys = "service"
)

// DefaultAnswerTimeout is how long a run waits for each answer: three times
// what AWS IoT grants the pre-provisioning hook.
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
	// Template is the provisioning template's name.
	Template string
	// Parameters are the template's parameters, all of them, sent as they are.
	Parameters map[string]string
	// Author on whose behalf the device is provisioned, for the record.
	Author string
	// Keys chooses the flow; default DeviceKeys.
	Keys Keys
	// ThingName, if set, must be what AWS IoT answers; otherwise Run returns a
	// *[ThingNameError].
	ThingName string
	// ExpectedThingName is the name that the template is known to give. It is
	// tried, not enforced: when the answer of RegisterThing was lost, a
	// connection under this name shows whether the thing was registered.
	// Default: ThingName.
	ExpectedThingName string
	// Reprovision replaces an identity, also a broken one. The old one stays
	// until the new one is proved.
	Reprovision bool
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
	if c.Keys == "" {
		c.Keys = DeviceKeys
	}
	if c.ExpectedThingName == "" {
		c.ExpectedThingName = c.ThingName
	}
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

// A Result is a device's proved identity.
type Result struct {
	Identity *identity.Identity
	// Provisioned tells that this run registered the thing.
	Provisioned bool
	// Retired is the identity that this run replaced, nil if there was none.
	Retired *Retired
	// RoundTrips that this run waited for.
	RoundTrips RoundTrips
}

// RoundTrips are those that a run waited for, one after the other, from the
// first SYN up to the CONNACK under the device's own certificate. Attempts
// that failed are not counted. The look-up of names is not seen.
type RoundTrips struct {
	Claim    int `json:"claim"`    // TCP, TLS and CONNECT with the claim certificate
	Exchange int `json:"exchange"` // SUBSCRIBE, create, RegisterThing
	Device   int `json:"device"`   // what was left of TCP, TLS and CONNECT with the new one
	Total    int `json:"total"`
}

func (t RoundTrips) total() int { return t.Claim + t.Exchange + t.Device }

func (t RoundTrips) withTotal() RoundTrips {
	t.Total = t.total()
	return t
}

// Retired names the certificate that an identity had before it was replaced.
// It is still active in AWS IoT.
type Retired struct {
	ThingName     string
	CertificateID string
	// Command, for the aws CLI, deactivates the certificate.
	Command string
}

var awsEndpoint = regexp.MustCompile(`\.iot\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$`)

func retiredBy(id *identity.Identity) *Retired {
	if id == nil || id.Record.Replaces == "" {
		return nil
	}
	command := "aws iot update-certificate --certificate-id " + id.Record.Replaces + " --new-status INACTIVE"
	if m := awsEndpoint.FindStringSubmatch(id.Record.Endpoint); m != nil {
		command += " --region " + m[1]
	}
	return &Retired{ThingName: id.Record.ThingName, CertificateID: id.Record.Replaces, Command: command}
}

// Run provisions the device if it has no identity, or goes on where an earlier
// run was interrupted, and then proves the identity: it connects with it and
// publishes a birth message. With an identity it only proves it.
//
// Temporary failures are tried again until ctx ends. [ClassOf] tells what an
// error means. At most one Run per store works at a time; a second one returns
// an *[identity.LockedError].
func Run(ctx context.Context, c Config) (*Result, error) {
	return runWith(ctx, c, awsTiming)
}

func runWith(ctx context.Context, c Config, t timing) (*Result, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &run{
		Config:    c,
		timing:    t,
		clientID:  claimClientID(c.Store.SerialNumber()),
		connected: map[string]time.Time{},
		silence:   map[string]int{},
	}
	journal, err := c.Store.Begin()
	if err != nil {
		// A disk that is full or read-only, a damaged journal or a folder that others
		// may write to is no reason not to prove an identity that is whole.
		_, locked := errors.AsType[*identity.LockedError](err)
		if id, loadErr := c.Store.Load(); loadErr == nil && !locked && !c.Reprovision {
			c.Log.WarnContext(ctx, "proving the identity only: nothing can be provisioned", "error", err)
			return r.proveExisting(ctx, id)
		}
		return nil, err
	}
	r.journal, r.inDoubt = journal, journal.Stage() == identity.CertificateHeld
	result, err := r.run(ctx)
	if closeErr := journal.Close(); err == nil && closeErr != nil {
		err = fmt.Errorf("closing provisioning journal: %w", closeErr)
	}
	if err != nil {
		return nil, err
	}
	return result, nil
}

// run chooses between proving what there is and making what there is not.
func (r *run) run(ctx context.Context) (*Result, error) {
	id, err := r.Store.Load()
	_, broken := errors.AsType[*identity.BrokenError](err)
	replaceable := errors.Is(err, identity.ErrNone) || broken && r.Reprovision
	if err != nil && !replaceable {
		return nil, err
	}
	finished := r.journal.Finished()
	if id != nil && r.journal.Stage() == identity.Empty && (!r.Reprovision || finished != nil) {
		result, err := r.proveExisting(ctx, id)
		if err == nil {
			result.Retired = retiredBy(finished)
		}
		return result, err
	}
	if err := r.retry(ctx, r.attempt); err != nil {
		return nil, err
	}
	return &Result{
		Identity:    r.committed,
		Provisioned: r.registered,
		Retired:     retiredBy(r.committed),
		RoundTrips:  r.trips.withTotal(),
	}, nil
}

func (r *run) proveExisting(ctx context.Context, id *identity.Identity) (*Result, error) {
	if err := r.checkThingName(id.Record.ThingName); err != nil {
		return nil, err
	}
	err := r.retry(ctx, func(ctx context.Context) error {
		return r.prove(ctx, id.Record, id.TLS())
	})
	if err != nil {
		return nil, err
	}
	return &Result{Identity: id, RoundTrips: r.trips.withTotal()}, nil
}
