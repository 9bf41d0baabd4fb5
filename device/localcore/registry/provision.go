package registry

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"example.com/fleety/device/awsiot"
)

// An Override says what becomes of a part of a resource that exists already.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/provision-template.html
type Override string

// The override settings of AWS IoT. Fail rejects a resource that exists already. Unset
// is for a template that says nothing: then only a value that is there and
// differs is rejected (open point U5).
const (
	Unset     Override = ""
	DoNothing Override = "DO_NOTHING"
	Replace   Override = "REPLACE"
	Fail      Override = "FAIL"
	Merge     Override = "MERGE" // attributes and groups only
)

// String returns AWS's name of the setting.
func (o Override) String() string { return string(o) }

// A Provisioning is a resolved provisioning template: what RegisterThing is to
// bring about.
type Provisioning struct {
	// Token is the ownership token; it names the certificate, and is used up.
	// Principal is the id of the claim certificate that presents it.
	Token, Principal string
	// CertificateID names the certificate where there is no token, as in
	// RegisterThing over HTTPS. NewCertificate registers one, unless it is
	// registered already. Without all three there is none.
	CertificateID  string
	NewCertificate *NewCertificate

	Thing       *ProvisionedThing
	Certificate *ProvisionedCertificate
	Policies    []ProvisionedPolicy
}

// A ProvisionedThing is the thing to create or update. Its type and groups
// must exist.
type ProvisionedThing struct {
	Name, Type, BillingGroup string
	Groups                   []string
	Attributes               map[string]string

	OverrideType, OverrideGroups, OverrideAttributes Override
}

// A ProvisionedCertificate says what becomes of the certificate.
type ProvisionedCertificate struct {
	// Status is Active where it is empty; Inactive is the other choice.
	Status CertificateStatus
	// Type is NonExclusive where it is empty.
	Type PrincipalType
	// OverrideStatus counts only if the certificate is no longer pending.
	OverrideStatus Override
}

// A ProvisionedPolicy is a policy to attach to the certificate. Without a
// document it must exist; with one it is made where it does not.
type ProvisionedPolicy struct {
	Name, Document string
}

// A Provisioned is the result of RegisterThing.
type Provisioned struct {
	// Certificate is zero if the template names none.
	Certificate Certificate
	// Thing is the thing as it is now, nil if the template names none.
	Thing *Thing
	// Created is true for a new thing.
	Created bool
}

// Provision does what RegisterThing does, whole or not at all: create or
// update the thing, attach policies to the certificate, attach the certificate
// to the thing, put the thing into its groups, set the certificate's status.
// Older certificates of the thing stay attached (open point U9). An ownership
// token is used up by success only.
func (r *Registry) Provision(p Provisioning) (Provisioned, error) {
	return mutate(r, func(tx *transaction) (out Provisioned, err error) {
		var existed bool
		if out.Certificate, existed, err = tx.provisionedCertificate(p); err != nil {
			return out, err
		}
		if p.Thing != nil && tx.options.CreateMissing {
			if err := tx.createMissing(p.Thing); err != nil {
				return out, err
			}
		}
		if p.Thing != nil {
			if out.Created, err = tx.provisionThing(p.Thing); err != nil {
				return out, err
			}
		}
		for _, policy := range p.Policies {
			if policy.Document != "" && !tx.policies.has(policy.Name) {
				_, err = tx.createPolicy(policy.Name, policy.Document)
			}
			switch {
			case err != nil:
			case p.Certificate != nil:
				err = tx.attachPolicy(policy.Name, CertificateTarget(out.Certificate.ID))
			default:
				err = tx.policies.check(policy.Name)
			}
			if err != nil {
				return out, err
			}
		}
		if p.Certificate != nil {
			if out.Certificate, err = tx.provisionCertificate(out.Certificate, existed, p); err != nil {
				return out, err
			}
		}
		if p.Thing != nil {
			err = tx.provisionGroups(p.Thing, out.Created)
			t, _ := tx.things.get(p.Thing.Name)
			t = t.clone()
			out.Thing = &t
		}
		return out, err
	})
}

// createMissing creates the type and the groups that a thing is to have.
func (tx *transaction) createMissing(p *ProvisionedThing) error {
	if p.Type != "" && !tx.types.has(p.Type) {
		if err := checkName("thing type", p.Type); err != nil {
			return err
		}
		tx.types.put(p.Type, ThingType{Name: p.Type, ID: awsiot.NewUUID(), Created: tx.now})
	}
	if p.BillingGroup != "" && !tx.billingGroups.has(p.BillingGroup) {
		if err := checkName("billing group", p.BillingGroup); err != nil {
			return err
		}
		tx.billingGroups.put(p.BillingGroup, BillingGroup{Name: p.BillingGroup, ID: awsiot.NewUUID(), Created: tx.now, Version: 1})
	}
	for _, name := range p.Groups {
		if tx.groups.has(name) {
			continue
		}
		g := ThingGroup{Name: name, ID: awsiot.NewUUID(), Created: tx.now, Version: 1}
		if err := g.check(); err != nil {
			return err
		}
		tx.groups.put(name, g)
	}
	return nil
}

// provisionedCertificate finds or registers the certificate, and uses its token
// up. existed is true for one that is neither new nor pending.
func (tx *transaction) provisionedCertificate(p Provisioning) (c Certificate, existed bool, err error) {
	switch {
	case p.NewCertificate != nil:
		c, err = tx.createCertificate(*p.NewCertificate)
		if e, ok := errors.AsType[*Error](err); ok && e.Code == CodeAlreadyExists {
			id, _ := Target(e.Resource).Certificate()
			c, err = tx.certificates.find(id)
			existed = true
		}
	case p.CertificateID != "":
		c, err = tx.certificates.find(p.CertificateID)
		existed = true
	case p.Certificate != nil || p.Principal != "":
		if c, err = tx.owned(p.Token, p.Principal, tx.now); err == nil {
			c = tx.useToken(c)
		}
	}
	return c, existed && c.Status != PendingActivation, err
}

func (tx *transaction) provisionThing(p *ProvisionedThing) (created bool, err error) {
	old, exists := tx.things.get(p.Name)
	if !exists {
		_, err := tx.createThing(NewThing{Name: p.Name, Type: p.Type, BillingGroup: p.BillingGroup, Attributes: p.Attributes})
		return true, err
	}
	thingType, err := p.OverrideType.scalar("type of thing "+p.Name, old.Type, p.Type)
	attributes, attributesErr := p.OverrideAttributes.attributes(p.Name, old.Attributes, p.Attributes)
	if err := cmp.Or(err, attributesErr); err != nil {
		return false, err
	}
	if p.BillingGroup != "" && p.BillingGroup != old.BillingGroup {
		if err := tx.billingGroups.check(p.BillingGroup); err != nil {
			return false, err
		}
		old.BillingGroup = p.BillingGroup
		tx.things.put(p.Name, old)
	}
	update := ThingUpdate{Name: p.Name}
	if thingType != old.Type {
		update.Type = thingType
	}
	if !maps.Equal(attributes, old.Attributes) {
		update.Attributes = &AttributeUpdate{Attributes: attributes}
	}
	if update == (ThingUpdate{Name: p.Name}) {
		return false, nil
	}
	return false, tx.updateThing(update)
}

// scalar returns what a value becomes. A template that is silent about the
// value leaves it alone.
func (o Override) scalar(what, old, wanted string) (string, error) {
	switch {
	case wanted == "" || o == DoNothing:
		return old, nil
	case o == Fail, o == Unset && old != "" && old != wanted:
		return "", Reject(CodeResourceConflicts, "The template does not allow replacing the %s, which is %q.", what, clip(old))
	}
	return wanted, nil
}

// attributes returns what the attributes of a thing become.
func (o Override) attributes(thing string, old, wanted map[string]string) (map[string]string, error) {
	replaced := withValues(wanted)
	switch {
	case wanted == nil || o == DoNothing:
		return old, nil
	case o == Merge:
		return (&AttributeUpdate{wanted, true}).apply(old), nil
	case o == Fail, o == Unset && len(old) > 0 && !maps.Equal(old, replaced):
		return nil, Reject(CodeResourceConflicts, "The template does not allow replacing the attributes of thing %s, which exists.", thing)
	}
	return replaced, nil
}

func (tx *transaction) provisionCertificate(c Certificate, existed bool, p Provisioning) (Certificate, error) {
	if p.Thing != nil {
		if err := tx.attachPrincipal(p.Thing.Name, c.ID, p.Certificate.Type); err != nil {
			return c, err
		}
	}
	status := cmp.Or(p.Certificate.Status, Active)
	if err := checkSettable(status); err != nil {
		return c, err
	}
	// A template that says nothing of replacing the status sets it, but brings no
	// revoked certificate back.
	unsaid := p.Certificate.OverrideStatus == Unset && c.Status != Revoked
	if existed && !unsaid {
		kept, err := p.Certificate.OverrideStatus.scalar("status of certificate "+c.ID, string(c.Status), string(status))
		if err != nil {
			return c, err
		}
		status = CertificateStatus(kept)
	}
	tx.setStatus(c, status)
	return tx.certificates.find(c.ID)
}

func (tx *transaction) provisionGroups(p *ProvisionedThing, created bool) error {
	for _, group := range p.Groups {
		if err := tx.groups.check(group); err != nil {
			return err
		}
	}
	old := tx.thingGroups.rightsOf(p.Name)
	wanted := slices.Compact(slices.Sorted(slices.Values(p.Groups)))
	if !created {
		switch o := p.OverrideGroups; {
		case o == DoNothing, p.Groups == nil:
			return nil
		case o == Fail, o == Unset && len(old) > 0 && !slices.Equal(old, wanted):
			return Reject(CodeResourceConflicts, "The template does not allow changing the groups of thing %s, which exists.", p.Name)
		case o == Replace:
			for _, group := range old {
				tx.thingGroups.remove(p.Name, group)
			}
		}
	}
	for _, group := range wanted {
		if err := tx.addToGroup(p.Name, group); err != nil {
			return err
		}
	}
	return nil
}
