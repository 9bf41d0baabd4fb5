// Package stack declares the cloud side of fleet provisioning by claim: the
// provisioning template with its hook and role, the policies of claims and of
// devices, and the thing group and type that devices join. The documents are
// read from templates/, the same files that the local core reads.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html
package stack

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiot"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// Props are what a stack is made of.
type Props struct {
	Options
	Documents
	// HookFolder holds the hook as Lambda takes it: one file, bootstrap, built
	// for Options.HookArchitecture.
	HookFolder string
}

// New declares the stack, in the account and Region of the claim certificates.
// Like every CDK constructor it panics when the CDK refuses; what a person may
// get wrong was found by [ParseOptions] and [ReadDocuments] before.
func New(scope constructs.Construct, props *Props) awscdk.Stack {
	home := props.ClaimCertificates[0]
	s := awscdk.NewStack(scope, &props.Names.Stack, &awscdk.StackProps{
		Description: jsii.String("Fleet provisioning by claim: devices trade a shared claim certificate for their own."),
		Env:         &awscdk.Environment{Account: &home.Account, Region: &home.Region},
		// The CDK's report names the versions of Go and Node.js: the template would differ between machines.
		AnalyticsReporting: jsii.Bool(false),
	})

	// Whoever reads the bill or the console sees what belongs here.
	awscdk.Tags_Of(s).Add(jsii.String("fleety:stack"), &props.Names.Stack, nil)

	claimPolicy := newClaimPolicy(s, props)
	attachClaims(s, claimPolicy, props.ClaimCertificates)
	devicePolicy := newDevicePolicy(s, props)
	group, kind := newThingGroup(s, props.Names), newThingType(s, props.Names)

	var serials awsdynamodb.Table
	if props.SerialRegistry {
		serials = newSerialTable(s)
		output(s, "SerialTableName", "The table of the serial numbers that may come in", serials.TableName())
	}
	hook := newHook(s, props, serials)
	newAlarms(s, props, hook.function)
	template := newTemplate(s, props, newProvisioningRole(s, props), hook.function)
	// A device may come in as soon as the template is there: what it needs comes first.
	for _, needed := range []awscdk.CfnResource{hook.permission, devicePolicy, group, kind} {
		template.AddResourceDependency(needed, nil)
	}

	output(s, "ProvisioningTemplateName", "What a device names as its provisioning template", template.Ref())
	output(s, "ClaimPolicyName", "The policy of the claim certificates", claimPolicy.Ref())
	output(s, "DevicePolicyName", "The policy of every device's own certificate", devicePolicy.Ref())
	output(s, "HookFunctionName", "The function that decides which device may come in", hook.function.FunctionName())
	output(s, "ThingGroupName", "The group that every device joins", group.Ref())
	output(s, "EndpointCommand", "Prints the endpoint that devices connect to",
		jsii.String("aws iot describe-endpoint --endpoint-type iot:Data-ATS --query endpointAddress --output text --region "+home.Region))
	return s
}

func output(s awscdk.Stack, name, description string, value *string) {
	awscdk.NewCfnOutput(s, &name, &awscdk.CfnOutputProps{Description: &description, Value: value})
}

func newClaimPolicy(s awscdk.Stack, props *Props) awsiot.CfnPolicy {
	return awsiot.NewCfnPolicy(s, jsii.String("ClaimPolicy"), &awsiot.CfnPolicyProps{
		PolicyName:     &props.Names.ClaimPolicy,
		PolicyDocument: deployableObject(props.ClaimPolicy, props.Names),
	})
}

// attachClaims names each attachment after its certificate, so that adding and
// removing a claim leaves the others alone.
func attachClaims(s awscdk.Stack, policy awsiot.CfnPolicy, certificates []Certificate) {
	for _, c := range certificates {
		awsiot.NewCfnPolicyPrincipalAttachment(s, jsii.String("Claim"+c.ID), &awsiot.CfnPolicyPrincipalAttachmentProps{
			PolicyName: policy.Ref(),
			Principal:  jsii.String(c.ARN),
		})
	}
}

// newDevicePolicy outlives the stack: AWS IoT refuses to delete a policy that
// devices' certificates hold, and without it those devices could not connect.
func newDevicePolicy(s awscdk.Stack, props *Props) awsiot.CfnPolicy {
	policy := awsiot.NewCfnPolicy(s, jsii.String("DevicePolicy"), &awsiot.CfnPolicyProps{
		PolicyName:     &props.Names.DevicePolicy,
		PolicyDocument: deployableObject(props.DevicePolicy, props.Names),
	})
	policy.ApplyRemovalPolicy(awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE, nil)
	return policy
}

func newThingGroup(s awscdk.Stack, names Names) awsiot.CfnThingGroup {
	return awsiot.NewCfnThingGroup(s, jsii.String("ThingGroup"), &awsiot.CfnThingGroupProps{
		ThingGroupName: &names.ThingGroup,
	})
}

// newThingType outlives the stack: AWS IoT refuses to delete a type that things have.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_DeleteThingType.html
func newThingType(s awscdk.Stack, names Names) awsiot.CfnThingType {
	kind := awsiot.NewCfnThingType(s, jsii.String("ThingType"), &awsiot.CfnThingTypeProps{
		ThingTypeName: &names.ThingType,
	})
	kind.ApplyRemovalPolicy(awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE, nil)
	return kind
}
