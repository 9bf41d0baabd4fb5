// Package admit holds the rules that decide whether a device may be provisioned. It is pure: it
// reads a request and what AWS knows of it, and answers without I/O, clock or logging.
package admit

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"example.com/fleety/hook/payload"
)

// A Reason says which rule decided.
type Reason string

// Every reason that a [Verdict] can have. They appear in the hook's log, where operators, metric
// filters and saved queries search for them: their text does not change.
const (
	Admitted             Reason = "admitted"
	Rotated              Reason = "device rotates its own certificate"
	SerialMissing        Reason = "serial number is missing"
	SerialNotString      Reason = "serial number is not a string"
	SerialEmpty          Reason = "serial number is empty"
	SerialTooLong        Reason = "serial number is too long"
	SerialCharacters     Reason = "serial number has characters that a thing name cannot have"
	SerialOtherPrefix    Reason = "serial number does not begin with the prefix of this fleet"
	ParameterNotString   Reason = "a parameter is not a string"
	LocationUnknown      Reason = "device location is not in the provisioning template"
	ThingTaken           Reason = "thing has another active certificate"
	ThingRevoked         Reason = "a certificate of the thing is revoked"
	OtherThing           Reason = "certificate of the connection belongs to another thing"
	RotationOff          Reason = "certificate of the connection belongs to a thing, and rotation is off"
	RotationNotActive    Reason = "certificate of the connection is not active"
	ThingUnknown         Reason = "thing's certificates could not be looked up"
	SerialUnlisted       Reason = "serial number is not in the list"
	SerialUsed           Reason = "serial number was used by another certificate"
	SerialRevoked        Reason = "serial number was used by a certificate that is revoked"
	SerialPending        Reason = "another certificate is being registered with the serial number"
	SerialRegistryFailed Reason = "registry of serial numbers could not be reached"
)

// A Verdict is the answer to one request.
type Verdict struct {
	Admitted bool
	Reason   Reason
	// HeldBy is the certificate that stands in the way when Reason is [ThingTaken], [ThingRevoked],
	// [SerialUsed], [SerialRevoked] or [SerialPending].
	HeldBy string
}

// Rules decide which devices are admitted. The zero value admits the serial numbers of our fleet,
// those that begin with [payload.SerialPrefix], in every location, with rotation.
type Rules struct {
	// SerialPrefix is what a serial number must begin with; empty means [payload.SerialPrefix],
	// never "any serial number".
	SerialPrefix string
	ThingPrefix  string // begins the thing names of the provisioning template; empty means [payload.ThingNamePrefix]
	// Locations are those that the provisioning template has. A device with another one could not
	// be registered, so it is denied before its serial number is marked as used. Empty means that
	// the template decides.
	Locations    []string
	TakeExisting bool // admits a claim to a thing that has an active certificate
	NoRotation   bool // denies every request that comes from the certificate of a thing
	ListedOnly   bool // admits only serial numbers that the registry lists
}

// ThingName is the thing that a device with this serial number becomes.
func (r Rules) ThingName(serialNumber string) string {
	return cmp.Or(r.ThingPrefix, payload.ThingNamePrefix) + serialNumber
}

// EvaluateRequest decides on what a device sent, before anything is looked up. Whatever that is, it
// gets a verdict.
func (r Rules) EvaluateRequest(request payload.Request) Verdict {
	serial, present, isString := request.Parameters.String(payload.SerialNumber)
	switch {
	case !present:
		return denied(SerialMissing)
	case !isString:
		return denied(SerialNotString)
	}
	if v := r.EvaluateSerial(serial); !v.Admitted {
		return v
	}
	// AWS IoT would reject these only after the hook has answered. A claim could then distinguish a
	// serial number that is admitted from others without registering it.
	for name := range request.Parameters {
		if _, _, isString := request.Parameters.String(name); !isString {
			return denied(ParameterNotString)
		}
	}
	location, _, _ := request.Parameters.String(payload.DeviceLocation)
	if len(r.Locations) > 0 && !slices.Contains(r.Locations, location) {
		return denied(LocationUnknown)
	}
	return Verdict{Admitted: true, Reason: Admitted}
}

// inThingName is AWS's pattern for thing names.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html
var inThingName = regexp.MustCompile(`^[a-zA-Z0-9:_-]+$`)

// EvaluateSerial decides on a serial number alone.
func (r Rules) EvaluateSerial(serial string) Verdict {
	switch {
	case serial == "":
		return denied(SerialEmpty)
	case len(serial) > payload.MaxSerialLength:
		return denied(SerialTooLong)
	case !inThingName.MatchString(serial):
		return denied(SerialCharacters)
	case !strings.HasPrefix(serial, cmp.Or(r.SerialPrefix, payload.SerialPrefix)):
		return denied(SerialOtherPrefix)
	}
	return Verdict{Admitted: true, Reason: Admitted}
}

func denied(why Reason) Verdict { return Verdict{Reason: why} }
