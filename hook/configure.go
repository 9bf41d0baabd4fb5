package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/aws"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/serials"
	"example.com/fleety/hook/things"
)

// configured makes a decider of the environment.
func configured(getenv func(string) string, log *slog.Logger) (decider, error) {
	d := decider{rules: admit.Rules{SerialPrefix: getenv("SERIAL_PREFIX")}, log: log}
	switch existing := getenv("EXISTING_THINGS"); existing {
	case "", "refuse":
		d.things = things.New(awsConfig(getenv, "IOT"))
	case "allow":
	default:
		return d, fmt.Errorf("EXISTING_THINGS is %.100q, want refuse or allow", existing)
	}
	if table := getenv("SERIAL_TABLE"); table != "" {
		d.serials = serials.New(awsConfig(getenv, "DYNAMODB"), table)
	}
	return d, nil
}

// awsConfig is what Lambda tells a function about its account. The SDK's own
// loader also reads files and asks other services, which a function has not,
// and would double the size of the hook.
//
// AWS page: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
func awsConfig(getenv func(string) string, service string) aws.Config {
	c := aws.Config{
		Region: getenv("AWS_REGION"),
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
