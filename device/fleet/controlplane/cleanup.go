package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"example.com/fleety/device/fleet"
)

// clockSkew is how far the clocks of AWS and of the machine of a run may differ.
const clockSkew = 5 * time.Minute

// CleanupReport removes what the report's run made, also of devices that failed half-way: their
// certificates, and the things that have no other certificate then. A device is kept when what AWS
// IoT has of it does not fit the report: the serial number and name of its thing, the certificate's
// creation within the time of the run, and its policies. Devices that had their identity before are
// not touched. It can be repeated after an error.
func (r *Run) CleanupReport(ctx context.Context, report *fleet.Report) (Counts, error) {
	var targets []Target
	for _, d := range report.Devices {
		if d.CertificateID != "" && d.Outcome != fleet.Already {
			targets = append(targets, Target{d.SerialNumber, d.ThingName, d.CertificateID})
		}
	}
	return r.change(ctx, targets, func(ctx context.Context, d *Device) (err error) {
		things := []string{}
		if len(d.Certificates) == 1 && d.Kept == "" {
			if things, d.Kept, err = r.madeBy(ctx, report, d.Target, d.Certificates[0]); err != nil {
				return err
			}
		}
		return r.share(ctx, d, things)
	}, r.remove)
}

// madeBy returns the things that the report's run made with the certificate, or why the certificate
// is not that run's.
func (r *Run) madeBy(ctx context.Context, report *fleet.Report, t Target, c Certificate) (things []string, not string, err error) {
	from := report.Started.Add(-clockSkew)
	to := report.Started.Add(time.Duration(report.ElapsedSeconds*float64(time.Second)) + clockSkew)
	switch {
	case c.ID == report.ClaimCertificateID:
		return nil, "it is the claim certificate", nil
	case c.Created.Before(from) || c.Created.After(to):
		return nil, fmt.Sprintf("its certificate was created at %s, not during the run", c.Created.UTC().Format(time.RFC3339)), nil
	case len(c.Things) == 0 && len(c.Policies) > 0: // registration attaches both, an earlier cleanup detaches the thing last
		return nil, "its certificate has a policy, but no thing that shows that the run made it", nil
	}
	things = c.Things
	if len(things) == 0 && t.ThingName != "" {
		things = []string{t.ThingName} // an earlier cleanup may have detached it
	}
	for _, name := range things {
		thing, err := r.Client.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: &name})
		if isNotFound(err) {
			return nil, "", nil
		}
		if err == nil && thing.ThingName == nil {
			err = ErrIncomplete
		}
		if err != nil {
			return nil, "", err
		}
		if serial, ok := thing.Attributes["serialNumber"]; ok && serial != t.SerialNumber || !ok && !strings.Contains(name, t.SerialNumber) {
			return nil, fmt.Sprintf("thing %s is not that of serial number %s", name, t.SerialNumber), nil
		}
	}
	return things, "", nil
}

// CleanupType removes all things of a thing type, and their certificates. First it removes the
// certificates that the journal has of a run that was killed: their things, which the run had
// detached, do not lead to them any more.
func (r *Run) CleanupType(ctx context.Context, thingType string) (Counts, error) {
	total, err := r.change(ctx, r.Journal.begun(), func(_ context.Context, d *Device) error {
		for _, c := range d.Certificates {
			if c.Status == types.CertificateStatusActive && len(c.Things) == 0 {
				d.Kept = fmt.Sprintf("certificate %s, which had lost its thing, is active again", c.ID)
			}
		}
		return nil
	}, r.remove)
	targets, listErr := r.ThingsOfType(ctx, thingType)
	if listErr != nil {
		return total, cmp.Or(err, listErr)
	}
	counts, changeErr := r.change(ctx, targets, func(ctx context.Context, d *Device) error {
		return r.share(ctx, d, []string{d.ThingName})
	}, r.remove)
	total.add(counts)
	return total, cmp.Or(err, changeErr)
}

// ThingsOfType returns the things of a thing type: all of them, since the next page's token need
// not survive the removal of what the page before had.
func (r *Run) ThingsOfType(ctx context.Context, thingType string) ([]Target, error) {
	things, err := list(ctx, iot.NewListThingsPaginator(r.Client, &iot.ListThingsInput{ThingTypeName: &thingType, MaxResults: aws.Int32(pageSize)}),
		func(page *iot.ListThingsOutput) ([]types.ThingAttribute, *string) { return page.Things, page.NextToken })
	if err == nil && len(things) == 0 { // as of a type that does not exist, which would be a success
		_, err = r.Client.DescribeThingType(ctx, &iot.DescribeThingTypeInput{ThingTypeName: &thingType})
	}
	var names []string
	for _, thing := range things {
		names = append(names, aws.ToString(thing.ThingName))
	}
	return targets("type "+thingType, names, err)
}

// share divides a device's things into those that have no other certificates than the device's,
// which are to be removed, and those that are kept.
func (r *Run) share(ctx context.Context, d *Device, things []string) error {
	for _, thing := range things {
		principals, err := r.principals(ctx, thing)
		if err != nil {
			return err
		}
		to := &d.Things
		for _, arn := range principals {
			if !slices.ContainsFunc(d.Certificates, func(c Certificate) bool { return c.arn == arn }) {
				to = &d.Shared
			}
		}
		*to = append(*to, thing)
	}
	return nil
}

// remove removes a device's certificates and things in the order that AWS IoT requires: nothing may
// be attached to a certificate that is deleted, and it may not be active. The certificate goes
// last, so that a run that is repeated finds what is left: by the target or, where that names the
// thing alone, by the journal. What somebody else removes meanwhile is removed.
func (r *Run) remove(ctx context.Context, d Device, counts *Counts) error {
	for _, c := range d.Certificates {
		if d.CertificateID == "" && r.Journal != nil {
			begun := begunMark + Target{ThingName: d.ThingName, CertificateID: c.ID}.key()
			if err := errors.Join(r.Journal.add(begun), r.Journal.f.Sync()); err != nil { // on stable storage
				return fmt.Errorf("recording certificate %s: %w", c.ID, err)
			}
		}
		if c.Status == types.CertificateStatusActive || c.Status == types.CertificateStatusPendingActivation {
			if _, err := r.Client.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: &c.ID, NewStatus: types.CertificateStatusInactive}); err != nil && !isNotFound(err) {
				return fmt.Errorf("deactivating certificate %s: %w", c.ID, err)
			}
		}
		for _, policy := range c.Policies {
			if _, err := r.Client.DetachPolicy(ctx, &iot.DetachPolicyInput{PolicyName: &policy, Target: &c.arn}); err != nil && !isNotFound(err) {
				return fmt.Errorf("detaching policy %s: %w", policy, err)
			}
		}
		for _, thing := range c.Things {
			if _, err := r.Client.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{ThingName: &thing, Principal: &c.arn}); err != nil && !isNotFound(err) {
				return fmt.Errorf("detaching certificate %s: %w", c.ID, err)
			}
		}
	}
	now := Device{Certificates: d.Certificates} // other certificates may have been attached meanwhile
	if err := r.share(ctx, &now, d.Things); err != nil {
		return err
	}
	counts.Things, counts.Shared = len(now.Things), counts.Shared+len(now.Shared)
	for _, thing := range now.Things {
		if _, err := r.Client.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: &thing}, onceDetached); err != nil && !isNotFound(err) {
			return fmt.Errorf("deleting thing %s: %w", thing, err)
		}
	}
	for _, c := range d.Certificates {
		if _, err := r.Client.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: &c.ID}, onceDetached); err != nil && !isNotFound(err) {
			return fmt.Errorf("deleting certificate %s: %w", c.ID, err)
		}
	}
	return nil
}

// onceDetached repeats the deletion of what AWS IoT has not detached yet, which can take it seconds.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_DetachThingPrincipal.html
func onceDetached(o *iot.Options) {
	o.Retryer = retry.AddWithErrorCodes(retry.NewStandard(func(s *retry.StandardOptions) {
		s.MaxAttempts, s.BaseDelay, s.MaxBackoff = 10, 500*time.Millisecond, 4*time.Second
	}), "DeleteConflictException", "InvalidRequestException")
}
