package registry

import (
	"cmp"
	"maps"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// A Thing is one entry of the thing registry.
type Thing struct {
	Name string
	// ID is a random UUID, new for each creation of the name.
	ID string
	// Type is the thing type's name, or empty.
	Type         string
	Attributes   map[string]string
	BillingGroup string
	// Version begins at 1 and grows with each update.
	Version int64
}

func (t Thing) clone() Thing {
	t.Attributes = maps.Clone(t.Attributes)
	return t
}

// A NewThing describes a thing to create. Only the name is required.
type NewThing struct {
	Name, Type, BillingGroup string
	Attributes               map[string]string
}

// A ThingUpdate describes a change of a thing. The zero value of each field
// but the name leaves that part alone.
type ThingUpdate struct {
	Name string
	// Type is the new thing type.
	Type string
	// RemoveType takes the type away; it excludes Type.
	RemoveType bool
	Attributes *AttributeUpdate
	// ExpectedVersion makes another version an error.
	ExpectedVersion int64
}

// An AttributeUpdate replaces all attributes or, with Merge, those it names.
// An attribute with an empty value is removed.
type AttributeUpdate struct {
	Attributes map[string]string
	Merge      bool
}

// A ThingFilter selects things. Empty fields select all.
type ThingFilter struct {
	Type string
	// AttributeName selects the things that have the attribute; AttributeValue
	// those in which it has this value or, with ValuePrefix, begins with it.
	AttributeName, AttributeValue string
	ValuePrefix                   bool
}

// CreateThing makes a thing. Creating it again with the same type and
// attributes succeeds and changes nothing.
func (r *Registry) CreateThing(n NewThing) (Thing, error) {
	return mutate(r, func(tx *transaction) (Thing, error) { return tx.createThing(n) })
}

// DescribeThing returns the thing.
func (r *Registry) DescribeThing(name string) (Thing, error) {
	return describe(r, r.committed.things, name)
}

// UpdateThing changes a thing.
func (r *Registry) UpdateThing(u ThingUpdate) error {
	return r.update(func(tx *transaction) error { return tx.updateThing(u) })
}

// DeleteThing deletes a thing that has no certificate. A thing that does not
// exist is no error. A zero expectedVersion means any.
func (r *Registry) DeleteThing(name string, expectedVersion int64) error {
	return r.update(func(tx *transaction) error {
		t, ok := tx.things.get(name)
		if !ok {
			return checkName("thing", name)
		}
		if err := checkVersion("Thing "+name, expectedVersion, t.Version); err != nil {
			return err
		}
		if len(tx.thingCerts.rightsOf(name)) > 0 {
			return invalid("Cannot delete. Thing %s is still attached to one or more principals.", name)
		}
		for _, group := range tx.thingGroups.rightsOf(name) {
			tx.thingGroups.remove(name, group)
		}
		tx.things.remove(name)
		return nil
	})
}

// ListThings returns the selected things in the order of their names.
func (r *Registry) ListThings(f ThingFilter) []Thing {
	return list(r, r.committed.things, func(t Thing) bool {
		if f.Type != "" && t.Type != f.Type {
			return false
		}
		value, ok := t.Attributes[f.AttributeName]
		switch {
		case f.AttributeName == "":
			return true
		case f.ValuePrefix || f.AttributeValue == "":
			return ok && strings.HasPrefix(value, f.AttributeValue)
		}
		return ok && value == f.AttributeValue
	})
}

func (tx *transaction) createThing(n NewThing) (Thing, error) {
	if err := checkName("thing", n.Name); err != nil {
		return Thing{}, err
	}
	n.Attributes = withValues(n.Attributes)
	if n.BillingGroup != "" {
		if err := tx.billingGroups.check(n.BillingGroup); err != nil {
			return Thing{}, err
		}
	}
	if old, ok := tx.things.get(n.Name); ok {
		if old.Type == n.Type && old.BillingGroup == n.BillingGroup && maps.Equal(old.Attributes, n.Attributes) {
			return old.clone(), nil
		}
		return Thing{}, tx.things.differs(n.Name)
	}
	if err := cmp.Or(tx.checkUsableType(n.Type), checkAttributes(n.Attributes, attributeLimit(n.Type))); err != nil {
		return Thing{}, err
	}
	t := Thing{Name: n.Name, ID: awsiot.NewUUID(), Type: n.Type, BillingGroup: n.BillingGroup, Attributes: n.Attributes, Version: 1}
	tx.things.put(t.Name, t)
	return t.clone(), nil
}

func (tx *transaction) updateThing(u ThingUpdate) error {
	t, err := tx.things.find(u.Name)
	if err != nil {
		return err
	}
	if err := checkVersion("Thing "+u.Name, u.ExpectedVersion, t.Version); err != nil {
		return err
	}
	switch {
	case u.RemoveType && u.Type != "":
		return invalid("A thing type cannot be set and removed in one request.")
	case u.RemoveType:
		t.Type = ""
	case u.Type != "":
		if err := tx.checkUsableType(u.Type); err != nil {
			return err
		}
		t.Type = u.Type
	}
	if u.Attributes != nil {
		t.Attributes = u.Attributes.apply(t.Attributes)
	}
	if err := checkAttributes(t.Attributes, attributeLimit(t.Type)); err != nil {
		return err
	}
	t.Version++
	tx.things.put(t.Name, t)
	return nil
}

// apply returns what the update makes of the attributes.
func (u *AttributeUpdate) apply(old map[string]string) map[string]string {
	attributes := map[string]string{}
	if u.Merge {
		maps.Copy(attributes, old)
	}
	maps.Copy(attributes, u.Attributes)
	return withValues(attributes)
}

// withValues returns a copy of the attributes that have a value: one without
// does not exist.
func withValues(attributes map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range attributes {
		if value != "" {
			out[name] = value
		}
	}
	return out
}

func attributeLimit(thingType string) int {
	if thingType == "" {
		return awsiot.MaxAttributesUntyped
	}
	return awsiot.MaxAttributes
}

// A BillingGroup is a label for the costs of things.
type BillingGroup struct {
	Name, ID, Description string
	Created               time.Time
	// Version begins at 1 and grows with each update.
	Version int64
}

func (g BillingGroup) clone() BillingGroup { return g }

// CreateBillingGroup makes a billing group. Creating it again with the same
// description succeeds and changes nothing.
func (r *Registry) CreateBillingGroup(name, description string) (BillingGroup, error) {
	return mutate(r, func(tx *transaction) (BillingGroup, error) {
		if err := cmp.Or(checkName("billing group", name), checkDescription(description, MaxDescription)); err != nil {
			return BillingGroup{}, err
		}
		if old, ok := tx.billingGroups.get(name); ok {
			if old.Description != description {
				return BillingGroup{}, tx.billingGroups.differs(name)
			}
			return old, nil
		}
		g := BillingGroup{Name: name, ID: awsiot.NewUUID(), Description: description, Created: tx.now, Version: 1}
		tx.billingGroups.put(name, g)
		return g, nil
	})
}

// DescribeBillingGroup returns the billing group.
func (r *Registry) DescribeBillingGroup(name string) (BillingGroup, error) {
	return describe(r, r.committed.billingGroups, name)
}

// UpdateBillingGroup replaces the description, unless it is nil, and returns the
// new version. A zero expectedVersion means any.
func (r *Registry) UpdateBillingGroup(name string, description *string, expectedVersion int64) (version int64, err error) {
	return mutate(r, func(tx *transaction) (int64, error) {
		g, err := tx.billingGroups.find(name)
		if err != nil {
			return 0, err
		}
		if description != nil {
			g.Description = *description
		}
		if err := cmp.Or(checkVersion("Billing group "+name, expectedVersion, g.Version), checkDescription(g.Description, MaxDescription)); err != nil {
			return 0, err
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
		return remove(tx, tx.billingGroups, name)
	})
}

// ListBillingGroups returns the billing groups whose names begin with prefix,
// in the order of their names.
func (r *Registry) ListBillingGroups(prefix string) []BillingGroup {
	return list(r, r.committed.billingGroups, func(g BillingGroup) bool { return strings.HasPrefix(g.Name, prefix) })
}

// ListThingsInBillingGroup returns the names of the group's things.
func (r *Registry) ListThingsInBillingGroup(name string) ([]string, error) {
	return read(r, func(s *state) (things []string, err error) {
		for _, t := range s.things.all() {
			if t.BillingGroup == name {
				things = append(things, t.Name)
			}
		}
		return things, s.billingGroups.check(name)
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
		t, err := tx.things.find(thing)
		if err := cmp.Or(err, tx.billingGroups.check(group)); err != nil {
			return err
		}
		change(&t)
		tx.things.put(thing, t)
		return nil
	})
}
