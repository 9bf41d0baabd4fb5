// Command hook is the pre-provisioning hook: the Lambda function that AWS IoT Core invokes for
// every RegisterThing to ask whether the device is allowed. The rules are in package admit; here
// they are wired to Lambda and every decision is logged.
//
// It is configured by its environment:
//
//   - SERIAL_PREFIX replaces the prefix that serial numbers must begin with.
//   - THING_PREFIX replaces the prefix of the template's thing names.
//   - DEVICE_LOCATIONS is a JSON list of the template's locations. Without it the
//     template alone decides.
//   - EXISTING_THINGS: refuse (the default) denies a claim to a thing that has an
//     active certificate; allow does not.
//   - ROTATION: allow (the default) lets the certificate of a thing register that
//     thing again; deny does not.
//   - SERIAL_TABLE names the DynamoDB table in which each serial number that is
//     admitted is marked. Without it a serial number is admitted any number of times.
//   - SERIAL_REGISTRY: once (the default) admits each serial number once; listed
//     admits those alone that the table lists.
//   - AWS_ENDPOINT_URL_IOT, AWS_ENDPOINT_URL_DYNAMODB and, for both,
//     AWS_ENDPOINT_URL name what to ask in place of AWS.
//
// With EXISTING_THINGS=allow, no table and no explicit ROTATION it looks up nothing.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/pre-provisioning-hook.html
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"example.com/fleety/hook/admit"
	"example.com/fleety/hook/internal/awsenv"
	"example.com/fleety/hook/serials"
	"example.com/fleety/hook/things"
)

func main() {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	d, err := configured(os.Getenv, log)
	if err != nil {
		log.Error("the hook is not configured", "error", err)
		os.Exit(1) // Lambda reports it, and AWS IoT Core denies every device
	}
	lambda.StartHandlerFunc(d.decide)
}

// configured makes a decider of the environment.
func configured(getenv func(string) string, log *slog.Logger) (d decider, err error) {
	choice := func(name, normal, other string) (isOther bool) {
		value := cmp.Or(getenv(name), normal)
		if value != normal && value != other {
			err = fmt.Errorf("%s is %.100q, want %s or %s", name, value, normal, other)
		}
		return value == other
	}
	d = decider{log: log, now: time.Now, rules: admit.Rules{
		SerialPrefix: getenv("SERIAL_PREFIX"),
		ThingPrefix:  getenv("THING_PREFIX"),
		TakeExisting: choice("EXISTING_THINGS", "refuse", "allow"),
		NoRotation:   choice("ROTATION", "allow", "deny"),
		ListedOnly:   choice("SERIAL_REGISTRY", "once", "listed"),
	}}
	if locations := getenv("DEVICE_LOCATIONS"); locations != "" {
		if err := json.Unmarshal([]byte(locations), &d.rules.Locations); err != nil {
			return d, fmt.Errorf("DEVICE_LOCATIONS is %.100q, want a JSON list of strings: %w", locations, err)
		}
	}
	table := getenv("SERIAL_TABLE")
	if d.rules.ListedOnly && table == "" {
		err = errors.New("SERIAL_REGISTRY is listed, but SERIAL_TABLE names no table")
	}
	if table != "" {
		d.serials = serials.New(awsenv.Config(getenv, "DYNAMODB", attemptWithin), table)
	}
	if !d.rules.TakeExisting || table != "" || getenv("ROTATION") != "" { // also to deny rotation: who asks must be known
		d.things = things.New(awsenv.Config(getenv, "IOT", attemptWithin))
	}
	return d, err
}
