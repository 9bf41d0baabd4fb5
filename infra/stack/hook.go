package stack

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/jsii-runtime-go"

	"example.com/fleety/hook/payload"
)

// A hook is the pre-provisioning hook with the permission that lets AWS IoT
// Core call it.
type hook struct {
	function   awslambda.Function
	permission awslambda.CfnPermission
}

func newHook(s awscdk.Stack, props *Props) hook {
	logs := awslogs.NewLogGroup(s, jsii.String("HookLog"), &awslogs.LogGroupProps{
		Retention:     awslogs.RetentionDays_ONE_MONTH,
		RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
	})
	function := awslambda.NewFunction(s, jsii.String("Hook"), &awslambda.FunctionProps{
		Description:  jsii.String("Decides which device may be provisioned"),
		Runtime:      awslambda.Runtime_PROVIDED_AL2023(),
		Architecture: lambdaArchitecture(props.HookArchitecture),
		Handler:      jsii.String("bootstrap"),
		Code:         awslambda.Code_FromAsset(&props.HookFolder, nil),
		Timeout:      awscdk.Duration_Seconds(jsii.Number(payload.AnswerWithin.Seconds())),
		MemorySize:   jsii.Number(128),
		Role:         newHookRole(s, logs),
		LogGroup:     logs,
		Environment:  &map[string]*string{"SERIAL_PREFIX": &props.SerialPrefix},
	})
	return hook{function, newHookPermission(s, function)}
}

func lambdaArchitecture(a Architecture) awslambda.Architecture {
	if a == X86_64 {
		return awslambda.Architecture_X86_64()
	}
	return awslambda.Architecture_ARM_64()
}

// newHookRole lets the hook write its own log and nothing else.
func newHookRole(s awscdk.Stack, logs awslogs.LogGroup) awsiam.Role {
	role := awsiam.NewRole(s, jsii.String("HookRole"), &awsiam.RoleProps{
		Description: jsii.String("The pre-provisioning hook writes its log with it"),
		AssumedBy:   awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil),
	})
	logs.GrantWrite(role)
	return role
}

// newHookPermission lets AWS IoT Core call the hook for this account's one
// template, so that no other account's template can.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
func newHookPermission(s awscdk.Stack, function awslambda.Function) awslambda.CfnPermission {
	return awslambda.NewCfnPermission(s, jsii.String("HookPermission"), &awslambda.CfnPermissionProps{
		Action:        jsii.String("lambda:InvokeFunction"),
		FunctionName:  function.FunctionArn(),
		Principal:     jsii.String("iot.amazonaws.com"),
		SourceAccount: awscdk.Aws_ACCOUNT_ID(),
		SourceArn:     templateARN(),
	})
}
