// Package admit holds the rules that decide whether a device may be
// provisioned. It is pure: it reads a request and answers, without I/O, clock
// or logging. It judges only what identifies the device; the location and other
// parameters are the business of the provisioning template.
package admit

import (
	"strings"

	"example.com/fleety/hook/payload"
)

// A Reason says which rule decided.
type Reason string

// Every reason that a [Verdict] can have. They appear in the hook's log, where
// operators search for them: their text does not change.
const (
	Admitted          Reason = "admitted"
	SerialMissing     Reason = "serial number is missing"
	SerialNotString   Reason = "serial number is not a string"
	SerialEmpty       Reason = "serial number is empty"
	SerialTooLong     Reason = "serial number is too long"
	SerialCharacters  Reason = "serial number has characters that a thing name cannot have"
	SerialOtherPrefix Reason = "serial number does not begin with the prefix of this fleet"
	ThingTaken        Reason = "thing has another active certificate"
	ThingUnknown      Reason = "thing's certificates could not be looked up"
	SerialUnlisted    Reason = "serial number is not in the list"
	SerialUsed        Reason = "serial number was used by another certificate"
	ListUnknown       Reason = "list of serial numbers could not be asked"
)

// A Verdict is the answer to one request.
type Verdict struct {
	Admitted bool
	Reason   Reason
	// HeldBy is the certificate that stands in the way when Reason is
	// [ThingTaken] or [SerialUsed].
	HeldBy string
}

// Rules decide which devices may come in. The zero value admits the serial
// numbers of our fleet, those that begin with [payload.SerialPrefix].
type Rules struct {
	// SerialPrefix is what a serial number must begin with;
	// empty means [payload.SerialPrefix], never "any serial number".
	SerialPrefix string
}

// Judge decides on a request. Whatever a device sends gets a verdict.
func (r Rules) Judge(request payload.Request) Verdict {
	serial, present, isString := request.Parameters.String(payload.SerialNumber)
	switch {
	case !present:
		return refused(SerialMissing)
	case !isString:
		return refused(SerialNotString)
	}
	return r.JudgeSerial(serial)
}

// JudgeSerial decides on a serial number alone.
func (r Rules) JudgeSerial(serial string) Verdict {
	switch {
	case serial == "":
		return refused(SerialEmpty)
	case len(serial) > payload.MaxSerialLength:
		return refused(SerialTooLong)
	case strings.ContainsFunc(serial, notInThingName):
		return refused(SerialCharacters)
	case !strings.HasPrefix(serial, r.prefix()):
		return refused(SerialOtherPrefix)
	}
	return Verdict{Admitted: true, Reason: Admitted}
}

func (r Rules) prefix() string {
	if r.SerialPrefix == "" {
		return payload.SerialPrefix
	}
	return r.SerialPrefix
}

func refused(why Reason) Verdict { return Verdict{Reason: why} }

// notInThingName reports characters outside AWS's pattern for thing names,
// [a-zA-Z0-9:_-]+.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html
func notInThingName(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return false
	}
	return c != ':' && c != '_' && c != '-'
}
