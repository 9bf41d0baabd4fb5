// Package things asks AWS IoT which certificates a thing has. It makes two
// calls, which the hook's role must allow: iot:ListThingPrincipals on the thing
// and iot:DescribeCertificate on its certificates.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_ListThingPrincipals.html
package things

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"example.com/fleety/hook/admit"
)

// A Registry is the thing registry of one account and Region. It is safe for
// concurrent use.
type Registry struct {
	client   *iot.Client
	region   string
	endpoint string
}

// New returns the registry that the configuration leads to. Its BaseEndpoint,
// when set, stands in for AWS.
func New(c aws.Config) *Registry {
	return &Registry{client: iot.NewFromConfig(c), region: c.Region, endpoint: aws.ToString(c.BaseEndpoint)}
}

// Certificates returns the certificates of a thing, none for a thing that does
// not exist. ctx bounds all calls and their retries together.
func (r *Registry) Certificates(ctx context.Context, thingName string) ([]admit.Certificate, error) {
	var found []admit.Certificate
	pages := iot.NewListThingPrincipalsPaginator(r.client, &iot.ListThingPrincipalsInput{ThingName: &thingName})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if isNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("listing the certificates of thing %s: %w", thingName, err)
		}
		for _, principal := range page.Principals {
			id, ok := certificateID(principal)
			if !ok {
				continue // an Amazon Cognito identity
			}
			active, err := r.isActive(ctx, id)
			if err != nil {
				return nil, fmt.Errorf("describing certificate %s of thing %s: %w", id, thingName, err)
			}
			found = append(found, admit.Certificate{ID: id, Active: active})
		}
	}
	return found, nil
}

// isActive is false for a certificate that was deleted meanwhile.
func (r *Registry) isActive(ctx context.Context, id string) (bool, error) {
	answer, err := r.client.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: &id})
	switch {
	case isNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	case answer.CertificateDescription == nil:
		return false, errors.New("the answer describes no certificate")
	}
	return answer.CertificateDescription.Status == types.CertificateStatusActive, nil
}

// Deactivation is the command by which an operator takes a certificate out of
// use.
func (r *Registry) Deactivation(certificateID string) string {
	command := "aws iot update-certificate --certificate-id " + certificateID + " --new-status INACTIVE --region " + r.region
	if r.endpoint != "" {
		command += " --endpoint-url " + r.endpoint
	}
	return command
}

// certificateID is what an ARN arn:PARTITION:iot:REGION:ACCOUNT:cert/ID ends
// with. ok is false for other principals.
func certificateID(arn string) (id string, ok bool) {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || parts[2] != "iot" {
		return "", false
	}
	return strings.CutPrefix(parts[5], "cert/")
}

func isNotFound(err error) bool {
	_, ok := errors.AsType[*types.ResourceNotFoundException](err)
	return ok
}
