package provision

import (
	"fmt"
	"time"

	"example.com/fleety/device/awsiot"
)

// Class and its values are awsiot's, under their former names.
type Class = awsiot.Class

// The classes of errors.
const (
	Local         = awsiot.Failed
	Misconfigured = awsiot.Misconfigured
	Refused       = awsiot.Denied
	Temporary     = awsiot.Temporary
	Interrupted   = awsiot.Interrupted
)

// ClassOf is [awsiot.ClassOf].
func ClassOf(err error) Class { return awsiot.ClassOf(err) }

// A ConfigError tells that [Config] cannot be used.
type ConfigError struct{ Setting, Reason string }

// Error names the setting.
func (e *ConfigError) Error() string { return e.Setting + " " + e.Reason }

// Class returns the class.
func (e *ConfigError) Class() awsiot.Class { return awsiot.Misconfigured }

// A ThingNameError tells that AWS IoT gave the thing another name than the
// configuration demands. The thing is registered and its certificate kept:
// once the configuration names it, the next run goes on.
type ThingNameError struct{ Want, Got string }

// Error names both.
func (e *ThingNameError) Error() string {
	return fmt.Sprintf("AWS IoT named the thing %q, the configuration demands %q", e.Got, e.Want)
}

// Class returns the class.
func (e *ThingNameError) Class() awsiot.Class { return awsiot.Misconfigured }

// A ReplyError tells that an answer could not be understood.
type ReplyError struct {
	Topic  string
	Reason string
}

// Error names the topic and what is wrong.
func (e *ReplyError) Error() string { return fmt.Sprintf("answer on %s: %s", e.Topic, e.Reason) }

// Class returns the class.
func (e *ReplyError) Class() awsiot.Class { return awsiot.Temporary }

// A TimeoutError tells that no answer came in time.
type TimeoutError struct {
	To    string // the operation or packet
	After time.Duration
}

// Error names the request and the time.
func (e *TimeoutError) Error() string {
	return fmt.Sprintf("no answer to %s within %s", e.To, e.After)
}

// Class returns the class.
func (e *TimeoutError) Class() awsiot.Class { return awsiot.Temporary }

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

// Class returns the class.
func (e *DeniedError) Class() awsiot.Class { return awsiot.Denied }
