package stack

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiot"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/jsii-runtime-go"

	"example.com/fleety/hook/payload"
)

// managedPolicies are those that the system is documented with. Provisioning needs the first.
var managedPolicies = []string{
	"service-role/AWSIoTThingsRegistration",
	"service-role/AWSIoTLogging",
	"AmazonS3ReadOnlyAccess",
	"service-role/AWSIoTRuleActions",
}

// newProvisioningRole is the role that AWS IoT Core provisions devices with. Only AWS IoT Core may
// take it, and only for this account's one template.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/cross-service-confused-deputy-prevention.html
func newProvisioningRole(s awscdk.Stack, props *Props) awsiam.Role {
	var policies []awsiam.IManagedPolicy
	if !props.MinimalRole {
		for _, name := range managedPolicies {
			policies = append(policies, awsiam.ManagedPolicy_FromAwsManagedPolicyName(&name))
		}
		awscdk.Annotations_Of(s).AddInfoV2(jsii.String("fleety:minimalRole"),
			jsii.String("the provisioning role has all four managed policies; -c minimalRole=true leaves only what provisioning needs"))
	}
	role := awsiam.NewRole(s, jsii.String("ProvisioningRole"), &awsiam.RoleProps{
		Description:     jsii.String("For AWS IoT Core: provisions devices"),
		ManagedPolicies: &policies,
		AssumedBy: awsiam.NewServicePrincipal(jsii.String("iot.amazonaws.com"), &awsiam.ServicePrincipalOpts{
			Conditions: &map[string]any{
				"StringEquals": map[string]any{"aws:SourceAccount": awscdk.Aws_ACCOUNT_ID()},
				"ArnLike":      map[string]any{"aws:SourceArn": templateARN(props.Names)},
			},
		}),
	})
	if !props.MinimalRole {
		return role
	}
	// AWSIoTThingsRegistration without what this template does not make, on the names of this fleet.
	// AWS offers no resource types for the actions on "*".
	// AWS page: https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsiot.html
	n := props.Names
	allow(role, iotARN("thing/"+n.ThingPrefix+props.SerialPrefix+"*"), "iot:CreateThing", "iot:UpdateThing", "iot:DescribeThing",
		"iot:ListThingPrincipals", "iot:ListThingGroupsForThing")
	role.AddToPolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{ // each of them needs both
		Actions:   jsii.Strings("iot:AddThingToThingGroup", "iot:UpdateThingGroupsForThing"),
		Resources: &[]*string{iotARN("thing/" + n.ThingPrefix + props.SerialPrefix + "*"), iotARN("thinggroup/" + n.ThingGroup)},
	}))
	allow(role, iotARN("thinggroup/"+n.ThingGroup), "iot:DescribeThingGroup")
	allow(role, iotARN("thingtype/"+n.ThingType), "iot:DescribeThingType")
	allow(role, iotARN("cert/*"), "iot:DescribeCertificate", "iot:UpdateCertificate", "iot:AttachPolicy", "iot:AttachPrincipalPolicy", "iot:ListAttachedPolicies")
	allow(role, iotARN("policy/"+n.DevicePolicy), "iot:GetPolicy")
	if props.Rotation {
		allow(role, iotARN("policy/"+n.RotationPolicy), "iot:GetPolicy")
	}
	if props.ExtraPolicy != "" {
		allow(role, iotARN("policy/"+n.ExtraPolicy), "iot:GetPolicy")
	}
	allow(role, jsii.String("*"), "iot:AttachThingPrincipal", "iot:RegisterThing")
	return role
}

func newTemplate(s awscdk.Stack, props *Props, role awsiam.Role, hook awslambda.Function) awsiot.CfnProvisioningTemplate {
	return awsiot.NewCfnProvisioningTemplate(s, jsii.String("Template"), &awsiot.CfnProvisioningTemplateProps{
		TemplateName:        &props.Names.Template,
		TemplateType:        jsii.String("FLEET_PROVISIONING"),
		Description:         jsii.String("Provisions devices that have a claim certificate"),
		Enabled:             true,
		ProvisioningRoleArn: role.RoleArn(),
		TemplateBody:        jsii.String(props.fleetTemplate()),
		PreProvisioningHook: &awsiot.CfnProvisioningTemplate_ProvisioningHookProperty{
			PayloadVersion: jsii.String(payload.Version),
			TargetArn:      hook.FunctionArn(),
		},
	})
}
