// Command retire is the Lambda function that takes the former certificates of a
// thing out of use once its new one has proved itself. An AWS IoT rule invokes it
// for the birth messages, which a device publishes to fleet/THING when it connects,
// of devices that have rotated, with the certificate that published the message:
//
//	SELECT principal() AS certificateId, topic(2) AS thingName FROM 'fleet/+'
//	WHERE isUndefined(replaces) = false
//
// It is configured by its environment:
//
//   - CLAIM_CERTIFICATES are the ids of the claim certificates, separated by
//     commas, which are never touched.
//   - RETIRE_AFTER is for how long a certificate stays deactivated until it is
//     deleted, as Go writes durations. Without it none is deleted.
//   - AWS_ENDPOINT_URL_IOT or AWS_ENDPOINT_URL name what to ask in place of AWS.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/iot-sql-functions.html#iot-sql-function-principal
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"

	"example.com/fleety/hook/internal/awsenv"
	"example.com/fleety/hook/things"
)

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	r, err := configured(os.Getenv, log)
	if err != nil {
		log.Error("the function is not configured", "error", err)
		os.Exit(1)
	}
	lambda.StartHandlerFunc(func(ctx context.Context, b birth) (struct{}, error) { return struct{}{}, r.retire(ctx, b) })
}

func configured(getenv func(string) string, log *slog.Logger) (retirer, error) {
	grace, err := time.ParseDuration(cmp.Or(getenv("RETIRE_AFTER"), "0"))
	if err != nil || grace < 0 {
		return retirer{}, fmt.Errorf("RETIRE_AFTER is %.100q, want a duration as in 720h", getenv("RETIRE_AFTER"))
	}
	c := awsenv.Config(getenv, "IOT")
	// Lambda repeats a failed event minutes later. Until then AWS IoT's quotas are
	// the hook's.
	c.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	return retirer{
		client: iot.NewFromConfig(c),
		things: things.New(c),
		policy: policy{claims: strings.Split(getenv("CLAIM_CERTIFICATES"), ","), grace: grace},
		log:    log,
		now:    time.Now,
	}, nil
}
