package registry

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// A ThingGroup is a node in a tree of groups.
type ThingGroup struct {
	Name, ID, Description string
	// Parent is the parent group's name, empty for a root.
	Parent     string
	Attributes map[string]string
	Created    time.Time
	// Version begins at 1 and grows with each update.
	Version int64
}

func (g ThingGroup) clone() ThingGroup {
	g.Attributes = maps.Clone(g.Attributes)
	return g
}

// A NewThingGroup describes a group to create. Only the name is required; a
// group without parent is a root.
type NewThingGroup struct {
	Name, Parent, Description string
	Attributes                map[string]string
}

// A ThingGroupUpdate describes a change of a group. Nil leaves a part alone.
type ThingGroupUpdate struct {
	Name            string
	Description     *string
	Attributes      *AttributeUpdate
	ExpectedVersion int64
}

// A ThingGroupFilter selects groups. Empty fields select all.
type ThingGroupFilter struct {
	NamePrefix string
	// Parent selects the children of this group or, with Recursive, all that
	// descend from it. Without Parent, a false Recursive selects the roots.
	Parent    string
	Recursive bool
}

// CreateThingGroup makes a group. Creating it again with the same parent and
// properties succeeds and changes nothing.
func (r *Registry) CreateThingGroup(n NewThingGroup) (ThingGroup, error) {
	return mutate(r, func(tx *transaction) (ThingGroup, error) {
		g := ThingGroup{
			Name: n.Name, ID: awsiot.NewUUID(), Parent: n.Parent, Description: n.Description,
			Attributes: withValues(n.Attributes), Created: tx.now, Version: 1,
		}
		if err := g.check(); err != nil {
			return ThingGroup{}, err
		}
		if old, ok := tx.groups.get(n.Name); ok {
			if old.Parent == n.Parent && old.Description == n.Description && maps.Equal(old.Attributes, g.Attributes) {
				return old.clone(), nil
			}
			return ThingGroup{}, tx.groups.differs(n.Name)
		}
		if n.Parent != "" {
			if err := tx.checkParent(n.Parent); err != nil {
				return ThingGroup{}, err
			}
		}
		tx.groups.put(g.Name, g)
		return g.clone(), nil
	})
}

// DescribeThingGroup returns the group and the names of its ancestors, root
// first.
func (r *Registry) DescribeThingGroup(name string) (ThingGroup, []string, error) {
	var ancestors []string
	g, err := read(r, func(s *state) (ThingGroup, error) {
		g, err := s.groups.find(name)
		ancestors = s.ancestors(name)
		return g.clone(), err
	})
	slices.Reverse(ancestors)
	return g, ancestors, err
}

// UpdateThingGroup changes a group and returns its new version.
func (r *Registry) UpdateThingGroup(u ThingGroupUpdate) (version int64, err error) {
	return mutate(r, func(tx *transaction) (int64, error) {
		g, err := tx.groups.find(u.Name)
		if err != nil {
			return 0, err
		}
		if u.Description != nil {
			g.Description = *u.Description
		}
		if u.Attributes != nil {
			g.Attributes = u.Attributes.apply(g.Attributes)
		}
		if err := cmp.Or(checkVersion("Thing group "+u.Name, u.ExpectedVersion, g.Version), g.check()); err != nil {
			return 0, err
		}
		g.Version++
		tx.groups.put(g.Name, g)
		return g.Version, nil
	})
}

// DeleteThingGroup deletes a group that has no child groups. Its things leave
// it and its policies are detached. A group that does not exist is no error.
func (r *Registry) DeleteThingGroup(name string, expectedVersion int64) error {
	return r.update(func(tx *transaction) error {
		g, ok := tx.groups.get(name)
		if !ok {
			return checkName("thing group", name)
		}
		if err := checkVersion("Thing group "+name, expectedVersion, g.Version); err != nil {
			return err
		}
		if children := tx.children(name); len(children) > 0 {
			// Tools wait for the children to go by this sentence of AWS's.
			return invalid("Cannot delete thing group : %s when there are still child groups attached to it.", name)
		}
		for _, thing := range tx.thingGroups.leftsOf(name) {
			tx.thingGroups.remove(thing, name)
		}
		target := string(ThingGroupTarget(name))
		for _, policy := range tx.policyTargets.leftsOf(target) {
			tx.policyTargets.remove(policy, target)
		}
		return remove(tx, tx.groups, name)
	})
}

// ListThingGroups returns the selected groups in the order of their names.
func (r *Registry) ListThingGroups(f ThingGroupFilter) ([]ThingGroup, error) {
	return read(r, func(s *state) (out []ThingGroup, err error) {
		if f.Parent != "" {
			err = s.groups.check(f.Parent)
		}
		for _, g := range s.groups.all() {
			selected := f.Parent == "" || slices.Contains(s.ancestors(g.Name), f.Parent)
			if !f.Recursive {
				selected = g.Parent == f.Parent
			}
			if selected && strings.HasPrefix(g.Name, f.NamePrefix) {
				out = append(out, g.clone())
			}
		}
		return out, err
	})
}

// AddThingToThingGroup adds a thing to a group. Adding it again changes
// nothing. A thing is in ten groups at most, no two of one hierarchy.
func (r *Registry) AddThingToThingGroup(thing, group string) error {
	return r.update(func(tx *transaction) error { return tx.addToGroup(thing, group) })
}

// RemoveThingFromThingGroup takes a thing out of a group. A thing that is not
// in it is no error.
func (r *Registry) RemoveThingFromThingGroup(thing, group string) error {
	return r.update(func(tx *transaction) error { return tx.removeFromGroup(thing, group) })
}

// UpdateThingGroupsForThing takes a thing out of groups, then adds it to
// others.
func (r *Registry) UpdateThingGroupsForThing(thing string, add, remove []string) error {
	return r.update(func(tx *transaction) error {
		if err := tx.things.check(thing); err != nil {
			return err
		}
		for _, group := range remove {
			if err := tx.removeFromGroup(thing, group); err != nil {
				return err
			}
		}
		for _, group := range add {
			if err := tx.addToGroup(thing, group); err != nil {
				return err
			}
		}
		return nil
	})
}

// ListThingGroupsForThing returns the names of the thing's groups.
func (r *Registry) ListThingGroupsForThing(thing string) ([]string, error) {
	return read(r, func(s *state) ([]string, error) { return s.thingGroups.rightsOf(thing), s.things.check(thing) })
}

// ListThingsInThingGroup returns the names of the group's things, with
// recursive also those of the groups below it.
func (r *Registry) ListThingsInThingGroup(group string, recursive bool) ([]string, error) {
	return read(r, func(s *state) ([]string, error) {
		things := s.thingGroups.leftsOf(group)
		for _, name := range s.groups.keys() {
			if recursive && slices.Contains(s.ancestors(name), group) {
				things = append(things, s.thingGroups.leftsOf(name)...)
			}
		}
		slices.Sort(things)
		return slices.Compact(things), s.groups.check(group)
	})
}

// ancestors returns the groups above a group, the parent first.
func (s *state) ancestors(name string) []string {
	var out []string
	for g, _ := s.groups.get(name); g.Parent != ""; g, _ = s.groups.get(g.Parent) {
		out = append(out, g.Parent)
	}
	return out
}

// root returns the top of the hierarchy that a group belongs to.
func (s *state) root(name string) string {
	if above := s.ancestors(name); len(above) > 0 {
		return above[len(above)-1]
	}
	return name
}

func (s *state) children(parent string) []string {
	return slices.DeleteFunc(s.groups.keys(), func(name string) bool {
		g, _ := s.groups.get(name)
		return g.Parent != parent
	})
}

func (g ThingGroup) check() error {
	return cmp.Or(checkName("thing group", g.Name), checkDescription(g.Description, MaxDescription), checkAttributes(g.Attributes, awsiot.MaxAttributes))
}

func (s *state) checkParent(name string) error {
	if !s.groups.has(name) { // the service model of CreateThingGroup has no ResourceNotFoundException
		return invalid("The parent thing group %s does not exist.", clip(name))
	}
	if depth := len(s.ancestors(name)) + 2; depth > MaxGroupDepth {
		return invalid("The group would be at depth %d of its hierarchy, at most %d is allowed.", depth, MaxGroupDepth)
	}
	if len(s.children(name)) >= MaxGroupChildren {
		return invalid("Thing group %s has %d child groups already, which is the limit.", name, MaxGroupChildren)
	}
	return nil
}

func (tx *transaction) addToGroup(thing, group string) error {
	if err := cmp.Or(tx.things.check(thing), tx.groups.check(group)); err != nil {
		return err
	}
	if tx.thingGroups.has(thing, group) {
		return nil
	}
	current := tx.thingGroups.rightsOf(thing)
	if len(current) >= awsiot.MaxGroupsPerThing {
		return invalid("Thing %s is in %d thing groups already, which is the limit.", thing, awsiot.MaxGroupsPerThing)
	}
	for _, other := range current {
		if tx.root(other) == tx.root(group) {
			return invalid("Thing %s is in thing group %s already, of the same hierarchy as %s.", thing, other, group)
		}
	}
	tx.thingGroups.put(thing, group, struct{}{})
	return nil
}

func (tx *transaction) removeFromGroup(thing, group string) error {
	if err := cmp.Or(tx.things.check(thing), tx.groups.check(group)); err != nil {
		return err
	}
	tx.thingGroups.remove(thing, group)
	return nil
}
