// Command hook is the Lambda function that AWS IoT Core asks, for every
// RegisterThing, whether the device may come in. The rules are in package
// admit; here they are wired to Lambda and every decision is logged.
//
// The environment variable SERIAL_PREFIX replaces the prefix that serial
// numbers must begin with.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
package main

import (
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"example.com/fleety/hook/admit"
)

func main() {
	d := decider{
		rules: admit.Rules{SerialPrefix: os.Getenv("SERIAL_PREFIX")},
		log:   slog.New(slog.NewJSONHandler(os.Stderr, nil)),
	}
	lambda.StartHandlerFunc(d.decide)
}
