// Package things looks up in AWS IoT which certificates a thing has, in which state each is, and
// which things a certificate belongs to. The hook's role must allow iot:ListThingPrincipals on the
// thing, iot:DescribeCertificate and iot:ListPrincipalThings.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_ListThingPrincipals.html
package things

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"golang.org/x/sync/errgroup"

	"example.com/fleety/hook/admit"
)

// rememberClaims is for how long a certificate that has no thing is not looked up again. The claims
// of a fleet are few and every device asks with one of them, while AWS IoT allows an account few
// look-ups per second. A certificate that can connect got its thing before, when it was activated.
const rememberClaims = time.Minute

// A Registry is the thing registry of one account and Region. It is safe for concurrent use.
type Registry struct {
	client *iot.Client

	mu     sync.Mutex
	claims map[string]time.Time // by ARN: when it was seen to have no thing
}

// New returns the registry that the configuration leads to. Its BaseEndpoint, when set, stands in
// for AWS.
func New(c aws.Config) *Registry {
	return &Registry{client: iot.NewFromConfig(c), claims: map[string]time.Time{}}
}

// CertificateARNs returns the certificates of a thing, none for a thing that does not exist.
func (r *Registry) CertificateARNs(ctx context.Context, thingName string) (found []string, err error) {
	pages := iot.NewListThingPrincipalsPaginator(r.client, &iot.ListThingPrincipalsInput{ThingName: &thingName})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("listing the certificates of thing %s: %w", thingName, err)
		}
		for _, principal := range page.Principals {
			if CertificateID(principal) != "" { // else an Amazon Cognito identity
				found = append(found, principal)
			}
		}
	}
	return found, nil
}

// Certificates returns the certificates of a thing with their states. ctx bounds all calls and
// their retries together.
func (r *Registry) Certificates(ctx context.Context, thingName string) ([]admit.Certificate, error) {
	arns, err := r.CertificateARNs(ctx, thingName)
	if err != nil || len(arns) == 0 {
		return nil, err
	}
	found := make([]admit.Certificate, len(arns))
	group, ctx := errgroup.WithContext(ctx)
	for i, arn := range arns {
		found[i].ID = CertificateID(arn)
		group.Go(func() (err error) {
			if found[i].Status, err = r.Status(ctx, found[i].ID); err != nil {
				return fmt.Errorf("thing %s: %w", thingName, err)
			}
			return nil
		})
	}
	return found, group.Wait()
}

// Describe returns the description of a certificate, a zero one for one that does not exist.
func (r *Registry) Describe(ctx context.Context, certificateID string) (d types.CertificateDescription, err error) {
	answer, err := r.client.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: &certificateID})
	switch {
	case IsNotFound(err):
		return d, nil
	case err == nil && (answer.CertificateDescription == nil || answer.CertificateDescription.Status == ""): // which is that of a deleted one
		err = errors.New("the answer describes no certificate")
	}
	if err != nil {
		return d, fmt.Errorf("describing certificate %s: %w", certificateID, err)
	}
	return *answer.CertificateDescription, nil
}

// Status returns the state of a certificate, [admit.Deleted] for one that does not exist.
func (r *Registry) Status(ctx context.Context, certificateID string) (admit.Status, error) {
	d, err := r.Describe(ctx, certificateID)
	return admit.Status(d.Status), err
}

// Things returns the things that a certificate is attached to, none for a claim. That a certificate
// has none is remembered for a minute.
func (r *Registry) Things(ctx context.Context, certificateARN string) ([]string, error) {
	r.mu.Lock()
	seen, known := r.claims[certificateARN]
	r.mu.Unlock()
	if known && time.Since(seen) < rememberClaims {
		return nil, nil
	}
	var found []string
	pages := iot.NewListPrincipalThingsPaginator(r.client, &iot.ListPrincipalThingsInput{Principal: &certificateARN})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if IsNotFound(err) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("listing the things of certificate %s: %w", certificateARN, err)
		}
		found = append(found, page.Things...)
	}
	if found == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.claims) >= 100 { // no fleet has as many claims
			clear(r.claims)
		}
		r.claims[certificateARN] = time.Now()
	}
	return found, nil
}

// Deactivation is the command by which an operator takes a certificate out of use.
func (r *Registry) Deactivation(certificateID string) string {
	o := r.client.Options()
	command := "aws iot update-certificate --certificate-id " + certificateID + " --new-status INACTIVE --region " + o.Region
	if o.BaseEndpoint != nil {
		command += " --endpoint-url " + *o.BaseEndpoint
	}
	return command
}

// CertificateID is what an ARN arn:PARTITION:iot:REGION:ACCOUNT:cert/ID ends with, empty for other
// principals.
func CertificateID(arn string) string {
	_, id, _ := strings.Cut(arn, ":cert/")
	return id
}

// IsNotFound reports whether AWS IoT does not have what a request named.
func IsNotFound(err error) bool {
	_, ok := errors.AsType[*types.ResourceNotFoundException](err)
	return ok
}
