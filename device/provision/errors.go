package provision

import (
	"fmt"
	"time"

	"example.com/fleety/device/awsiot"
)

// A ThingNameError reports that AWS IoT gave the thing another name than the
// configuration requires. The thing is registered and its certificate kept:
// once the configuration names it, the next run resumes.
type ThingNameError struct{ Want, Got string }

func (e *ThingNameError) Error() string {
	return fmt.Sprintf("AWS IoT named the thing %q, the configuration requires %q", e.Got, e.Want)
}

// Class returns [awsiot.Misconfigured].
func (e *ThingNameError) Class() awsiot.Class { return awsiot.Misconfigured }

// A NoThingNameError reports that AWS IoT registered the certificate and named no
// thing, as for a template that has none. The certificate is active and kept:
// once the configuration sets the thing's name, the next run resumes.
type NoThingNameError struct{ CertificateID string }

func (e *NoThingNameError) Error() string {
	return fmt.Sprintf("AWS IoT registered certificate %s without naming a thing", e.CertificateID)
}

// Class returns [awsiot.Misconfigured].
func (e *NoThingNameError) Class() awsiot.Class { return awsiot.Misconfigured }

// A ClockError reports that AWS IoT rejected a certificate that is not valid yet
// by the device's clock, which is probably behind.
type ClockError struct {
	Role           string // "claim" or "device": whose certificate it was
	NotBefore, Now time.Time
	Err            error // the *session.Error
}

func (e *ClockError) Error() string {
	return fmt.Sprintf("%v: the %s certificate is not valid before %s, and this device's clock says %s",
		e.Err, e.Role, e.NotBefore.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339))
}

func (e *ClockError) Unwrap() error { return e.Err }

// Class returns [awsiot.Temporary].
func (e *ClockError) Class() awsiot.Class { return awsiot.Temporary }

// A TimeoutError reports that no answer arrived in time.
type TimeoutError struct {
	To    string // the operation or packet
	After time.Duration
}

func (e *TimeoutError) Error() string { return fmt.Sprintf("no answer to %s within %s", e.To, e.After) }

// Class returns [awsiot.Temporary].
func (e *TimeoutError) Class() awsiot.Class { return awsiot.Temporary }

// A DeniedError reports that the server closed the connection without a response
// after the same packet, several times over minutes. That is how AWS IoT denies
// what no policy allows.
type DeniedError struct {
	Role   string // "claim" or "device": whose certificate it was
	Packet string // CONNECT, SUBSCRIBE or PUBLISH
	Times  int
	Err    error // the last *session.Error, which has the topics
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("probably denied to the %s certificate (%d times, one after the other): %v", e.Role, e.Times, e.Err)
}

func (e *DeniedError) Unwrap() error { return e.Err }

// Class returns [awsiot.Denied].
func (e *DeniedError) Class() awsiot.Class { return awsiot.Denied }
