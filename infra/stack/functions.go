package stack

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiot"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/jsii-runtime-go"

	"example.com/fleety/hook/payload"
)

// A lambda is a function of the hook's module with its role and its log.
type lambda struct {
	function awslambda.Function
	role     awsiam.Role
	log      awslogs.LogGroup
}

// newLambda declares a function as f describes it, and a role that lets it write its log, which
// outlives the stack: it says who was provisioned by which claim.
func newLambda(s awscdk.Stack, props *Props, id, role string, f *awslambda.FunctionProps) lambda {
	l := lambda{
		log: awslogs.NewLogGroup(s, jsii.String(id+"Log"), &awslogs.LogGroupProps{
			Retention:     awslogs.RetentionDays_ONE_YEAR,
			RemovalPolicy: awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE,
		}),
		role: awsiam.NewRole(s, jsii.String(id+"Role"), &awsiam.RoleProps{
			Description: &role,
			AssumedBy:   awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil),
		}),
	}
	l.log.GrantWrite(l.role)
	f.Runtime, f.Handler, f.MemorySize = awslambda.Runtime_PROVIDED_AL2023(), jsii.String("bootstrap"), jsii.Number(128)
	f.Role, f.LogGroup, f.Architecture = l.role, l.log, awslambda.Architecture_ARM_64()
	if props.HookArchitecture == X86_64 {
		f.Architecture = awslambda.Architecture_X86_64()
	}
	l.function = awslambda.NewFunction(s, &id, f)
	return l
}

// allow lets the function take actions on a resource.
func allow(role awsiam.Role, resource *string, actions ...string) {
	role.AddToPolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Actions:   jsii.Strings(actions...),
		Resources: &[]*string{resource},
	}))
}

// allowIoT lets AWS IoT Core call the function for one source of this account, so that no other
// account's can.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
func allowIoT(s awscdk.Stack, id string, function awslambda.Function, source *string) awslambda.CfnPermission {
	return awslambda.NewCfnPermission(s, &id, &awslambda.CfnPermissionProps{
		Action:        jsii.String("lambda:InvokeFunction"),
		FunctionName:  function.FunctionArn(),
		Principal:     jsii.String("iot.amazonaws.com"),
		SourceAccount: awscdk.Aws_ACCOUNT_ID(),
		SourceArn:     source,
	})
}

// newHook declares the hook. serials is nil without a registry of serial numbers.
func newHook(s awscdk.Stack, props *Props, serials awsdynamodb.Table) lambda {
	environment := map[string]*string{ // described in the hook's main.go
		"SERIAL_PREFIX":   &props.SerialPrefix,
		"THING_PREFIX":    &props.Names.ThingPrefix,
		"EXISTING_THINGS": &props.ExistingThings,
		"ROTATION":        jsii.String(map[bool]string{true: "allow", false: "deny"}[props.Rotation]),
	}
	// Lambda takes 4 KB of variables. With more locations the template decides alone.
	if list, _ := json.Marshal(props.locations()); len(list) < 3<<10 && string(list) != "null" {
		environment["DEVICE_LOCATIONS"] = jsii.String(string(list))
	}
	if serials != nil {
		environment["SERIAL_TABLE"] = serials.TableName()
		environment["SERIAL_REGISTRY"] = &props.SerialRegistry
	}
	f := &awslambda.FunctionProps{
		Description: jsii.String("Decides which devices are allowed to provision"),
		Code:        awslambda.Code_FromAsset(&props.HookFolder, nil),
		Timeout:     awscdk.Duration_Seconds(jsii.Number(payload.AnswerWithin.Seconds())),
		Environment: &environment,
	}
	if props.HookConcurrency > 0 { // else the account's shared concurrency
		f.ReservedConcurrentExecutions = jsii.Number(props.HookConcurrency)
	}
	if props.XRay {
		f.Tracing = awslambda.Tracing_ACTIVE
	}
	hook := newLambda(s, props, "Hook", "For the pre-provisioning hook: writes its log, looks up things and serial numbers", f)
	allow(hook.role, iotARN("thing/"+props.Names.ThingPrefix+props.SerialPrefix+"*"), "iot:ListThingPrincipals")
	// A certificate's id is known only once it is there, so it cannot be narrower.
	allow(hook.role, iotARN("cert/*"), "iot:DescribeCertificate")
	allow(hook.role, jsii.String("*"), "iot:ListPrincipalThings") // has no resource types
	if serials != nil {
		allow(hook.role, serials.TableArn(), "dynamodb:GetItem", "dynamodb:UpdateItem")
	}
	return hook
}

// newSerialTable is the registry of serial numbers. It outlives the stack, and mistakes: it holds
// which serial numbers are used up, and those that an operator has listed. Its protection would fail
// the roll-back of a first deployment that deletes it, so that keeps it too.
func newSerialTable(s awscdk.Stack) awsdynamodb.Table {
	return awsdynamodb.NewTable(s, jsii.String("Serials"), &awsdynamodb.TableProps{
		PartitionKey:                     &awsdynamodb.Attribute{Name: jsii.String(payload.SerialNumber), Type: awsdynamodb.AttributeType_STRING},
		BillingMode:                      awsdynamodb.BillingMode_PAY_PER_REQUEST,
		PointInTimeRecoverySpecification: &awsdynamodb.PointInTimeRecoverySpecification{PointInTimeRecoveryEnabled: jsii.Bool(true)},
		DeletionProtection:               jsii.Bool(true),
		RemovalPolicy:                    awscdk.RemovalPolicy_RETAIN,
	})
}

// iotARN is the full name of a resource of AWS IoT in the stack's account and Region.
func iotARN(resource string) *string {
	return jsii.String(fmt.Sprintf("arn:%s:iot:%s:%s:%s",
		*awscdk.Aws_PARTITION(), *awscdk.Aws_REGION(), *awscdk.Aws_ACCOUNT_ID(), resource))
}

// templateARN is built from the template's fixed name: the template needs the role and the hook,
// and these need the template's ARN for their conditions.
func templateARN(names Names) *string { return iotARN("provisioningtemplate/" + names.Template) }

// newRetirement declares the function that deactivates, and later deletes, the certificates that a
// device has rotated out, and the rule that invokes it for each birth message that names a former
// certificate: AWS IoT allows an account few look-ups per second, and a fleet that reconnects at
// once sends many such messages. A failure is tried again twice by Lambda, and the next birth
// message retires what was left.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/lambda-rule-action.html
func newRetirement(s awscdk.Stack, props *Props) awslambda.Function {
	var claims []string
	for _, c := range props.ClaimCertificates {
		claims = append(claims, c.ID)
	}
	l := newLambda(s, props, "Retire", "For the function that retires certificates: writes its log, deactivates and deletes certificates",
		&awslambda.FunctionProps{
			Description: jsii.String("Retires the former certificates of devices that have rotated"),
			Code:        awslambda.Code_FromAsset(&props.RetireFolder, nil),
			Timeout:     awscdk.Duration_Minutes(jsii.Number(2)), // of many certificates, some of which AWS IoT detaches late
			Environment: &map[string]*string{
				"RETIRE_AFTER":       jsii.String(fmt.Sprintf("%dh", 24*props.RetireAfter)),
				"CLAIM_CERTIFICATES": jsii.String(strings.Join(claims, ",")),
			},
		})
	allow(l.role, iotARN("thing/"+props.Names.ThingPrefix+props.SerialPrefix+"*"), "iot:ListThingPrincipals")
	// A certificate's id is known only once it is there, so it cannot be narrower.
	allow(l.role, iotARN("cert/*"), "iot:DescribeCertificate", "iot:UpdateCertificate", "iot:DeleteCertificate")
	allow(l.role, jsii.String("*"), "iot:ListPrincipalThings", "iot:DetachThingPrincipal") // have no resource types

	// The device policy lets a device publish to fleet/THING as that thing alone.
	rule := awsiot.NewCfnTopicRule(s, jsii.String("BirthMessages"), &awsiot.CfnTopicRuleProps{
		TopicRulePayload: &awsiot.CfnTopicRule_TopicRulePayloadProperty{
			Description:      jsii.String("Retires the former certificates of a device that connects with a new one"),
			AwsIotSqlVersion: jsii.String("2016-03-23"),
			Sql: jsii.String("SELECT principal() AS certificateId, topic(2) AS thingName FROM 'fleet/+' WHERE startswith(topic(2), '" +
				props.Names.ThingPrefix + props.SerialPrefix + "') AND isUndefined(replaces) = false"),
			Actions: []any{&awsiot.CfnTopicRule_ActionProperty{
				Lambda: &awsiot.CfnTopicRule_LambdaActionProperty{FunctionArn: l.function.FunctionArn()},
			}},
		},
	})
	allowIoT(s, "RetirePermission", l.function, rule.AttrArn())
	return l.function
}
