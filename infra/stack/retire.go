package stack

import (
	"fmt"
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiot"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/jsii-runtime-go"
)

// newRetirement declares the function that deactivates, and later deletes, the
// certificates that a device has rotated out, and the rule that invokes it for
// each birth message that names a former certificate: AWS IoT allows an account
// few look-ups per second, and a fleet that reconnects at once sends many such
// messages. A failure is tried again twice by Lambda, and the next birth message
// retires what was left.
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
			Timeout:     awscdk.Duration_Seconds(jsii.Number(30)),
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
