package stack

// Names that devices, templates/ and people rely on. AWS IoT Core knows these
// resources by them, so they are fixed; every other resource is named by
// CloudFormation.
const (
	// Name is the CloudFormation stack's.
	Name = "GoFleetProvisioning"

	TemplateName     = "GoFleetProvisioningTemplate"
	ClaimPolicyName  = "GoIoTFleetProvisioningPolicy"
	DevicePolicyName = "GoIoTDevicePolicy"
	ThingGroupName   = "fleet-provisioning-group"
	ThingTypeName    = "fleety"
)
