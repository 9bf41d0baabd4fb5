package registry

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// A ThingGroup is a node in a tree of groups. A billing group, a label for the costs of things, is one
// of another kind, which has neither parent nor attributes.
type ThingGroup struct {
	Name, ID, Description string
	Parent                string // the parent group's name, empty for a root
	Attributes            map[string]string
	Created               time.Time
	Version               int64 // begins at 1 and grows with each update
}

func (g ThingGroup) clone() ThingGroup {
	g.Attributes = maps.Clone(g.Attributes)
	return g
}

// A ThingGroupUpdate describes a change of a group. Nil leaves a part alone.
type ThingGroupUpdate struct {
	Name            string
	Description     *string
	Attributes      *AttributeUpdate
	ExpectedVersion *int64
}

// CreateThingGroup makes a group of name, parent, description and attributes. Only
// the name is required; a group without parent is a root. Creating it again with
// the same properties succeeds and changes nothing.
func (r *Registry) CreateThingGroup(g ThingGroup) (ThingGroup, error) {
	return mutate(r, func(tx *transaction) (ThingGroup, error) { return tx.createGroup(tx.groups, g) })
}

func (tx *transaction) createGroup(kind *table[ThingGroup], g ThingGroup) (ThingGroup, error) {
	g.Attributes = withValues(g.Attributes)
	if err := g.check(kind); err != nil {
		return g, err
	}
	if old, ok := kind.get(g.Name); ok {
		if old.Parent == g.Parent && old.Description == g.Description && maps.Equal(old.Attributes, g.Attributes) {
			return old, nil
		}
		return g, kind.differs(g.Name)
	}
	if err := tx.checkParent(g.Parent); err != nil {
		return g, err
	}
	g.ID, g.Created, g.Version = awsiot.NewUUID(), tx.now, 1
	kind.put(g.Name, g)
	return g, nil
}

// DescribeThingGroup returns the group and the names of its ancestors, root first.
func (r *Registry) DescribeThingGroup(name string) (ThingGroup, []string, error) {
	s := r.state()
	g, err := s.groups.find(name)
	ancestors := s.lineage(name)[1:]
	slices.Reverse(ancestors)
	return g, ancestors, err
}

// UpdateThingGroup changes a group and returns its new version.
func (r *Registry) UpdateThingGroup(u ThingGroupUpdate) (version int64, err error) {
	return mutate(r, func(tx *transaction) (int64, error) { return updateGroup(tx.groups, u) })
}

func updateGroup(kind *table[ThingGroup], u ThingGroupUpdate) (version int64, err error) {
	err = kind.edit(u.Name, func(g *ThingGroup) error {
		err := checkVersion(kind.what+" "+u.Name, u.ExpectedVersion, g.Version)
		g.Description = *cmp.Or(u.Description, &g.Description)
		if u.Attributes != nil {
			g.Attributes = u.Attributes.apply(g.Attributes)
		}
		g.Version++
		version = g.Version
		return cmp.Or(err, g.check(kind))
	})
	return version, err
}

// DeleteThingGroup deletes a group that has no child groups. Its things leave
// it and its policies are detached. A group that does not exist is no error.
func (r *Registry) DeleteThingGroup(name string, expectedVersion *int64) error {
	return r.update(func(tx *transaction) error {
		if children := tx.children(name); len(children) > 0 {
			// Tools wait for the children to go by this sentence of AWS's.
			return invalid("Cannot delete thing group : %s when there are still child groups attached to it.", name)
		}
		tx.thingGroups.removeLefts(name)
		tx.policyTargets.removeLefts(string(ThingGroupTarget(name)))
		return tx.deleteGroup(tx.groups, name, expectedVersion)
	})
}

func (tx *transaction) deleteGroup(kind *table[ThingGroup], name string, expectedVersion *int64) error {
	g, ok := kind.get(name)
	if !ok {
		return checkName(awsiot.ThingNames, kind.what+" name", name)
	}
	return cmp.Or(checkVersion(kind.what+" "+name, expectedVersion, g.Version), remove(tx, kind, name))
}

// ListThingGroups returns the children of a group or, with recursive, all that descend from it, in the
// order of their names. An empty parent stands for that of the roots.
func (r *Registry) ListThingGroups(parent string, recursive bool) ([]ThingGroup, error) {
	s := r.state()
	return s.groups.where(func(g ThingGroup) bool {
		return g.Parent == parent || recursive && (parent == "" || slices.Contains(s.lineage(g.Name)[1:], parent))
	}), s.groups.checkOptional(parent)
}

// AddThingToThingGroup adds a thing to a group. Adding it again changes
// nothing. A thing is in ten groups at most, no two of one hierarchy.
func (r *Registry) AddThingToThingGroup(thing, group string) error {
	return r.UpdateThingGroupsForThing(thing, []string{group}, nil)
}

// RemoveThingFromThingGroup takes a thing out of a group. A thing that is not in it is no error.
func (r *Registry) RemoveThingFromThingGroup(thing, group string) error {
	return r.UpdateThingGroupsForThing(thing, nil, []string{group})
}

// UpdateThingGroupsForThing takes a thing out of groups, then adds it to others.
func (r *Registry) UpdateThingGroupsForThing(thing string, add, remove []string) error {
	return r.update(func(tx *transaction) error {
		err := tx.things.check(thing)
		for _, group := range remove {
			err = cmp.Or(err, tx.groups.check(group))
			tx.thingGroups.remove(thing, group)
		}
		for _, group := range add {
			if err == nil {
				err = tx.addToGroup(thing, group)
			}
		}
		return err
	})
}

// ListThingGroupsForThing returns the names of the thing's groups.
func (r *Registry) ListThingGroupsForThing(thing string) ([]string, error) {
	s := r.state()
	return s.thingGroups.rightsOf(thing), s.things.check(thing)
}

// ListThingsInThingGroup returns the names of the group's things, with
// recursive also those of the groups below it.
func (r *Registry) ListThingsInThingGroup(group string, recursive bool) ([]string, error) {
	s := r.state()
	things := s.thingGroups.leftsOf(group)
	for _, name := range s.groups.keys() {
		if recursive && slices.Contains(s.lineage(name)[1:], group) {
			things = append(things, s.thingGroups.leftsOf(name)...)
		}
	}
	slices.Sort(things)
	return slices.Compact(things), s.groups.check(group)
}

// lineage returns a group and those above it, the root last.
func (s *state) lineage(name string) []string {
	names := []string{name}
	for g, _ := s.groups.get(name); g.Parent != ""; g, _ = s.groups.get(g.Parent) {
		names = append(names, g.Parent)
	}
	return names
}

// root returns the top of the hierarchy that a group belongs to.
func (s *state) root(name string) string {
	lineage := s.lineage(name)
	return lineage[len(lineage)-1]
}

func (s *state) children(parent string) []ThingGroup {
	return s.groups.where(func(g ThingGroup) bool { return g.Parent == parent })
}

func (g ThingGroup) check(kind *table[ThingGroup]) error {
	return cmp.Or(checkName(awsiot.ThingNames, kind.what+" name", g.Name), checkDescription(g.Description), checkAttributes(g.Attributes, true))
}

// checkParent checks the parent of a new group; none at all is fine.
func (s *state) checkParent(name string) error {
	if name == "" {
		return nil
	}
	if !s.groups.has(name) { // the service model of CreateThingGroup has no ResourceNotFoundException
		return invalid("The parent thing group %s does not exist.", awsiot.Clip(name))
	}
	if depth := len(s.lineage(name)) + 1; depth > MaxGroupDepth {
		return invalid("The group would be at depth %d of its hierarchy, at most %d is allowed.", depth, MaxGroupDepth)
	}
	if len(s.children(name)) >= MaxGroupChildren {
		return invalid("Thing group %s has %d child groups already, which is the limit.", name, MaxGroupChildren)
	}
	return nil
}

func (tx *transaction) addToGroup(thing, group string) error {
	current := tx.thingGroups.rightsOf(thing)
	if err := cmp.Or(tx.things.check(thing), tx.groups.check(group)); err != nil || slices.Contains(current, group) {
		return err
	}
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

// CreateBillingGroup makes a billing group of name and description. Creating it again with the same
// description succeeds and changes nothing.
func (r *Registry) CreateBillingGroup(g ThingGroup) (ThingGroup, error) {
	return mutate(r, func(tx *transaction) (ThingGroup, error) { return tx.createGroup(tx.billingGroups, g) })
}

// DescribeBillingGroup returns the billing group.
func (r *Registry) DescribeBillingGroup(name string) (ThingGroup, error) {
	return r.state().billingGroups.find(name)
}

// UpdateBillingGroup changes the description and returns the new version.
func (r *Registry) UpdateBillingGroup(u ThingGroupUpdate) (version int64, err error) {
	return mutate(r, func(tx *transaction) (int64, error) { return updateGroup(tx.billingGroups, u) })
}

// DeleteBillingGroup deletes a billing group; its things leave it. One that
// does not exist is no error.
func (r *Registry) DeleteBillingGroup(name string, expectedVersion *int64) error {
	return r.update(func(tx *transaction) error {
		for _, t := range tx.things.where(func(t Thing) bool { return t.BillingGroup == name }) {
			t.BillingGroup = ""
			tx.things.put(t.Name, t)
		}
		return tx.deleteGroup(tx.billingGroups, name, expectedVersion)
	})
}

// ListBillingGroups returns the billing groups whose names begin with prefix,
// in the order of their names.
func (r *Registry) ListBillingGroups(prefix string) []ThingGroup {
	return r.state().billingGroups.where(func(g ThingGroup) bool { return strings.HasPrefix(g.Name, prefix) })
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
