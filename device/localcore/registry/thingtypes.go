package registry

import (
	"cmp"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
)

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

// CreateThingType makes a thing type of name, description and attributes, of which
// only the name is required. Creating it again with the same properties succeeds
// and changes nothing.
func (r *Registry) CreateThingType(t ThingType) (ThingType, error) {
	return mutate(r, func(tx *transaction) (ThingType, error) {
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
	})
}

// DescribeThingType returns the thing type.
func (r *Registry) DescribeThingType(name string) (ThingType, error) {
	return r.committed.Load().types.find(name)
}

// UpdateThingType replaces the propagating attributes. AWS rejects every other
// change.
func (r *Registry) UpdateThingType(u ThingType) error {
	return r.update(func(tx *transaction) error {
		return tx.types.edit(u.Name, func(t *ThingType) error {
			t.Propagating = u.Propagating
			if u.Description != "" && u.Description != t.Description ||
				u.SearchableAttributes != nil && !slices.Equal(u.SearchableAttributes, t.SearchableAttributes) {
				return invalid("Can only update mqtt5Configuration.")
			}
			return u.check()
		})
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
		if err != nil {
			return err
		}
		if !t.Deprecated {
			return invalid("Cannot delete thing type %s: deprecate it first.", name)
		}
		if things := tx.things.where(func(t Thing) bool { return t.Type == name }); len(things) > 0 {
			return invalid("Cannot delete thing type %s: thing %s still has it.", name, things[0].Name)
		}
		return remove(tx, tx.types, name)
	})
}

// ListThingTypes returns all thing types in the order of their names or, with
// a name, the one of that name.
func (r *Registry) ListThingTypes(name string) []ThingType {
	return r.committed.Load().types.where(func(t ThingType) bool { return name == "" || t.Name == name })
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
	if err := cmp.Or(checkName("thing type", t.Name), checkDescription(t.Description)); err != nil {
		return err
	}
	if len(t.SearchableAttributes) > MaxSearchable {
		return invalid("%d searchable attributes, at most %d are allowed", len(t.SearchableAttributes), MaxSearchable)
	}
	for _, name := range t.SearchableAttributes {
		if !awsiot.ValidAttributeName(name) {
			return invalid("%q is no attribute name", clip(name))
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
