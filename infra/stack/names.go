package stack

// Name is the default stack's.
const Name = "GoFleetProvisioning"

// Names are those that devices, templates/ and people rely on. AWS IoT Core
// knows these resources by them, so they are fixed; every other resource is
// named by CloudFormation.
type Names struct {
	Stack, Template, ClaimPolicy, DevicePolicy, ThingGroup, ThingType string
}

// defaultNames are the ones in templates/ and in the documentation.
var defaultNames = Names{
	Stack:        Name,
	Template:     "GoFleetProvisioningTemplate",
	ClaimPolicy:  "GoIoTFleetProvisioningPolicy",
	DevicePolicy: "GoIoTDevicePolicy",
	ThingGroup:   "fleet-provisioning-group",
	ThingType:    "fleety",
}

// namesOf returns the names of the stack that is called so. They begin with its
// name, so that two stacks can live in one account and Region.
func namesOf(stack string) Names {
	if stack == Name {
		return defaultNames
	}
	return Names{
		Stack:        stack,
		Template:     stack + "Template",
		ClaimPolicy:  stack + "ClaimPolicy",
		DevicePolicy: stack + "DevicePolicy",
		ThingGroup:   stack + "Group",
		ThingType:    stack + "Type",
	}
}
