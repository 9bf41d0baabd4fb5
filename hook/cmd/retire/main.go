// Command retire is the Lambda function that takes the former certificates of a thing out of use
// once its new one has proved itself. An AWS IoT rule invokes it for the birth messages, which a
// device publishes to fleet/THING when it connects, of devices that have rotated, with the
// certificate that published the message:
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
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

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
	c := awsenv.Config(getenv, "IOT", 20*time.Second)
	// Lambda repeats a failed event minutes later. Until then AWS IoT's quotas are the hook's.
	c.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	return retirer{
		client: iot.NewFromConfig(c),
		things: things.New(c),
		policy: policy{claims: strings.Split(getenv("CLAIM_CERTIFICATES"), ","), grace: grace},
		log:    log,
		now:    time.Now,
	}, nil
}

// A birth is what the AWS IoT rule passes on.
type birth struct {
	// CertificateID is the principal of the message: for a device, the SHA-256 of its certificate,
	// which is the certificate's id.
	CertificateID string `json:"certificateId"`
	ThingName     string `json:"thingName"`
}

// A retirer retires certificates in one account and Region.
type retirer struct {
	client *iot.Client
	things *things.Registry
	policy policy
	log    *slog.Logger
	now    func() time.Time
}

var certificateID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// retire takes the former certificates of the thing out of use. It can be repeated. An error makes
// Lambda try again; each certificate is independent of the others.
func (r retirer) retire(ctx context.Context, b birth) error {
	if !certificateID.MatchString(b.CertificateID) { // published with AWS credentials
		r.log.Info("ignored", "reason", "not published with a certificate", "thingName", b.ThingName)
		return nil
	}
	all, err := r.certificates(ctx, b.ThingName)
	if err != nil {
		return fmt.Errorf("thing %s: %w", b.ThingName, err)
	}
	var failed []error
	for i, action := range r.policy.actions(b.CertificateID, all, r.now()) {
		if action == keep {
			continue
		}
		err := r.do(ctx, action, b.ThingName, all[i])
		if err != nil {
			failed = append(failed, fmt.Errorf("thing %s: %s certificate %s: %w", b.ThingName, action, all[i].id, err))
		}
		r.log.Info("retired", "action", string(action), "thingName", b.ThingName, "certificateId", all[i].id,
			"provedCertificateId", b.CertificateID, "failed", err != nil)
	}
	return errors.Join(failed...)
}

// certificates returns those of a thing. One without other certificates needs no further look-ups,
// and gets none. One that rotates each day has many; AWS IoT allows an account ten
// DescribeCertificate per second.
func (r retirer) certificates(ctx context.Context, thing string) ([]certificate, error) {
	arns, err := r.things.CertificateARNs(ctx, thing)
	if err != nil || len(arns) < 2 {
		return nil, err
	}
	all := make([]certificate, len(arns))
	for i, arn := range arns {
		if i >= 4 {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done(): // the next request reports it
			}
		}
		c := &all[i]
		c.id, c.arn = things.CertificateID(arn), arn
		d, err := r.things.Describe(ctx, c.id)
		if err == nil && d.Status != "" && (d.CreationDate == nil || d.LastModifiedDate == nil) { // by which certificates are retired
			err = fmt.Errorf("the description of certificate %s lacks its dates", c.id)
		}
		of, ofErr := r.things.Things(ctx, arn)
		if err = cmp.Or(err, ofErr); err != nil {
			return nil, err
		}
		c.status, c.created, c.modified, c.things = d.Status, aws.ToTime(d.CreationDate), aws.ToTime(d.LastModifiedDate), len(of)
	}
	return all, nil
}

func (r retirer) do(ctx context.Context, a action, thing string, c certificate) error {
	if a == deactivate {
		_, err := r.client.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: &c.id, NewStatus: types.CertificateStatusInactive})
		return err
	}
	_, err := r.client.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{ThingName: &thing, Principal: &c.arn})
	if err == nil || things.IsNotFound(err) {
		// AWS IoT takes seconds to detach it, and then no later event would find it.
		_, err = r.client.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: &c.id, ForceDelete: true}, func(o *iot.Options) {
			o.Retryer = retry.AddWithErrorCodes(retry.NewStandard(func(s *retry.StandardOptions) {
				s.MaxAttempts, s.BaseDelay, s.MaxBackoff = 10, 500*time.Millisecond, 4*time.Second
			}), "DeleteConflictException")
		})
	}
	if things.IsNotFound(err) {
		return nil
	}
	return err
}

// A certificate is one that a thing has.
type certificate struct {
	id, arn  string
	status   types.CertificateStatus
	created  time.Time
	modified time.Time // when its status changed last
	things   int       // how many things have it
}

// A policy says which certificates are retired. It is pure.
type policy struct {
	claims []string      // ids, never retired
	grace  time.Duration // from deactivation to deletion; 0: never
}

// An action is what is done to one certificate.
type action string

const (
	keep       action = ""
	deactivate action = "deactivate"
	remove     action = "delete"
)

// actions decides for each certificate of a thing, in their order, after one of them was proved to
// work: it published a message.
//
// Only certificates that are older than the proved one are retired. A message of the old
// certificate, delivered late or twice, or sent by a device that was interrupted before it took its
// new one into use, therefore retires nothing that came after it. Revoked certificates stay: they
// keep a claim from the thing.
func (p policy) actions(proved string, all []certificate, now time.Time) []action {
	actions := make([]action, len(all))
	i := slices.IndexFunc(all, func(c certificate) bool { return c.id == proved })
	if i < 0 || all[i].status != types.CertificateStatusActive || slices.Contains(p.claims, proved) {
		return actions
	}
	for j, c := range all {
		if !c.created.Before(all[i].created) || c.things != 1 || slices.Contains(p.claims, c.id) {
			continue
		}
		switch c.status {
		case types.CertificateStatusActive:
			actions[j] = deactivate
		case types.CertificateStatusInactive:
			if p.grace > 0 && now.Sub(c.modified) >= p.grace {
				actions[j] = remove
			}
		}
	}
	return actions
}
