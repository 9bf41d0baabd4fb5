package registry

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"example.com/fleety/device/awsiot"
	"example.com/fleety/device/localcore/template"
)

// A Provisioning is what RegisterThing is to bring about: a resolved template, and
// the certificate that it is about.
type Provisioning struct {
	Plan *template.Plan
	// Token is the ownership token; it names the certificate, and is used up.
	// Principal is the id of the claim certificate that presents it.
	Token, Principal string
	// CertificateID names the certificate where there is no token, as in
	// RegisterThing over HTTPS. NewCertificate registers one, unless it is
	// registered already. Without all three there is none.
	CertificateID  string
	NewCertificate *Certificate
}

// A Provisioned is the result of RegisterThing.
type Provisioned struct {
	Certificate Certificate // zero if the template names none
	Thing       *Thing      // as it is now, nil if the template names none
	Created     bool        // true for a new thing
}

// Provision does what RegisterThing does, whole or not at all: create or update the thing, attach
// policies to the certificate, attach the certificate to the thing, put the thing into its groups,
// set the certificate's status. Older certificates of the thing stay attached (open point U9). An
// ownership token is used up by success only.
func (r *Registry) Provision(p Provisioning) (Provisioned, error) {
	return mutate(r, func(tx *transaction) (out Provisioned, err error) {
		thing, certificate := p.Plan.Thing, p.Plan.Certificate
		var created bool
		switch {
		case p.NewCertificate != nil:
			out.Certificate, err = tx.createCertificate(*p.NewCertificate)
			created = err == nil
			if e, ok := errors.AsType[*Error](err); ok && e.Code == CodeAlreadyExists {
				out.Certificate, err = tx.certificates.find(out.Certificate.ID)
			}
		case p.CertificateID != "":
			out.Certificate, err = tx.certificates.find(p.CertificateID)
		case certificate != nil || p.Principal != "":
			if out.Certificate, err = tx.owned(p.Token, p.Principal, tx.now); err == nil {
				out.Certificate = tx.useToken(out.Certificate)
			}
		}
		if err == nil && thing != nil {
			out.Created, err = tx.provisionThing(thing)
		}
		for _, policy := range p.Plan.Policies {
			if err == nil && policy.Document != nil && !tx.policies.has(policy.Name) {
				_, err = tx.createPolicy(policy.Name, string(policy.Document))
			}
			switch {
			case err != nil:
			case certificate != nil:
				err = tx.attachPolicy(policy.Name, CertificateTarget(out.Certificate.ID))
			default:
				err = tx.policies.check(policy.Name)
			}
		}
		if err == nil && certificate != nil {
			existed := !created && out.Certificate.Status != PendingActivation
			out.Certificate, err = tx.provisionCertificate(out.Certificate, existed, p.Plan)
		}
		if err == nil && thing != nil {
			err = tx.provisionGroups(thing, out.Created)
			t, _ := tx.things.get(thing.Name)
			out.Thing = &t
		}
		return out, err
	})
}

// createMissing creates the type and the groups that a thing is to have.
func (tx *transaction) createMissing(p *template.Thing) (err error) {
	if p.Type != "" && !tx.types.has(p.Type) {
		_, err = tx.createThingType(ThingType{Name: p.Type})
	}
	create := func(kind *table[ThingGroup], name string) {
		if err == nil && name != "" && !kind.has(name) {
			_, err = tx.createGroup(kind, ThingGroup{Name: name})
		}
	}
	create(tx.billingGroups, p.BillingGroup)
	for _, name := range p.Groups {
		create(tx.groups, name)
	}
	return err
}

func (tx *transaction) provisionThing(p *template.Thing) (created bool, err error) {
	if tx.options.CreateMissing {
		if err := tx.createMissing(p); err != nil {
			return false, err
		}
	}
	old, exists := tx.things.get(p.Name)
	if !exists {
		_, err := tx.createThing(Thing{Name: p.Name, Type: p.Type, BillingGroup: p.BillingGroup, Attributes: p.Attributes})
		return true, err
	}
	t := old
	if t.Type, err = overridden(p.Override.ThingTypeName, "type of thing "+p.Name, old.Type, p.Type); err != nil {
		return false, err
	}
	switch o := p.Override.AttributePayload; {
	case p.Attributes == nil || o == template.DoNothing:
	case o == template.Merge:
		t.Attributes = (&AttributeUpdate{p.Attributes, true}).apply(old.Attributes)
	case o == template.Fail, o == template.Unset && len(old.Attributes) > 0 && !maps.Equal(old.Attributes, withValues(p.Attributes)):
		return false, Reject(CodeResourceConflicts, "The template does not allow replacing the attributes of thing %s, which exists.", p.Name)
	default:
		t.Attributes = withValues(p.Attributes)
	}
	t.BillingGroup = cmp.Or(p.BillingGroup, old.BillingGroup)
	if t.Type != old.Type {
		err = tx.checkUsableType(t.Type)
	}
	if t.Type != old.Type || !maps.Equal(t.Attributes, old.Attributes) {
		t.Version++
	}
	tx.things.put(p.Name, t)
	return false, cmp.Or(err, tx.billingGroups.checkOptional(t.BillingGroup), checkAttributes(t.Attributes, t.Type != ""))
}

// overridden returns what a value becomes. A template that is silent about the
// value leaves it alone.
func overridden(o template.Override, what, old, wanted string) (string, error) {
	switch {
	case wanted == "" || o == template.DoNothing:
		return old, nil
	case o == template.Fail, o == template.Unset && old != "" && old != wanted:
		return "", Reject(CodeResourceConflicts, "The template does not allow replacing the %s, which is %q.", what, awsiot.Clip(old))
	}
	return wanted, nil
}

func (tx *transaction) provisionCertificate(c Certificate, existed bool, plan *template.Plan) (Certificate, error) {
	if plan.Thing != nil {
		kind := NonExclusive
		if plan.Certificate.Exclusive {
			kind = Exclusive
		}
		if err := tx.attachPrincipal(plan.Thing.Name, c.ID, kind); err != nil {
			return c, err
		}
	}
	status := plan.Certificate.Status
	// A template that says nothing of replacing the status sets it, but brings no
	// revoked certificate back.
	if existed && (plan.Certificate.StatusOverride != template.Unset || c.Status == Revoked) {
		var err error
		if status, err = overridden(plan.Certificate.StatusOverride, "status of certificate "+c.ID, string(c.Status), status); err != nil {
			return c, err
		}
	}
	tx.setStatus(c, CertificateStatus(status))
	return tx.certificates.find(c.ID)
}

func (tx *transaction) provisionGroups(p *template.Thing, created bool) error {
	for _, group := range p.Groups {
		if err := tx.groups.check(group); err != nil {
			return err
		}
	}
	old := tx.thingGroups.rightsOf(p.Name)
	wanted := slices.Compact(slices.Sorted(slices.Values(p.Groups)))
	switch o := p.Override.ThingGroups; {
	case created:
	case o == template.DoNothing, p.Groups == nil:
		return nil
	case o == template.Fail, o == template.Unset && len(old) > 0 && !slices.Equal(old, wanted):
		return Reject(CodeResourceConflicts, "The template does not allow changing the groups of thing %s, which exists.", p.Name)
	case o == template.Replace:
		for _, group := range old {
			tx.thingGroups.remove(p.Name, group)
		}
	}
	for _, group := range wanted {
		if err := tx.addToGroup(p.Name, group); err != nil {
			return err
		}
	}
	return nil
}
