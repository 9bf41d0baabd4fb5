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
	Propagating []PropagatingAttribute
	Created     time.Time
	Deprecated  bool
	// DeprecatedAt is zero unless Deprecated.
	DeprecatedAt time.Time
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

func (t ThingType) clone() ThingType {
	t.SearchableAttributes = slices.Clone(t.SearchableAttributes)
	t.Propagating = slices.Clone(t.Propagating)
	return t
}

// A NewThingType describes a thing type to create. Only the name is required.
type NewThingType struct {
	Name, Description    string
	SearchableAttributes []string
	Propagating          []PropagatingAttribute
}

// CreateThingType makes a thing type. Creating it again with the same
// properties succeeds and changes nothing.
func (r *Registry) CreateThingType(n NewThingType) (ThingType, error) {
	return mutate(r, func(tx *transaction) (ThingType, error) {
		if err := n.check(); err != nil {
			return ThingType{}, err
		}
		if old, ok := tx.types.get(n.Name); ok {
			if old.Description == n.Description && slices.Equal(old.SearchableAttributes, n.SearchableAttributes) &&
				slices.Equal(old.Propagating, n.Propagating) {
				return old.clone(), nil
			}
			return ThingType{}, tx.types.differs(n.Name)
		}
		t := ThingType{
			Name: n.Name, ID: awsiot.NewUUID(), Description: n.Description,
			SearchableAttributes: slices.Clone(n.SearchableAttributes), Propagating: slices.Clone(n.Propagating), Created: tx.now,
		}
		tx.types.put(t.Name, t)
		return t.clone(), nil
	})
}

// DescribeThingType returns the thing type.
func (r *Registry) DescribeThingType(name string) (ThingType, error) {
	return describe(r, r.committed.types, name)
}

// UpdateThingType replaces the propagating attributes. AWS rejects every other
// change.
func (r *Registry) UpdateThingType(n NewThingType) error {
	return r.update(func(tx *transaction) error {
		t, err := tx.types.find(n.Name)
		if err := cmp.Or(err, n.check()); err != nil {
			return err
		}
		if n.Description != "" && n.Description != t.Description ||
			n.SearchableAttributes != nil && !slices.Equal(n.SearchableAttributes, t.SearchableAttributes) {
			return invalid("Can only update mqtt5Configuration.")
		}
		t.Propagating = slices.Clone(n.Propagating)
		tx.types.put(t.Name, t)
		return nil
	})
}

// DeprecateThingType keeps a thing type from further use, or allows it again.
func (r *Registry) DeprecateThingType(name string, undo bool) error {
	return r.update(func(tx *transaction) error {
		t, err := tx.types.find(name)
		if err != nil {
			return err
		}
		if t.Deprecated != undo {
			return nil
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
		for _, thing := range tx.things.all() {
			if thing.Type == name {
				return invalid("Cannot delete thing type %s: thing %s still has it.", name, thing.Name)
			}
		}
		return remove(tx, tx.types, name)
	})
}

// ListThingTypes returns all thing types in the order of their names or, with
// a name, the one of that name.
func (r *Registry) ListThingTypes(name string) []ThingType {
	return list(r, r.committed.types, func(t ThingType) bool { return name == "" || t.Name == name })
}

// checkUsableType checks a type for a thing; none at all is fine.
func (s *state) checkUsableType(name string) error {
	if name == "" {
		return nil
	}
	t, err := s.types.find(name)
	if err != nil {
		return err
	}
	if t.Deprecated {
		return invalid("Thing type %s is deprecated.", name)
	}
	return nil
}

func (n NewThingType) check() error {
	if err := checkName("thing type", n.Name); err != nil {
		return err
	}
	if len(n.SearchableAttributes) > MaxSearchable {
		return invalid("%d searchable attributes, at most %d are allowed", len(n.SearchableAttributes), MaxSearchable)
	}
	for _, name := range n.SearchableAttributes {
		if !awsiot.ValidAttributeName(name) {
			return invalid("%q is no attribute name", clip(name))
		}
	}
	if len(n.Propagating) > MaxPropagating {
		return invalid("%d propagating attributes, at most %d are allowed", len(n.Propagating), MaxPropagating)
	}
	for _, p := range n.Propagating {
		if p.UserPropertyKey == "" || (p.ThingAttribute == "") == (p.ConnectionAttribute == "") {
			return invalid("A propagating attribute needs userPropertyKey and one of thingAttribute and connectionAttribute.")
		}
	}
	return checkDescription(n.Description, MaxDescription)
}
