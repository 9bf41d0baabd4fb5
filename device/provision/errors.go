package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/session"
)

// A Class says what an error means for whoever started the run.
type Class int

// The classes of errors.
const (
	Local         Class = iota // the device itself: disk, permission, a defect
	Misconfigured              // usage or configuration
	Refused                    // by AWS IoT; trying again will not help
	Temporary                  // network, throttling, time-out; trying again may help
	Interrupted                // the context was cancelled
)

// String returns the class in one word.
func (c Class) String() string {
	return [...]string{"local", "misconfigured", "refused", "temporary", "interrupted"}[c]
}

// classed is what the errors of this package have in common.
type classed interface {
	error
	class() Class
}

// ClassOf tells the class of an error of [Run], by its type and never by its
// text.
func ClassOf(err error) Class {
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	if e, ok := errors.AsType[classed](err); ok {
		return e.class()
	}
	if e, ok := errors.AsType[*awsiot.ErrorResponse](err); ok {
		if e.Temporary() {
			return Temporary
		}
		return Refused
	}
	if e, ok := errors.AsType[*session.Error](err); ok {
		return classOfSession(e)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Temporary
	}
	return Local
}

func classOfSession(e *session.Error) Class {
	switch e.Class() {
	case session.ClassConfig:
		return Misconfigured
	case session.ClassRefused:
		return Refused
	case session.ClassTemporary:
		return Temporary
	case session.ClassCanceled:
		return Interrupted
	}
	return Local
}

// A ConfigError tells that [Config] cannot be used.
type ConfigError struct{ Setting, Reason string }

// Error names the setting.
func (e *ConfigError) Error() string { return e.Setting + " " + e.Reason }

func (e *ConfigError) class() Class { return Misconfigured }

// A ThingNameError tells that AWS IoT gave the thing another name than the
// configuration demands. The thing is registered and its certificate kept:
// once the configuration names it, the next run goes on.
type ThingNameError struct{ Want, Got string }

// Error names both.
func (e *ThingNameError) Error() string {
	return fmt.Sprintf("AWS IoT named the thing %q, the configuration demands %q", e.Got, e.Want)
}

func (e *ThingNameError) class() Class { return Misconfigured }

// A ReplyError tells that an answer could not be understood.
type ReplyError struct {
	Topic  string
	Reason string
}

// Error names the topic and what is wrong.
func (e *ReplyError) Error() string { return fmt.Sprintf("answer on %s: %s", e.Topic, e.Reason) }

func (e *ReplyError) class() Class { return Temporary }

// A TimeoutError tells that no answer came in time.
type TimeoutError struct {
	To    string // the operation or packet
	After time.Duration
}

// Error names the request and the time.
func (e *TimeoutError) Error() string {
	return fmt.Sprintf("no answer to %s within %s", e.To, e.After)
}

func (e *TimeoutError) class() Class { return Temporary }

// A DeniedError tells that the server closed the connection in silence several
// times after the same packet. That is how AWS IoT answers what no policy
// allows.
type DeniedError struct {
	Role   string // "claim" or "device": whose certificate it was
	Packet string // CONNECT, SUBSCRIBE or PUBLISH
	Times  int
	Err    error // the last *session.Error, which has the topics
}

// Error says what was denied.
func (e *DeniedError) Error() string {
	return fmt.Sprintf("probably denied to the %s certificate (%d times in a row): %v", e.Role, e.Times, e.Err)
}

// Unwrap returns the last of the errors.
func (e *DeniedError) Unwrap() error { return e.Err }

func (e *DeniedError) class() Class { return Refused }
