package stack

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiot"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/jsii-runtime-go"

	"example.com/fleety/hook/payload"
)

// thingsRegistration lets AWS IoT Core make things and attach certificates and
// policies: all that provisioning needs.
const thingsRegistration = "service-role/AWSIoTThingsRegistration"

// furtherPolicies are the ones that the system is documented with beyond it.
var furtherPolicies = []string{
	"service-role/AWSIoTLogging",
	"AmazonS3ReadOnlyAccess",
	"service-role/AWSIoTRuleActions",
}

// newProvisioningRole is the role that AWS IoT Core provisions devices with.
// Only AWS IoT Core may take it, and only for this account's one template.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/cross-service-confused-deputy-prevention.html
func newProvisioningRole(s awscdk.Stack, props *Props) awsiam.Role {
	names := []string{thingsRegistration}
	if !props.MinimalRole {
		names = append(names, furtherPolicies...)
	}
	var policies []awsiam.IManagedPolicy
	for _, name := range names {
		policies = append(policies, awsiam.ManagedPolicy_FromAwsManagedPolicyName(&name))
	}
	return awsiam.NewRole(s, jsii.String("ProvisioningRole"), &awsiam.RoleProps{
		Description:     jsii.String("AWS IoT Core provisions devices with it"),
		ManagedPolicies: &policies,
		AssumedBy: awsiam.NewServicePrincipal(jsii.String("iot.amazonaws.com"), &awsiam.ServicePrincipalOpts{
			Conditions: &map[string]any{
				"StringEquals": map[string]any{"aws:SourceAccount": awscdk.Aws_ACCOUNT_ID()},
				"ArnLike":      map[string]any{"aws:SourceArn": templateARN(props.Names)},
			},
		}),
	})
}

func newTemplate(s awscdk.Stack, props *Props, role awsiam.Role, hook awslambda.Function) awsiot.CfnProvisioningTemplate {
	return awsiot.NewCfnProvisioningTemplate(s, jsii.String("Template"), &awsiot.CfnProvisioningTemplateProps{
		TemplateName:        &props.Names.Template,
		TemplateType:        jsii.String("FLEET_PROVISIONING"),
		Description:         jsii.String("Provisions devices that come with a claim certificate"),
		Enabled:             true,
		ProvisioningRoleArn: role.RoleArn(),
		TemplateBody:        jsii.String(deployable(props.FleetTemplate, props.Names)),
		PreProvisioningHook: &awsiot.CfnProvisioningTemplate_ProvisioningHookProperty{
			PayloadVersion: jsii.String(payload.Version),
			TargetArn:      hook.FunctionArn(),
		},
	})
}
