package stack

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsdynamodb"
	"github.com/aws/jsii-runtime-go"

	"example.com/fleety/hook/payload"
)

// newSerialTable is the list of serial numbers that may come in. It outlives the
// stack: it holds what an operator has loaded and which numbers are used up.
func newSerialTable(s awscdk.Stack) awsdynamodb.Table {
	return awsdynamodb.NewTable(s, jsii.String("Serials"), &awsdynamodb.TableProps{
		PartitionKey:  &awsdynamodb.Attribute{Name: jsii.String(payload.SerialNumber), Type: awsdynamodb.AttributeType_STRING},
		BillingMode:   awsdynamodb.BillingMode_PAY_PER_REQUEST,
		RemovalPolicy: awscdk.RemovalPolicy_RETAIN_ON_UPDATE_OR_DELETE,
	})
}
