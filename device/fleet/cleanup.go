package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"golang.org/x/sync/errgroup"
)

// cleaners is how many devices are removed at a time: enough for AWS's ten
// UpdateCertificate a second.
const cleaners = 8

// A Cleanup removes from AWS IoT what a launch has made: the certificates that
// its report names, and the things that are left without any certificate then.
// Client is required.
type Cleanup struct {
	Client *iot.Client
	// Delete removes; without it everything is looked up and nothing changed.
	Delete bool
	// Found, if set, is told of each device that there is something of, before
	// it is removed. It is called from several goroutines, one at a time.
	Found func(Remains)
}

// Remains are what is left of a device in AWS IoT.
type Remains struct {
	SerialNumber  string
	CertificateID string
	Policies      []string
	Things        []string // that the certificate is attached to
	// Shared are those of Things that have other certificates, too: they stay.
	Shared []string
}

// Cleaned counts what was removed, or would be.
type Cleaned struct {
	Certificates int `json:"certificates"`
	Things       int `json:"things"`
	Gone         int `json:"gone"`   // certificates that were not there any more
	Shared       int `json:"shared"` // things that stay, for they have other certificates
}

// Run removes what the report says that its run has made, also of devices that
// failed half-way. Devices that had their identity before are left alone. It
// can be repeated after an error.
func (c *Cleanup) Run(ctx context.Context, r *Report) (Cleaned, error) {
	var certificates, things, gone, shared atomic.Int64
	var telling sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cleaners)
	for _, d := range r.Devices {
		if d.CertificateID == "" || d.Outcome == Already {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			found, err := c.find(ctx, d)
			if isNotFound(err) {
				gone.Add(1)
				return nil
			}
			if err == nil && c.Found != nil {
				telling.Lock()
				c.Found(found.Remains)
				telling.Unlock()
			}
			if err == nil && c.Delete {
				err = c.remove(ctx, found)
			}
			if err != nil {
				return fmt.Errorf("cleaning up after %s: %w", d.SerialNumber, err)
			}
			certificates.Add(1)
			things.Add(int64(len(found.Things) - len(found.Shared)))
			shared.Add(int64(len(found.Shared)))
			return nil
		})
	}
	err := group.Wait()
	return Cleaned{int(certificates.Load()), int(things.Load()), int(gone.Load()), int(shared.Load())}, err
}

// remains are Remains with what it takes to remove them.
type remains struct {
	Remains
	arn string
}

func (c *Cleanup) find(ctx context.Context, d Device) (*remains, error) {
	described, err := c.Client.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: &d.CertificateID})
	if err != nil {
		return nil, err
	}
	found := &remains{Remains{SerialNumber: d.SerialNumber, CertificateID: d.CertificateID}, aws.ToString(described.CertificateDescription.CertificateArn)}
	policies := iot.NewListAttachedPoliciesPaginator(c.Client, &iot.ListAttachedPoliciesInput{Target: &found.arn})
	for policies.HasMorePages() {
		page, err := policies.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range page.Policies {
			found.Policies = append(found.Policies, aws.ToString(p.PolicyName))
		}
	}
	things := iot.NewListPrincipalThingsPaginator(c.Client, &iot.ListPrincipalThingsInput{Principal: &found.arn})
	for things.HasMorePages() {
		page, err := things.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		found.Things = append(found.Things, page.Things...)
	}
	for _, thing := range found.Things {
		principals, err := c.Client.ListThingPrincipals(ctx, &iot.ListThingPrincipalsInput{ThingName: &thing})
		if err != nil {
			return nil, err
		}
		if len(principals.Principals) > 1 {
			found.Shared = append(found.Shared, thing)
		}
	}
	return found, nil
}

// remove goes in the order that AWS IoT demands: nothing may be attached to a
// certificate that is deleted, and it may not be active.
func (c *Cleanup) remove(ctx context.Context, found *remains) error {
	for _, thing := range found.Things {
		if _, err := c.Client.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{ThingName: &thing, Principal: &found.arn}); err != nil {
			return err
		}
	}
	for _, policy := range found.Policies {
		if _, err := c.Client.DetachPolicy(ctx, &iot.DetachPolicyInput{PolicyName: &policy, Target: &found.arn}); err != nil {
			return err
		}
	}
	if _, err := c.Client.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: &found.CertificateID, NewStatus: types.CertificateStatusInactive}); err != nil {
		return err
	}
	if _, err := c.Client.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: &found.CertificateID}); err != nil {
		return err
	}
	return c.removeThings(ctx, found)
}

// removeThings looks again whether a thing has other certificates: one may have
// come meanwhile.
func (c *Cleanup) removeThings(ctx context.Context, found *remains) error {
	found.Shared = nil
	for _, thing := range found.Things {
		principals, err := c.Client.ListThingPrincipals(ctx, &iot.ListThingPrincipalsInput{ThingName: &thing})
		if err != nil {
			return err
		}
		if len(principals.Principals) > 0 {
			found.Shared = append(found.Shared, thing)
			continue
		}
		if _, err := c.Client.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: &thing}); err != nil {
			return err
		}
	}
	return nil
}

func isNotFound(err error) bool {
	_, ok := errors.AsType[*types.ResourceNotFoundException](err)
	return ok
}
