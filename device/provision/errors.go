package provision

import (
	"fmt"
	"time"

	"example.com/fleety/device/fleetapi"
)

// A Class says what an error means for whoever started the run.
type Class int

// The classes of errors.
const (
	Local         Class = iota // the device itself: disk, permission, a defect
	Misconfigured              // usage or configuration
	Refused                    // by AWS IoT; trying again will not help
	Temporary                  // network, throttling, time-out; trying again may help
)

// ClassOf tells the class of an error of [Run].
func ClassOf(err error) Class { return Local }

// A ThingNameError tells that AWS IoT gave the thing another name than the
// configuration demands. The thing is registered and the certificate kept;
// once the configuration names it, the next run goes on.
type ThingNameError struct{ Want, Got string }

// Error names both.
func (e *ThingNameError) Error() string {
	return fmt.Sprintf("the template named the thing %q, the configuration demands %q", e.Got, e.Want)
}

// A ReplyError tells that an answer could not be understood.
type ReplyError struct {
	Topic  string
	Reason string
}

// Error names the topic and what is wrong.
func (e *ReplyError) Error() string { return fmt.Sprintf("answer on %s: %s", e.Topic, e.Reason) }

// A TimeoutError tells that no answer came in time.
type TimeoutError struct {
	Operation fleetapi.Operation
	After     time.Duration
}

// Error names the operation and the time.
func (e *TimeoutError) Error() string {
	return fmt.Sprintf("no answer to %s within %s", e.Operation, e.After)
}
