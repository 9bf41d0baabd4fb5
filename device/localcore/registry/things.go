package registry

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
)

// A Thing is one entry of the thing registry.
type Thing struct {
	Name         string
	ID           string // a random UUID, new for each creation of the name
	Type         string // the thing type's name, or empty
	Attributes   map[string]string
	BillingGroup string // or empty
	Version      int64  // begins at 1 and grows with each update
}

func (t Thing) clone() Thing {
	t.Attributes = maps.Clone(t.Attributes)
	return t
}

// A ThingUpdate describes a change of a thing. The zero value of each field leaves that part alone.
type ThingUpdate struct {
	Type            string           `json:"thingTypeName"`   // the new thing type
	RemoveType      bool             `json:"removeThingType"` // takes the type away; it excludes Type
	Attributes      *AttributeUpdate `json:"attributePayload"`
	ExpectedVersion *int64           // makes another version an error
}

// An AttributeUpdate replaces all attributes or, with Merge, those it names.
// An attribute with an empty value is removed.
type AttributeUpdate struct {
	Attributes map[string]string
	Merge      bool
}

// CreateThing makes a thing of name, type, billing group and attributes, of which only the name is
// required. Creating it again with the same ones succeeds and changes nothing.
func (r *Registry) CreateThing(t Thing) (Thing, error) {
	return mutate(r, func(tx *transaction) (Thing, error) { return tx.createThing(t) })
}

func (tx *transaction) createThing(t Thing) (Thing, error) {
	t.Attributes = withValues(t.Attributes)
	if err := cmp.Or(checkName(awsiot.ThingNames, "thing name", t.Name), tx.billingGroups.checkOptional(t.BillingGroup)); err != nil {
		return t, err
	}
	if old, ok := tx.things.get(t.Name); ok {
		if old.Type == t.Type && old.BillingGroup == t.BillingGroup && maps.Equal(old.Attributes, t.Attributes) {
			return old, nil
		}
		return t, tx.things.differs(t.Name)
	}
	if err := cmp.Or(tx.checkUsableType(t.Type), checkAttributes(t.Attributes, t.Type != "")); err != nil {
		return t, err
	}
	t.ID, t.Version = awsiot.NewUUID(), 1
	tx.things.put(t.Name, t)
	return t, nil
}

// DescribeThing returns the thing.
func (r *Registry) DescribeThing(name string) (Thing, error) { return r.state().things.find(name) }

// UpdateThing changes a thing.
func (r *Registry) UpdateThing(name string, u ThingUpdate) error {
	return edit(r, name, func(tx *transaction, t *Thing) error {
		err := checkVersion("Thing "+name, u.ExpectedVersion, t.Version)
		t.Type = cmp.Or(u.Type, t.Type)
		switch {
		case u.RemoveType && u.Type != "":
			err = cmp.Or(err, invalid("A thing type cannot be set and removed in one request."))
		case u.RemoveType:
			t.Type = ""
		}
		if u.Attributes != nil {
			t.Attributes = u.Attributes.apply(t.Attributes)
		}
		t.Version++
		return cmp.Or(err, tx.checkUsableType(u.Type), checkAttributes(t.Attributes, t.Type != ""))
	})
}

// DeleteThing deletes a thing that has no certificate. A thing that does not
// exist is no error. A nil expectedVersion means any.
func (r *Registry) DeleteThing(name string, expectedVersion *int64) error {
	return r.update(func(tx *transaction) error {
		t, ok := tx.things.get(name)
		if !ok {
			return checkName(awsiot.ThingNames, "thing name", name)
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

// ListThings returns all things in the order of their names.
func (r *Registry) ListThings() []Thing { return r.state().things.all() }

// apply returns what the update makes of the attributes.
func (u *AttributeUpdate) apply(old map[string]string) map[string]string {
	attributes := map[string]string{}
	if u.Merge {
		maps.Copy(attributes, old)
	}
	maps.Copy(attributes, u.Attributes)
	return withValues(attributes)
}

// withValues returns a copy of the attributes that have a value: one without does not exist.
func withValues(attributes map[string]string) map[string]string {
	out := maps.Collect(maps.All(attributes))
	maps.DeleteFunc(out, func(_, value string) bool { return value == "" })
	return out
}

// A ThingType describes things of one kind.
type ThingType struct {
	Name, ID, Description string
	SearchableAttributes  []string
	// Propagating are the attributes that AWS IoT adds to MQTT 5 messages. They
	// are kept, not added.
	Propagating  []PropagatingAttribute
	Created      time.Time
	Deprecated   bool
	DeprecatedAt time.Time // zero unless Deprecated
}

func (t ThingType) clone() ThingType {
	t.SearchableAttributes, t.Propagating = slices.Clone(t.SearchableAttributes), slices.Clone(t.Propagating)
	return t
}

// A PropagatingAttribute names an attribute of the thing or of the connection
// that becomes a user property.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_PropagatingAttribute.html
type PropagatingAttribute struct {
	UserPropertyKey     string `json:"userPropertyKey"`
	ThingAttribute      string `json:"thingAttribute,omitempty"`
	ConnectionAttribute string `json:"connectionAttribute,omitempty"`
}

// CreateThingType makes a thing type of name, description and attributes, of which only the name is
// required. Creating it again with the same properties succeeds and changes nothing.
func (r *Registry) CreateThingType(t ThingType) (ThingType, error) {
	return mutate(r, func(tx *transaction) (ThingType, error) { return tx.createThingType(t) })
}

func (tx *transaction) createThingType(t ThingType) (ThingType, error) {
	if err := t.check(); err != nil {
		return t, err
	}
	if old, ok := tx.types.get(t.Name); ok {
		if old.Description == t.Description && slices.Equal(old.SearchableAttributes, t.SearchableAttributes) &&
			slices.Equal(old.Propagating, t.Propagating) {
			return old, nil
		}
		return t, tx.types.differs(t.Name)
	}
	t.ID, t.Created = awsiot.NewUUID(), tx.now
	tx.types.put(t.Name, t)
	return t, nil
}

// DescribeThingType returns the thing type.
func (r *Registry) DescribeThingType(name string) (ThingType, error) {
	return r.state().types.find(name)
}

// UpdateThingType replaces the propagating attributes. AWS rejects every other change.
func (r *Registry) UpdateThingType(u ThingType) error {
	return edit(r, u.Name, func(tx *transaction, t *ThingType) error {
		t.Propagating = u.Propagating
		if u.Description != "" && u.Description != t.Description ||
			u.SearchableAttributes != nil && !slices.Equal(u.SearchableAttributes, t.SearchableAttributes) {
			return invalid("Can only update mqtt5Configuration.")
		}
		return u.check()
	})
}

// DeprecateThingType keeps a thing type from further use, or allows it again.
func (r *Registry) DeprecateThingType(name string, undo bool) error {
	return r.update(func(tx *transaction) error {
		t, err := tx.types.find(name)
		if err != nil || t.Deprecated != undo {
			return err
		}
		t.Deprecated, t.DeprecatedAt = !undo, tx.now
		if undo {
			t.DeprecatedAt = time.Time{}
		}
		tx.types.put(name, t)
		return nil
	})
}

// DeleteThingType deletes a thing type that is deprecated and has no things.
// AWS also requires five minutes between the two calls; this does not.
func (r *Registry) DeleteThingType(name string) error {
	return r.update(func(tx *transaction) error {
		t, err := tx.types.find(name)
		things := tx.things.where(func(t Thing) bool { return t.Type == name })
		switch {
		case err != nil:
			return err
		case !t.Deprecated:
			return invalid("Cannot delete thing type %s: deprecate it first.", name)
		case len(things) > 0:
			return invalid("Cannot delete thing type %s: thing %s still has it.", name, things[0].Name)
		}
		return remove(tx, tx.types, name)
	})
}

// ListThingTypes returns all thing types in the order of their names or, with
// a name, the one of that name.
func (r *Registry) ListThingTypes(name string) []ThingType {
	return r.state().types.where(func(t ThingType) bool { return name == "" || t.Name == name })
}

// checkUsableType checks a type for a thing; none at all is fine.
func (s *state) checkUsableType(name string) error {
	err := s.types.checkOptional(name)
	if t, _ := s.types.get(name); t.Deprecated {
		return invalid("Thing type %s is deprecated.", name)
	}
	return err
}

func (t ThingType) check() error {
	if err := cmp.Or(checkName(awsiot.ThingNames, "thing type name", t.Name), checkDescription(t.Description)); err != nil {
		return err
	}
	if len(t.SearchableAttributes) > MaxSearchable {
		return invalid("%d searchable attributes, at most %d are allowed", len(t.SearchableAttributes), MaxSearchable)
	}
	for _, name := range t.SearchableAttributes {
		if err := checkName(awsiot.AttributeNames, "attribute name", name); err != nil {
			return err
		}
	}
	if len(t.Propagating) > MaxPropagating {
		return invalid("%d propagating attributes, at most %d are allowed", len(t.Propagating), MaxPropagating)
	}
	for _, p := range t.Propagating {
		if p.UserPropertyKey == "" || (p.ThingAttribute == "") == (p.ConnectionAttribute == "") {
			return invalid("A propagating attribute needs userPropertyKey and one of thingAttribute and connectionAttribute.")
		}
	}
	return nil
}
