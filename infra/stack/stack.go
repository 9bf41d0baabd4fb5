// Package stack declares the cloud side of fleet provisioning by claim: the provisioning template
// with its hook and role, the policies of claims and of devices, and the thing group and type that
// devices join. The documents are read from templates/, the same files that the local emulator
// reads.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-wo-cert.html
package stack

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiot"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// Props are what a stack is made of.
type Props struct {
	Options
	Documents
	HookFolder string // holds the hook as Lambda takes it: one file, bootstrap, built for Options.HookArchitecture
	// RetireFolder holds in the same way the function that retires certificates. It is needed with
	// Options.Rotation.
	RetireFolder string
}

// New declares the stack, in the account and Region of the claim certificates. Like every CDK
// constructor it panics when the CDK rejects something; mistakes of the person who deploys are
// found by [ParseOptions], [ReadDocuments] and [Props.Check] before.
func New(scope constructs.Construct, props *Props) awscdk.Stack {
	home := props.ClaimCertificates[0]
	s := awscdk.NewStack(scope, &props.Names.Stack, &awscdk.StackProps{
		Description: jsii.String("Fleet provisioning by claim: devices exchange a shared claim certificate for their own."),
		Env:         &awscdk.Environment{Account: &home.Account, Region: &home.Region},
		// The CDK's report names the versions of Go and Node.js: the template would differ between
		// machines.
		AnalyticsReporting: jsii.Bool(false),
	})

	// The bill and the console show what belongs here.
	awscdk.Tags_Of(s).Add(jsii.String("fleety:stack"), &props.Names.Stack, &awscdk.TagProps{
		ExcludeResourceTypes: jsii.Strings("AWS::CloudWatch::Dashboard"), // takes none in most Regions
	})

	claims, _ := props.claimPolicy()
	claimPolicy := newPolicy(s, "ClaimPolicy", props.Names.ClaimPolicy, claims)
	for _, c := range props.ClaimCertificates { // named after its certificate: adding and removing a claim leaves the others alone
		awsiot.NewCfnPolicyPrincipalAttachment(s, jsii.String("Claim"+c.ID), &awsiot.CfnPolicyPrincipalAttachmentProps{
			PolicyName: claimPolicy.Ref(), Principal: jsii.String(c.ARN),
		})
	}
	devicePolicy := newPolicy(s, "DevicePolicy", props.Names.DevicePolicy, props.fill(props.DevicePolicy))
	group := awsiot.NewCfnThingGroup(s, jsii.String("ThingGroup"), &awsiot.CfnThingGroupProps{ThingGroupName: &props.Names.ThingGroup})
	inUse := []awscdk.CfnResource{ // by devices
		devicePolicy, awsiot.NewCfnThingType(s, jsii.String("ThingType"), &awsiot.CfnThingTypeProps{ThingTypeName: &props.Names.ThingType}),
		// Without rotation no device gets it. But those that have it keep it, so it could not be created
		// again when rotation comes back.
		newPolicy(s, "RotationPolicy", props.Names.RotationPolicy, props.fill(props.RotationPolicy)),
	}
	if props.ExtraPolicy != "" {
		inUse = append(inUse, newPolicy(s, "ExtraPolicy", props.Names.ExtraPolicy, props.fill(props.ExtraPolicy)))
	}
	// These outlive the stack: AWS IoT deletes no policy that is attached to certificates, without
	// which devices could not connect, and no type that things have.
	// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_DeleteThingType.html
	for _, resource := range inUse {
		resource.ApplyRemovalPolicy(awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE, nil)
	}

	var serials awsdynamodb.Table
	if props.SerialRegistry != NoRegistry {
		serials = newSerialTable(s)
		output(s, "SerialTableName", "Registry of serial numbers", serials.TableName())
	}
	hook := newHook(s, props, serials)
	permission := allowIoT(s, "HookPermission", hook.function, templateARN(props.Names))
	var retire awslambda.Function
	if props.Rotation {
		retire = newRetirement(s, props)
		output(s, "RetireFunctionName", "Function that retires the former certificates of devices", retire.FunctionName())
	}
	newMonitoring(s, props, hook, retire)
	template := newTemplate(s, props, newProvisioningRole(s, props), hook.function)
	// A device may be provisioned as soon as the template is there: what it needs comes first.
	for _, needed := range append(inUse, group, permission) {
		template.AddResourceDependency(needed, nil)
	}

	output(s, "ProvisioningTemplateName", "Provisioning template name", template.Ref())
	output(s, "ThingNamePrefix", "Prefix of thing names; the serial number follows", &props.Names.ThingPrefix)
	output(s, "ClaimPolicyName", "Policy of the claim certificates", claimPolicy.Ref())
	output(s, "DevicePolicyName", "Policy of each device's own certificate", devicePolicy.Ref())
	output(s, "HookFunctionName", "Pre-provisioning hook function", hook.function.FunctionName())
	output(s, "HookLogName", "Log group with each decision of the hook", hook.log.LogGroupName())
	output(s, "ThingGroupName", "Thing group of all devices", group.Ref())
	output(s, "EndpointCommand", "Command that prints the endpoint of devices",
		jsii.String("aws iot describe-endpoint --endpoint-type iot:Data-ATS --query endpointAddress --output text --region "+home.Region))
	return s
}

func output(s awscdk.Stack, name, description string, value *string) {
	awscdk.NewCfnOutput(s, &name, &awscdk.CfnOutputProps{Description: &description, Value: value})
}

func newPolicy(s awscdk.Stack, id, name, document string) awsiot.CfnPolicy {
	return awsiot.NewCfnPolicy(s, &id, &awsiot.CfnPolicyProps{PolicyName: &name, PolicyDocument: object(document)})
}
