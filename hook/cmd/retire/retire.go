package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"golang.org/x/sync/errgroup"
)

// A birth is what the AWS IoT rule passes on.
type birth struct {
	// CertificateID is the principal of the message: for a device, the SHA-256 of
	// its certificate, which is the certificate's id.
	CertificateID string `json:"certificateId"`
	ThingName     string `json:"thingName"`
}

// A retirer retires certificates in one account and Region.
type retirer struct {
	client *iot.Client
	policy policy
	log    *slog.Logger
	now    func() time.Time
}

var certificateID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// retire takes the former certificates of the thing out of use. It can be
// repeated. An error makes Lambda try again; each certificate is independent of
// the others.
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

// certificates returns those of a thing. One without other certificates needs no
// further look-ups, and gets none.
func (r retirer) certificates(ctx context.Context, thing string) ([]certificate, error) {
	var all []certificate
	pages := iot.NewListThingPrincipalsPaginator(r.client, &iot.ListThingPrincipalsInput{ThingName: &thing})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if isNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("listing certificates: %w", err)
		}
		for _, arn := range page.Principals {
			if _, id, ok := strings.Cut(arn, ":cert/"); ok {
				all = append(all, certificate{id: id, arn: arn})
			}
		}
	}
	if len(all) < 2 {
		return nil, nil
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range all {
		c := &all[i]
		group.Go(func() error {
			answer, err := r.client.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: &c.id})
			if isNotFound(err) {
				return nil // no status: neither proved nor retired
			}
			if err == nil && answer.CertificateDescription == nil {
				err = errors.New("the answer describes no certificate")
			}
			if err != nil {
				return fmt.Errorf("describing certificate %s: %w", c.id, err)
			}
			d := answer.CertificateDescription
			c.status, c.created, c.modified = d.Status, aws.ToTime(d.CreationDate), aws.ToTime(d.LastModifiedDate)
			return nil
		})
		group.Go(func() error {
			answer, err := r.client.ListPrincipalThings(ctx, &iot.ListPrincipalThingsInput{Principal: &c.arn, MaxResults: aws.Int32(2)})
			if isNotFound(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("listing the things of certificate %s: %w", c.id, err)
			}
			c.things = len(answer.Things)
			return nil
		})
	}
	return all, group.Wait()
}

func (r retirer) do(ctx context.Context, a action, thing string, c certificate) error {
	if a == deactivate {
		_, err := r.client.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: &c.id, NewStatus: types.CertificateStatusInactive})
		return err
	}
	if _, err := r.client.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{ThingName: &thing, Principal: &c.arn}); err != nil && !isNotFound(err) {
		return err
	}
	if _, err := r.client.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: &c.id, ForceDelete: true}); err != nil && !isNotFound(err) {
		return err
	}
	return nil
}

func isNotFound(err error) bool {
	_, ok := errors.AsType[*types.ResourceNotFoundException](err)
	return ok
}
