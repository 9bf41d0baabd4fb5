package registry

import (
	"crypto/rand"
	"fmt"
	"maps"
	"strings"
)

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
	return read(r, func(s *state) (Thing, error) {
		t, err := s.thing(name)
		return t.clone(), err
	})
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
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []Thing
	for _, t := range r.committed.things.all() {
		if f.selects(t) {
			out = append(out, t.clone())
		}
	}
	return out
}

func (f ThingFilter) selects(t Thing) bool {
	if f.Type != "" && t.Type != f.Type {
		return false
	}
	if f.AttributeName == "" {
		return true
	}
	value, ok := t.Attributes[f.AttributeName]
	if f.ValuePrefix || f.AttributeValue == "" {
		return ok && strings.HasPrefix(value, f.AttributeValue)
	}
	return ok && value == f.AttributeValue
}

func (s *state) thing(name string) (Thing, error) { return find(s.things, "thing", "Thing", name) }

func (tx *transaction) createThing(n NewThing) (Thing, error) {
	if err := checkName("thing", n.Name); err != nil {
		return Thing{}, err
	}
	n.Attributes = withValues(n.Attributes)
	if n.BillingGroup != "" {
		if _, err := tx.billingGroup(n.BillingGroup); err != nil {
			return Thing{}, err
		}
	}
	if old, ok := tx.things.get(n.Name); ok {
		if old.Type == n.Type && old.BillingGroup == n.BillingGroup && maps.Equal(old.Attributes, n.Attributes) {
			return old.clone(), nil
		}
		return Thing{}, alreadyExists("thing/"+n.Name, "Thing "+n.Name)
	}
	if err := tx.checkUsableType(n.Type); err != nil {
		return Thing{}, err
	}
	if err := checkAttributes(n.Attributes, attributeLimit(n.Type)); err != nil {
		return Thing{}, err
	}
	t := Thing{
		Name: n.Name, ID: newID(), Type: n.Type, BillingGroup: n.BillingGroup,
		Attributes: n.Attributes, Version: 1,
	}
	tx.things.put(t.Name, t)
	return t.clone(), nil
}

func (tx *transaction) updateThing(u ThingUpdate) error {
	t, err := tx.thing(u.Name)
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
		return MaxAttributesUntyped
	}
	return MaxAttributes
}

// newID returns a random UUID (RFC 9562, version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
