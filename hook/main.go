// Command hook is the Lambda function that AWS IoT Core asks, for every
// RegisterThing, whether the device may come in. The rules are in package
// admit; here they are wired to Lambda and every decision is logged.
//
// It is configured by its environment:
//
//   - SERIAL_PREFIX replaces the prefix that serial numbers must begin with.
//   - EXISTING_THINGS says what happens to a thing that has another active
//     certificate: refuse (the default) or allow, which asks AWS IoT nothing.
//   - SERIAL_TABLE names the DynamoDB table of the serial numbers that may come
//     in, each once. Without it there is no such list.
//   - AWS_ENDPOINT_URL_IOT, AWS_ENDPOINT_URL_DYNAMODB and, for both,
//     AWS_ENDPOINT_URL name what to ask in place of AWS.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
package main

import (
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	d, err := configured(os.Getenv, log)
	if err != nil {
		log.Error("the hook is not configured", "error", err)
		os.Exit(1) // Lambda reports it, and AWS IoT Core refuses every device
	}
	lambda.StartHandlerFunc(d.decide)
}
