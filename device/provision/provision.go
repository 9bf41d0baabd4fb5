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
	"log/slog"
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

// Config says what to provision, where and with which claim. Store, Claim,
// Session, Template and SerialNumber are required.
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
	// SerialNumber goes into the claim session's client id.
	SerialNumber string
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
	// Reprovision replaces an identity. The old one stays until the new one is
	// proved.
	Reprovision bool
	// AnswerTimeout bounds each wait for one answer; default 15 s. The whole
	// run is bounded by its context.
	AnswerTimeout time.Duration
	// Progress, if set, is called as each step begins and ends, on Run's own
	// goroutine.
	Progress func(Event)
	// Log receives what an operator may need later; default none.
	Log *slog.Logger
}

// A Result is a device's proved identity.
type Result struct {
	Identity *identity.Identity
	// Provisioned tells that this run registered the thing.
	Provisioned bool
	// Retired is the identity that was replaced, nil if there was none.
	Retired *Retired
	// RoundTrips of this run's exchange, nil where they were not measured.
	RoundTrips *RoundTrips
}

// RoundTrips are the round trips that a provisioning waited for, one after the
// other, up to the CONNACK under the device's own certificate.
type RoundTrips struct {
	Claim    int `json:"claim"`    // TCP, TLS and CONNECT with the claim certificate
	Exchange int `json:"exchange"` // SUBSCRIBE, create, RegisterThing
	Device   int `json:"device"`   // what was left of TCP, TLS and CONNECT with the new one
	Total    int `json:"total"`
}

// Retired names the certificate that an identity had before it was replaced.
// It is still active in AWS IoT.
type Retired struct {
	ThingName     string
	CertificateID string
	// Commands, for the aws CLI, deactivate the certificate.
	Commands []string
}

// Run provisions the device if it has no identity, or goes on where an earlier
// run was interrupted, and then proves the identity: it connects with it and
// publishes a birth message. With an identity it only proves it.
//
// Temporary failures are tried again until ctx ends. [ClassOf] tells what an
// error means. At most one Run per store works at a time; a second one returns
// an *[identity.LockedError].
func Run(ctx context.Context, c Config) (*Result, error) {
	return nil, nil
}
