// Package controlplane works through the devices of a fleet in AWS IoT's control plane API: it
// removes what a run made or all devices of a thing type, and revokes certificates. It is apart
// from package fleet, so that only programs that need it link the AWS SDK.
//
// It never touches a claim certificate, nor a certificate that other things use,
// too. AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_Operations_AWS_IoT.html
package controlplane

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// DefaultRate is in devices per second. AWS grants 10 UpdateCertificate per second in every Region.
const DefaultRate = 8

const (
	atOnce      = 8   // devices in progress
	maxFailures = 100 // one after the other, after which a run stops
	pageSize    = 250 // things; AWS's most
)

// ErrIncomplete says that a response lacks what was requested, as one without a body, which may come
// from a proxy and which the AWS SDK takes for a success.
var ErrIncomplete = errors.New("the response lacks what was requested")

// A Run works through devices. Client is required. A Run is used once.
type Run struct {
	Client *iot.Client
	Apply  bool    // makes the changes; without it everything is only looked up
	Rate   float64 // the greatest number of devices per second; 0 means [DefaultRate]
	// Journal, if set, has the devices that an earlier run completed: they are skipped. Those of
	// this run are added if it makes changes.
	Journal *Journal
	// Found, if set, is called for each device before it is changed, and for each that fails, from one
	// goroutine at a time.
	Found func(Device)

	claims sync.Map   // policies, by name: whether a claim has it
	found  sync.Mutex // one call of Found
}

// A Target names a device to work on: by its thing, by its certificate, or both.
type Target struct{ SerialNumber, ThingName, CertificateID string }

func (t Target) key() string { return t.ThingName + " " + t.CertificateID }

func (t Target) String() string {
	return cmp.Or(t.SerialNumber, t.ThingName, "certificate "+t.CertificateID)
}

// A Device is what AWS IoT has of a target.
type Device struct {
	Target
	Certificates []Certificate
	Things       []string // to be removed
	Shared       []string // things that are kept, because they have other certificates
	Kept         string   // why the device is left alone; empty otherwise
	Err          error    // why it failed, perhaps half-way; nil otherwise
}

// A Certificate is a certificate in AWS IoT.
type Certificate struct {
	ID       string
	Status   types.CertificateStatus
	Created  time.Time
	Policies []string
	Things   []string // that it is attached to

	arn string
}

// Counts are the results of a run.
type Counts struct {
	Certificates int `json:"certificates"` // removed or revoked, or that would be
	Things       int `json:"things"`       // removed, or that would be
	Gone         int `json:"gone"`         // targets that no longer exist or are revoked already
	Shared       int `json:"shared"`       // things kept, because they have other certificates
	Kept         int `json:"kept"`         // devices left alone; see [Device.Kept]
	Failed       int `json:"failed"`       // devices with an error
	Resumed      int `json:"resumed"`      // devices that the journal has
}

func (c *Counts) add(d Counts) {
	c.Certificates += d.Certificates
	c.Things += d.Things
	c.Gone += d.Gone
	c.Shared += d.Shared
	c.Kept += d.Kept
	c.Failed += d.Failed
	c.Resumed += d.Resumed
}

// each works through the targets and, if completed is set, adds those that are done to the journal,
// unless they were kept. A device that fails does not keep the others from being worked on; the
// error has the first of their errors.
func (r *Run) each(ctx context.Context, targets []Target, completed bool, work func(context.Context, Target) (Counts, error)) (total Counts, err error) {
	limiter := rate.NewLimiter(rate.Limit(cmp.Or(r.Rate, DefaultRate)), 1)
	var mu sync.Mutex
	var first error // under mu, as total and row
	row := 0        // of failures
	group, open := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	begun := map[Target]bool{}
	for _, t := range targets {
		if err = context.Cause(open); err != nil {
			break
		}
		if begun[t] { // a list has it twice
			continue
		}
		begun[t] = true
		group.Go(func() error {
			if r.Journal.has(t.key()) {
				mu.Lock()
				defer mu.Unlock()
				total.Resumed++
				return nil
			}
			if err := limiter.Wait(open); err != nil {
				return err
			}
			done, err := work(ctx, t) // to its end, also when no more targets begin
			if err == nil && completed && done.Kept == 0 {
				err = r.Journal.add(t.key())
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				total.add(done)
				row = 0
				return nil
			}
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // nothing of it is changed
				return err
			}
			r.report(Device{Target: t, Err: err})
			total.Failed++
			first = cmp.Or(first, fmt.Errorf("%s: %w", t, err))
			if row++; row >= maxFailures {
				return first
			}
			return nil
		})
	}
	failed := group.Wait()
	return total, cmp.Or(failed, first, err)
}

// change looks each target up, has plan reduce what was found to what is to be changed, and applies
// that. A device of which nothing is left is gone.
func (r *Run) change(ctx context.Context, targets []Target, plan func(context.Context, *Device) error, apply func(context.Context, Device, *Counts) error) (Counts, error) {
	return r.each(ctx, targets, r.Apply, func(ctx context.Context, t Target) (Counts, error) {
		d, err := r.device(ctx, t)
		if err == nil {
			err = plan(ctx, &d)
		}
		counts := Counts{Certificates: len(d.Certificates), Things: len(d.Things), Shared: len(d.Shared)}
		switch {
		case err != nil:
			return Counts{}, err
		case d.Kept == "" && counts == Counts{}:
			return Counts{Gone: 1}, nil
		}
		r.report(d)
		switch {
		case d.Kept != "":
			return Counts{Kept: 1}, nil
		case r.Apply:
			err = apply(context.WithoutCancel(ctx), d, &counts) // of half a device a repeated run may not find the rest
		}
		return counts, err
	})
}

func (r *Run) report(d Device) {
	if r.Found != nil {
		r.found.Lock()
		defer r.found.Unlock()
		r.Found(d)
	}
}

// certificate looks a certificate up by its id.
func (r *Run) certificate(ctx context.Context, id string) (c Certificate, err error) {
	described, err := r.Client.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: &id})
	if err == nil && described.CertificateDescription == nil {
		err = ErrIncomplete
	}
	if err != nil {
		return c, err
	}
	d := described.CertificateDescription
	c = Certificate{ID: id, Status: d.Status, Created: aws.ToTime(d.CreationDate), arn: aws.ToString(d.CertificateArn)}
	policies, err := list(ctx, iot.NewListAttachedPoliciesPaginator(r.Client, &iot.ListAttachedPoliciesInput{Target: &c.arn}),
		func(page *iot.ListAttachedPoliciesOutput) ([]types.Policy, *string) {
			return page.Policies, page.NextMarker
		})
	if err != nil {
		return c, err
	}
	for _, p := range policies {
		c.Policies = append(c.Policies, aws.ToString(p.PolicyName))
	}
	c.Things, err = list(ctx, iot.NewListPrincipalThingsPaginator(r.Client, &iot.ListPrincipalThingsInput{Principal: &c.arn}),
		func(page *iot.ListPrincipalThingsOutput) ([]string, *string) { return page.Things, page.NextToken })
	return c, err
}

// list returns what all pages of a paginator of the AWS SDK have; of returns that of one page, and the
// token of the next one. AWS IoT writes a list that is empty, too: without one a claim would be taken
// for a certificate that has no policy. The AWS SDK would end at a token that is repeated, or never.
func list[P, T any](ctx context.Context, pages interface {
	HasMorePages() bool
	NextPage(context.Context, ...func(*iot.Options)) (P, error)
}, of func(P) ([]T, *string)) (all []T, err error) {
	seen := map[string]bool{}
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return all, err
		}
		items, next := of(page)
		if items == nil {
			return all, ErrIncomplete
		}
		all = append(all, items...)
		token := aws.ToString(next)
		if seen[token] {
			return all, fmt.Errorf("%w: the token of its next page is that of an earlier one", ErrIncomplete)
		}
		seen[token] = token != "" // which is that of no page
	}
	return all, nil
}

// targets returns the things that were listed.
func targets(of string, things []string, err error) (list []Target, _ error) {
	if err != nil {
		return nil, fmt.Errorf("listing the things of %s: %w", of, err)
	}
	for _, name := range things {
		list = append(list, Target{ThingName: name})
	}
	return list, nil
}

// principals returns the ARNs of what is attached to a thing; none when there is no such thing.
func (r *Run) principals(ctx context.Context, thing string) ([]string, error) {
	arns, err := list(ctx, iot.NewListThingPrincipalsPaginator(r.Client, &iot.ListThingPrincipalsInput{ThingName: &thing}),
		func(page *iot.ListThingPrincipalsOutput) ([]string, *string) { return page.Principals, page.NextToken })
	if isNotFound(err) {
		return nil, nil
	}
	return arns, err
}

// claimPolicy returns the first of the certificate's policies with which it is a claim: one that
// allows provisioning, and not as a thing of its own, as a policy to rotate certificates does.
func (r *Run) claimPolicy(ctx context.Context, c Certificate) (string, error) {
	for _, name := range c.Policies {
		claim, known := r.claims.Load(name)
		if !known {
			policy, err := r.Client.GetPolicy(ctx, &iot.GetPolicyInput{PolicyName: &name})
			if err == nil && policy.PolicyDocument == nil {
				err = ErrIncomplete
			}
			if err != nil {
				return "", err
			}
			var document any // in which nothing is escaped
			if err := json.Unmarshal([]byte(aws.ToString(policy.PolicyDocument)), &document); err != nil {
				return "", fmt.Errorf("reading policy %s: %w", name, err)
			}
			text := fmt.Sprint(document)
			claim = (strings.Contains(text, "$aws/provisioning-templates/") || strings.Contains(text, "$aws/certificates/")) &&
				!strings.Contains(text, "iot:Connection.Thing.")
			r.claims.Store(name, claim)
		}
		if claim.(bool) {
			return name, nil
		}
	}
	return "", nil
}

// device looks a target up by its thing, or by its certificate if it names one. A device is kept
// that has a claim certificate, a certificate that other things use, too, or a principal that is no
// certificate. Nothing is found when neither thing nor certificate exists.
func (r *Run) device(ctx context.Context, t Target) (d Device, err error) {
	d = Device{Target: t}
	ids := []string{t.CertificateID}
	if t.CertificateID == "" {
		arns, err := r.principals(ctx, t.ThingName)
		if err != nil {
			return d, err
		}
		ids = nil
		for _, arn := range arns {
			_, id, ok := strings.Cut(arn, ":cert/")
			if !ok {
				d.Kept = "its principal " + arn + " is not a certificate"
				continue
			}
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		c, err := r.certificate(ctx, id)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return d, err
		}
		d.Certificates = append(d.Certificates, c)
		policy, err := r.claimPolicy(ctx, c)
		if err != nil {
			return d, err
		}
		others := slices.DeleteFunc(slices.Clone(c.Things), func(thing string) bool { return thing == t.ThingName })
		switch {
		case policy != "":
			d.Kept = fmt.Sprintf("certificate %s is a claim certificate: policy %s allows provisioning", id, policy)
		case len(others) > 0 && t.ThingName != "" || len(others) > 1:
			d.Kept = fmt.Sprintf("certificate %s is attached to %s, too", id, strings.Join(others, ", "))
		}
	}
	return d, nil
}

func isNotFound(err error) bool {
	e, ok := errors.AsType[smithy.APIError](err) // the model has an exception for some operations only
	return ok && e.ErrorCode() == "ResourceNotFoundException"
}

// A Journal is a file of the devices that a run has completed, one per line, from which a repeated
// run resumes. A nil one has none. It is safe for concurrent use.
type Journal struct {
	f    *os.File
	done map[string]bool // the entries of earlier runs
}

// Marks begin the entries that are no devices. No thing name has them.
const (
	jobMark   = "#job "
	begunMark = "#begun " // a thing and a certificate, of which the removal has begun
)

// OpenJournal opens or creates the journal of an operation, named by any text of one line.
func OpenJournal(path, operation string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	j := &Journal{f: f, done: map[string]bool{}}
	header := "# iot_fleet " + operation
	lines := bufio.NewScanner(f)
	info, err := f.Stat()
	switch {
	case err == nil && !info.Mode().IsRegular(): // of a FIFO a read waits for ever, /dev/null records nothing
		err = errors.New("a journal is a regular file")
	case !lines.Scan():
		_, err = f.WriteString(header)
	case lines.Text() == "" || strings.ReplaceAll(lines.Text(), header, "") != "": // two runs that begin at once both write it
		err = fmt.Errorf("the file is not a journal of this operation: it begins with %q, want %q", lines.Text(), header)
	}
	for err == nil && lines.Scan() {
		// Of a line that was cut off, as by a full disk, the device is done once more.
		if entry, whole := strings.CutSuffix(lines.Text(), "."); whole {
			j.done[entry] = true
		}
	}
	if err = errors.Join(err, lines.Err()); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

func (j *Journal) has(device string) bool { return j != nil && j.done[device] }

// marked returns the entries of earlier runs with a mark, without it.
func (j *Journal) marked(mark string) (list []string) {
	if j != nil {
		for _, entry := range slices.Sorted(maps.Keys(j.done)) {
			if rest, ok := strings.CutPrefix(entry, mark); ok {
				list = append(list, rest)
			}
		}
	}
	return list
}

// begun returns the targets of which the removal has begun in earlier runs, and has not ended.
func (j *Journal) begun() (targets []Target) {
	for _, key := range j.marked(begunMark) {
		thing, id, _ := strings.Cut(key, " ")
		if !j.has(key) && !j.has(Target{ThingName: thing}.key()) {
			targets = append(targets, Target{ThingName: thing, CertificateID: id})
		}
	}
	return targets
}

// add adds devices: all or none, if the process ends. Each begins its line, which one that was cut
// off has not ended.
func (j *Journal) add(devices ...string) error {
	if j == nil {
		return nil
	}
	_, err := j.f.WriteString("\n" + strings.Join(devices, ".\n") + ".")
	return err
}

// Close makes the journal durable and closes it.
func (j *Journal) Close() error { return errors.Join(j.f.Sync(), j.f.Close()) }
