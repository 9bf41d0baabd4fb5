package stack

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatchactions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssnssubscriptions"
	"github.com/aws/jsii-runtime-go"
)

// refusalsToAlarm is how many registrations must fail within alarmPeriod. A
// single one is a device's own affair.
const refusalsToAlarm = 10

// newAlarms watches the hook and what devices run into. With an address, it
// gets a message when an alarm goes off and when it is over.
func newAlarms(s awscdk.Stack, props *Props, hook awslambda.Function) {
	period := awscdk.Duration_Minutes(jsii.Number(5))
	alarms := []awscloudwatch.Alarm{
		newAlarm(s, "HookErrors", "The pre-provisioning hook fails, and every device with it: its log says why", 1,
			hook.MetricErrors(&awscloudwatch.MetricOptions{Period: period, Statistic: jsii.String("Sum")})),
		newAlarm(s, "RegisterThingFailures", "Many devices are refused: the log of the pre-provisioning hook says why", refusalsToAlarm,
			registerThingFailures(period)),
	}
	if props.AlarmEmail == "" {
		return
	}
	topic := awssns.NewTopic(s, jsii.String("Alarms"), &awssns.TopicProps{DisplayName: jsii.String("Alarms of " + props.Names.Stack)})
	topic.AddSubscription(awssnssubscriptions.NewEmailSubscription(&props.AlarmEmail, nil))
	tell := awscloudwatchactions.NewSnsAction(topic)
	for _, alarm := range alarms {
		alarm.AddAlarmAction(tell)
		alarm.AddOkAction(tell)
	}
}

func newAlarm(s awscdk.Stack, id, description string, threshold float64, metric awscloudwatch.IMetric) awscloudwatch.Alarm {
	return awscloudwatch.NewAlarm(s, &id, &awscloudwatch.AlarmProps{
		AlarmDescription:   &description,
		Metric:             metric,
		Threshold:          &threshold,
		ComparisonOperator: awscloudwatch.ComparisonOperator_GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
		EvaluationPeriods:  jsii.Number(1),
		TreatMissingData:   awscloudwatch.TreatMissingData_NOT_BREACHING, // no device came in
	})
}

// registerThingFailures adds up AWS IoT's metric over all its dimensions: AWS
// does not say which of them it has, and an alarm on the wrong ones would stay
// silent. So it counts the failures of every template in the account and Region.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/metrics_dimensions.html
func registerThingFailures(period awscdk.Duration) awscloudwatch.IMetric {
	return awscloudwatch.NewMathExpression(&awscloudwatch.MathExpressionProps{
		Expression: jsii.String(`SELECT SUM(RegisterThingFailed) FROM "AWS/IoT"`),
		Label:      jsii.String("RegisterThingFailed"),
		Period:     period,
	})
}
