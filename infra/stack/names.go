package stack

import (
	"strings"

	"example.com/fleety/hook/payload"
)

// Name is the default stack's.
const Name = "GoFleetProvisioning"

// Names are those that devices, templates/ and people rely on. AWS IoT Core
// knows these resources by them, so they are fixed; every other resource is
// named by CloudFormation.
type Names struct {
	Stack, Template, ClaimPolicy, DevicePolicy, RotationPolicy, ExtraPolicy, ThingGroup, ThingType string
	// ThingPrefix begins the name of every thing; the serial number follows.
	ThingPrefix string
}

// defaultNames are the ones in templates/ and in the documentation.
var defaultNames = Names{
	Stack:          Name,
	Template:       "GoFleetProvisioningTemplate",
	ClaimPolicy:    "GoIoTFleetProvisioningPolicy",
	DevicePolicy:   "GoIoTDevicePolicy",
	RotationPolicy: "GoIoTRotationPolicy",
	ExtraPolicy:    "GoIoTExtraPolicy",
	ThingGroup:     "fleet-provisioning-group",
	ThingType:      "fleety",
	ThingPrefix:    payload.ThingNamePrefix,
}

// namesOf returns the names of the stack with this name. They begin with it, so
// that two stacks can live in one account and Region and neither's claims reach
// the other's things: no thing prefix begins with another, for a stack's name
// has no underscore.
func namesOf(stack string) Names {
	if stack == Name {
		return defaultNames
	}
	return Names{
		Stack:          stack,
		Template:       stack + "Template",
		ClaimPolicy:    stack + "ClaimPolicy",
		DevicePolicy:   stack + "DevicePolicy",
		RotationPolicy: stack + "RotationPolicy",
		ExtraPolicy:    stack + "ExtraPolicy",
		ThingGroup:     stack + "Group",
		ThingType:      stack + "Type",
		ThingPrefix:    stack + "_",
	}
}

// overlap reports whether a thing of one prefix could have a name of the other.
func overlap(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }
