package stack

import (
	"encoding/json"
	"fmt"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/jsii-runtime-go"

	"example.com/fleety/hook/payload"
)

// A hook is the pre-provisioning hook with its log and the permission that lets
// AWS IoT Core call it.
type hook struct {
	function   awslambda.Function
	permission awslambda.CfnPermission
	log        awslogs.LogGroup
}

// newHook declares the hook. serials is nil without a registry of serial numbers.
// Its log outlives the stack: it says who was provisioned by which claim.
func newHook(s awscdk.Stack, props *Props, serials awsdynamodb.Table) hook {
	logs := awslogs.NewLogGroup(s, jsii.String("HookLog"), &awslogs.LogGroupProps{
		Retention:     awslogs.RetentionDays_ONE_YEAR,
		RemovalPolicy: awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE,
	})
	function := awslambda.NewFunction(s, jsii.String("Hook"), &awslambda.FunctionProps{
		Description:                  jsii.String("Decides which devices are allowed to provision"),
		Runtime:                      awslambda.Runtime_PROVIDED_AL2023(),
		Architecture:                 lambdaArchitecture(props.HookArchitecture),
		Handler:                      jsii.String("bootstrap"),
		Code:                         awslambda.Code_FromAsset(&props.HookFolder, nil),
		Timeout:                      awscdk.Duration_Seconds(jsii.Number(payload.AnswerWithin.Seconds())),
		MemorySize:                   jsii.Number(128),
		ReservedConcurrentExecutions: props.reservedConcurrency(),
		Tracing:                      props.tracing(),
		Role:                         newHookRole(s, props, logs, serials),
		LogGroup:                     logs,
		Environment:                  hookEnvironment(props, serials),
	})
	return hook{function, newHookPermission(s, props.Names, function), logs}
}

func lambdaArchitecture(a Architecture) awslambda.Architecture {
	if a == X86_64 {
		return awslambda.Architecture_X86_64()
	}
	return awslambda.Architecture_ARM_64()
}

// reservedConcurrency is nil for the account's shared concurrency.
func (o Options) reservedConcurrency() *float64 {
	if o.HookConcurrency == 0 {
		return nil
	}
	return jsii.Number(o.HookConcurrency)
}

func (o Options) tracing() awslambda.Tracing {
	if o.XRay {
		return awslambda.Tracing_ACTIVE
	}
	return awslambda.Tracing_DISABLED
}

// hookEnvironment is described in the hook's main.go.
func hookEnvironment(props *Props, serials awsdynamodb.Table) *map[string]*string {
	environment := map[string]*string{
		"SERIAL_PREFIX":   &props.SerialPrefix,
		"THING_PREFIX":    &props.Names.ThingPrefix,
		"EXISTING_THINGS": jsii.String(string(props.ExistingThings)),
		"ROTATION":        jsii.String(map[bool]string{true: "allow", false: "deny"}[props.Rotation]),
	}
	// Lambda takes 4 KB of variables. With more locations the template decides alone.
	if list, _ := json.Marshal(props.locations()); len(list) < 3<<10 && string(list) != "null" {
		environment["DEVICE_LOCATIONS"] = jsii.String(string(list))
	}
	if serials != nil {
		environment["SERIAL_TABLE"] = serials.TableName()
		environment["SERIAL_REGISTRY"] = jsii.String(string(props.SerialRegistry))
	}
	return &environment
}

// newHookRole lets the hook write its own log and look up what the options have
// it look up, and nothing else.
func newHookRole(s awscdk.Stack, props *Props, logs awslogs.LogGroup, serials awsdynamodb.Table) awsiam.Role {
	role := awsiam.NewRole(s, jsii.String("HookRole"), &awsiam.RoleProps{
		Description: jsii.String("For the pre-provisioning hook: writes its log, looks up things and serial numbers"),
		AssumedBy:   awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil),
	})
	logs.GrantWrite(role)
	if props.ExistingThings == RefuseExisting || props.Rotation || serials != nil {
		allow(role, iotARN("thing/"+props.Names.ThingPrefix+props.SerialPrefix+"*"), "iot:ListThingPrincipals")
		// A certificate's id is known only once it is there, so it cannot be narrower.
		allow(role, iotARN("cert/*"), "iot:DescribeCertificate")
		allow(role, jsii.String("*"), "iot:ListPrincipalThings") // has no resource types
	}
	if serials != nil {
		allow(role, serials.TableArn(), "dynamodb:GetItem", "dynamodb:UpdateItem")
	}
	return role
}

func allow(role awsiam.Role, resource *string, actions ...string) {
	role.AddToPolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions:   jsii.Strings(actions...),
		Resources: &[]*string{resource},
	}))
}

// newHookPermission lets AWS IoT Core call the hook for this account's one
// template, so that no other account's template can.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
func newHookPermission(s awscdk.Stack, names Names, function awslambda.Function) awslambda.CfnPermission {
	return awslambda.NewCfnPermission(s, jsii.String("HookPermission"), &awslambda.CfnPermissionProps{
		Action:        jsii.String("lambda:InvokeFunction"),
		FunctionName:  function.FunctionArn(),
		Principal:     jsii.String("iot.amazonaws.com"),
		SourceAccount: awscdk.Aws_ACCOUNT_ID(),
		SourceArn:     templateARN(names),
	})
}

// iotARN is the full name of a resource of AWS IoT in the stack's account and Region.
func iotARN(resource string) *string {
	return jsii.String(fmt.Sprintf("arn:%s:iot:%s:%s:%s",
		*awscdk.Aws_PARTITION(), *awscdk.Aws_REGION(), *awscdk.Aws_ACCOUNT_ID(), resource))
}

// templateARN is built from the template's fixed name: the template needs the
// role and the hook, and these need the template's ARN for their conditions.
func templateARN(names Names) *string { return iotARN("provisioningtemplate/" + names.Template) }
