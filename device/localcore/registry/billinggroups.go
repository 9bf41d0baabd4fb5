package registry

import (
	"cmp"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// A BillingGroup is a label for the costs of things.
type BillingGroup struct {
	Name, ID, Description string
	Created               time.Time
	Version               int64 // begins at 1 and grows with each update
}

// CreateBillingGroup makes a billing group. Creating it again with the same
// description succeeds and changes nothing.
func (r *Registry) CreateBillingGroup(name, description string) (BillingGroup, error) {
	return mutate(r, func(tx *transaction) (BillingGroup, error) {
		g, exists := tx.billingGroups.get(name)
		if err := cmp.Or(checkName("billing group", name), checkDescription(description)); err != nil || exists && g.Description == description {
			return g, err
		}
		if exists {
			return g, tx.billingGroups.differs(name)
		}
		g = BillingGroup{Name: name, ID: awsiot.NewUUID(), Description: description, Created: tx.now, Version: 1}
		tx.billingGroups.put(name, g)
		return g, nil
	})
}

// DescribeBillingGroup returns the billing group.
func (r *Registry) DescribeBillingGroup(name string) (BillingGroup, error) {
	return r.state().billingGroups.find(name)
}

// UpdateBillingGroup replaces the description, unless it is nil, and returns the
// new version. A zero expectedVersion means any.
func (r *Registry) UpdateBillingGroup(name string, description *string, expectedVersion int64) (version int64, err error) {
	err = edit(r, name, func(tx *transaction, g *BillingGroup) error {
		err := checkVersion("Billing group "+name, expectedVersion, g.Version)
		if description != nil {
			g.Description = *description
		}
		g.Version++
		version = g.Version
		return cmp.Or(err, checkDescription(g.Description))
	})
	return version, err
}

// DeleteBillingGroup deletes a billing group; its things leave it. One that
// does not exist is no error.
func (r *Registry) DeleteBillingGroup(name string, expectedVersion int64) error {
	return r.update(func(tx *transaction) error {
		g, ok := tx.billingGroups.get(name)
		if !ok {
			return checkName("billing group", name)
		}
		if err := checkVersion("Billing group "+name, expectedVersion, g.Version); err != nil {
			return err
		}
		for _, t := range tx.things.where(func(t Thing) bool { return t.BillingGroup == name }) {
			t.BillingGroup = ""
			tx.things.put(t.Name, t)
		}
		return remove(tx, tx.billingGroups, name)
	})
}

// ListBillingGroups returns the billing groups whose names begin with prefix,
// in the order of their names.
func (r *Registry) ListBillingGroups(prefix string) []BillingGroup {
	return r.state().billingGroups.where(func(g BillingGroup) bool { return strings.HasPrefix(g.Name, prefix) })
}

// ListThingsInBillingGroup returns the names of the group's things.
func (r *Registry) ListThingsInBillingGroup(name string) (things []string, err error) {
	s := r.state()
	for _, t := range s.things.where(func(t Thing) bool { return t.BillingGroup == name }) {
		things = append(things, t.Name)
	}
	return things, s.billingGroups.check(name)
}

// AddThingToBillingGroup puts a thing into a billing group, of which it has one at most.
func (r *Registry) AddThingToBillingGroup(thing, group string) error {
	return edit(r, thing, func(tx *transaction, t *Thing) error {
		t.BillingGroup = group
		return tx.billingGroups.check(group)
	})
}

// RemoveThingFromBillingGroup takes a thing out of a billing group. A thing that
// is not in it is no error.
func (r *Registry) RemoveThingFromBillingGroup(thing, group string) error {
	return edit(r, thing, func(tx *transaction, t *Thing) error {
		if t.BillingGroup == group {
			t.BillingGroup = ""
		}
		return tx.billingGroups.check(group)
	})
}
