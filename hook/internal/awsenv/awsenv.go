// Package awsenv configures the AWS SDK from what Lambda passes to a function about its account.
// The SDK's own loader also reads files and asks other services, which a function has not, and
// would double the size of the binary.
//
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
package awsenv

import (
	"cmp"
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// Config is the configuration for a service, such as IOT. AWS_ENDPOINT_URL_SERVICE and
// AWS_ENDPOINT_URL name what to ask in place of AWS. attempt bounds each attempt of a request, so
// that a connection that went silent while Lambda had the function frozen leaves time for another.
func Config(getenv func(string) string, service string, attempt time.Duration) aws.Config {
	c := aws.Config{
		Region:     getenv("AWS_REGION"),
		HTTPClient: awshttp.NewBuildableClient().WithTimeout(attempt),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{
				AccessKeyID:     getenv("AWS_ACCESS_KEY_ID"),
				SecretAccessKey: getenv("AWS_SECRET_ACCESS_KEY"),
				SessionToken:    getenv("AWS_SESSION_TOKEN"),
			}, nil
		}),
	}
	if endpoint := cmp.Or(getenv("AWS_ENDPOINT_URL_"+service), getenv("AWS_ENDPOINT_URL")); endpoint != "" {
		c.BaseEndpoint = &endpoint
	}
	return c
}
