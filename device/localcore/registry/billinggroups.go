package registry

import "strings"

const billingGroupPrefix = "billinggroup/"

// CreateBillingGroup makes a billing group. Creating it again with the same
// description succeeds and changes nothing.
func (r *Registry) CreateBillingGroup(name, description string) (BillingGroup, error) {
	return mutate(r, func(tx *transaction) (BillingGroup, error) {
		if err := checkName("billing group", name); err != nil {
			return BillingGroup{}, err
		}
		if err := checkDescription(description, MaxDescription); err != nil {
			return BillingGroup{}, err
		}
		if old, ok := tx.billingGroups.get(name); ok {
			if old.Description != description {
				return BillingGroup{}, alreadyExists(billingGroupPrefix+name, "Billing group "+name)
			}
			return old, nil
		}
		g := BillingGroup{Name: name, ID: newID(), Description: description, Created: tx.now, Version: 1}
		tx.billingGroups.put(name, g)
		return g, nil
	})
}

// DescribeBillingGroup returns the billing group.
func (r *Registry) DescribeBillingGroup(name string) (BillingGroup, error) {
	return read(r, func(s *state) (BillingGroup, error) { return s.billingGroup(name) })
}

// UpdateBillingGroup replaces the description, unless it is nil, and returns the
// new version. A zero expectedVersion means any.
func (r *Registry) UpdateBillingGroup(name string, description *string, expectedVersion int64) (version int64, err error) {
	return mutate(r, func(tx *transaction) (int64, error) {
		g, err := tx.billingGroup(name)
		if err != nil {
			return 0, err
		}
		if err := checkVersion("Billing group "+name, expectedVersion, g.Version); err != nil {
			return 0, err
		}
		if description != nil {
			if err := checkDescription(*description, MaxDescription); err != nil {
				return 0, err
			}
			g.Description = *description
		}
		g.Version++
		tx.billingGroups.put(name, g)
		return g.Version, nil
	})
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
		for _, t := range tx.things.all() {
			if t.BillingGroup == name {
				t.BillingGroup = ""
				tx.things.put(t.Name, t)
			}
		}
		tx.tags.remove(billingGroupPrefix + name)
		tx.billingGroups.remove(name)
		return nil
	})
}

// ListBillingGroups returns the billing groups whose names begin with prefix,
// in the order of their names.
func (r *Registry) ListBillingGroups(prefix string) []BillingGroup {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []BillingGroup
	for _, g := range r.committed.billingGroups.all() {
		if strings.HasPrefix(g.Name, prefix) {
			out = append(out, g)
		}
	}
	return out
}

// ListThingsInBillingGroup returns the names of the group's things.
func (r *Registry) ListThingsInBillingGroup(name string) ([]string, error) {
	return read(r, func(s *state) ([]string, error) {
		if _, err := s.billingGroup(name); err != nil {
			return nil, err
		}
		var things []string
		for _, t := range s.things.all() {
			if t.BillingGroup == name {
				things = append(things, t.Name)
			}
		}
		return things, nil
	})
}

// AddThingToBillingGroup puts a thing into a billing group, of which it has one
// at most.
func (r *Registry) AddThingToBillingGroup(thing, group string) error {
	return r.setBillingGroup(thing, group, func(t *Thing) { t.BillingGroup = group })
}

// RemoveThingFromBillingGroup takes a thing out of a billing group. A thing that
// is not in it is no error.
func (r *Registry) RemoveThingFromBillingGroup(thing, group string) error {
	return r.setBillingGroup(thing, group, func(t *Thing) {
		if t.BillingGroup == group {
			t.BillingGroup = ""
		}
	})
}

func (r *Registry) setBillingGroup(thing, group string, change func(*Thing)) error {
	return r.update(func(tx *transaction) error {
		t, err := tx.thing(thing)
		if err != nil {
			return err
		}
		if _, err := tx.billingGroup(group); err != nil {
			return err
		}
		change(&t)
		tx.things.put(thing, t)
		return nil
	})
}

func (s *state) billingGroup(name string) (BillingGroup, error) {
	return find(s.billingGroups, "billinggroup", "Billing group", name)
}
