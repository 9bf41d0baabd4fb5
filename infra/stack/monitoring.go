package stack

import (
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// attemptReasons are the reasons, in the hook's log, for which a certificate is denied a name that
// another certificate has.
var attemptReasons = []string{
	"thing has another active certificate",
	"a certificate of the thing is revoked",
	"serial number was used by another certificate",
	"serial number was used by a certificate that is revoked",
	"certificate of the connection belongs to another thing",
}

// newMonitoring watches the hook and its decisions, and the function that retires certificates, nil
// without rotation. With an address, it gets a message when an alarm goes off and when it is over.
func newMonitoring(s awscdk.Stack, props *Props, h lambda, retire awslambda.Function) {
	sum := &awscloudwatch.MetricOptions{Period: awscdk.Duration_Minutes(jsii.Number(5)), Statistic: jsii.String("Sum")}
	// That many devices rotate is no sign of a leaked claim.
	admitted := newDecisionMetric(s, props, h, "Admissions", `{ ($.verdict = "admitted") && ($.reason != "device rotates its own certificate") }`, sum)
	attempted := newDecisionMetric(s, props, h, "AttemptsAtLiveNames", `{ ($.reason = "`+strings.Join(attemptReasons, `") || ($.reason = "`)+`") }`, sum)
	failed := newDecisionMetric(s, props, h, "FailedLookups", `{ $.verdict = "failed" }`, sum)
	alarms := []awscloudwatch.Alarm{ // each with how often, within five minutes: a single denial is normal operation
		newAlarm(s, "HookErrors", "The pre-provisioning hook fails, and every device is denied: its log says why", 1, h.function.MetricErrors(sum)),
		newAlarm(s, "HookThrottles", "Lambda throttles the pre-provisioning hook, and devices are denied: raise its concurrency", 1, h.function.MetricThrottles(sum)),
		newAlarm(s, "ConnectThrottles", "AWS IoT throttles connections, of any client in the account and Region", 1, iotSum("Connect.Throttle", sum.Period)),
		newAlarm(s, "RegisterThingFailures", "Many devices are denied: the log of the pre-provisioning hook says why", 10, iotSum("RegisterThingFailed", sum.Period)),
		newAlarm(s, "TooManyAdmissions", "More devices are provisioned than expected: a claim certificate may have leaked", float64(props.ExpectedAdmissions)+1, admitted),
		newAlarm(s, "AttemptsAtLiveThings", "A claim asks for the names of devices that are provisioned: it may have leaked", 5, attempted),
	}
	if retire != nil { // what Lambda repeats and then does is no failure
		alarms = append(alarms, newAlarm(s, "RetireFailures", "A former certificate still works, or waits to be deleted: the log of the function that retires certificates says why", 1,
			retire.Metric(jsii.String("AsyncEventsDropped"), sum)))
	}
	if props.AlarmEmail != "" {
		topic := awssns.NewTopic(s, jsii.String("Alarms"), &awssns.TopicProps{DisplayName: jsii.String("Alarms of " + props.Names.Stack)})
		awssns.NewSubscription(topic, &props.AlarmEmail, &awssns.SubscriptionProps{Topic: topic, Endpoint: &props.AlarmEmail, Protocol: awssns.SubscriptionProtocol_EMAIL})
		// The CDK's packages of subscriptions and of alarm actions need eight more, which take long to compile.
		notify := &[]*string{topic.TopicArn()}
		for _, alarm := range alarms {
			resource := alarm.Node().DefaultChild().(awscloudwatch.CfnAlarm)
			resource.SetAlarmActions(notify)
			resource.SetOkActions(notify)
		}
	}
	for _, q := range queries {
		// A logical id that changes would have a deployed stack make each a second time.
		awslogs.NewCfnQueryDefinition(constructs.NewConstruct(s, &q.id), jsii.String("Resource"), &awslogs.CfnQueryDefinitionProps{
			Name: jsii.String(props.Names.Stack + "/" + q.name), LogGroupNames: &[]any{h.log.LogGroupName()}, QueryString: &q.query,
		})
	}

	graph := func(title string, metrics ...awscloudwatch.IMetric) awscloudwatch.IWidget {
		return awscloudwatch.NewGraphWidget(&awscloudwatch.GraphWidgetProps{Title: &title, Left: &metrics, Width: jsii.Number(8)})
	}
	dashboard := awscloudwatch.NewDashboard(s, jsii.String("Dashboard"), nil)
	dashboard.AddWidgets(
		graph("Decisions in five minutes", admitted, attempted, failed),
		graph("Hook", h.function.MetricInvocations(sum), h.function.MetricErrors(sum), h.function.MetricThrottles(sum)),
		graph("Duration of the hook", h.function.MetricDuration(&awscloudwatch.MetricOptions{Period: sum.Period, Statistic: jsii.String("p99")})),
	)
	dashboard.AddWidgets(awscloudwatch.NewLogQueryWidget(&awscloudwatch.LogQueryWidgetProps{
		Title: jsii.String("Decisions by reason"), LogGroupNames: &[]*string{h.log.LogGroupName()}, QueryString: &queries[0].query,
		Width: jsii.Number(24),
	}))
}

func newAlarm(s awscdk.Stack, id, description string, threshold float64, metric awscloudwatch.IMetric) awscloudwatch.Alarm {
	return awscloudwatch.NewAlarm(s, &id, &awscloudwatch.AlarmProps{
		AlarmDescription:   &description,
		Metric:             metric,
		Threshold:          &threshold,
		ComparisonOperator: awscloudwatch.ComparisonOperator_GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
		EvaluationPeriods:  jsii.Number(1),
		TreatMissingData:   awscloudwatch.TreatMissingData_NOT_BREACHING, // no device was provisioned
	})
}

// iotSum adds up a metric of AWS IoT over all its dimensions: AWS does not say which of them each
// has, and an alarm on the wrong ones would stay silent. So it counts for all of the account and
// Region.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/metrics_dimensions.html
func iotSum(metric string, period awscdk.Duration) awscloudwatch.IMetric {
	return awscloudwatch.NewMathExpression(&awscloudwatch.MathExpressionProps{
		Expression: jsii.String(`SELECT SUM("` + metric + `") FROM "AWS/IoT"`),
		Label:      &metric,
		Period:     period,
	})
}

// newDecisionMetric counts the lines of the hook's log that the pattern matches.
func newDecisionMetric(s awscdk.Stack, props *Props, h lambda, name, pattern string, options *awscloudwatch.MetricOptions) awscloudwatch.IMetric {
	filter := awslogs.NewMetricFilter(s, &name, &awslogs.MetricFilterProps{
		LogGroup:        h.log,
		FilterPattern:   awslogs.FilterPattern_Literal(&pattern),
		MetricNamespace: jsii.String("Fleety/" + props.Names.Stack),
		MetricName:      &name,
		DefaultValue:    jsii.Number(0),
	})
	return filter.Metric(options)
}

// queries are saved in CloudWatch Logs Insights, by logical id.
var queries = []struct{ id, name, query string }{
	{"DecisionsByReason", "decisions by reason", "stats count(*) as decisions by verdict, reason | sort decisions desc"},
	{"DeniedDevices", "denied devices", `filter msg = "decision" and verdict != "admitted"
| fields @timestamp, serialNumber, reason, clientId, claimCertificateId, certificateId, heldBy, remedy, error
| sort @timestamp desc`},
	{"DecisionsByClaim", "decisions by claim certificate", `filter msg = "decision"
| stats count(*) as decisions, count_distinct(serialNumber) as serialNumbers by claimCertificateId, verdict | sort decisions desc`},
}
