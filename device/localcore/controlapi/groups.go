package controlapi

import (
	"cmp"
	"strings"

	"example.com/fleety/device/localcore/registry"
)

// groupProperties is AWS's ThingGroupProperties or BillingGroupProperties; nil leaves a part alone.
type groupProperties struct {
	ThingGroupDescription, BillingGroupDescription *string

	Attributes *registry.AttributeUpdate `json:"attributePayload"`
}

// orNew returns p or, for nil, a pointer to zero.
func orNew[T any](p *T) *T { return cmp.Or(p, new(T)) }

// groupSummary is how lists name a group of things.
func (a *api) groupSummary(name string) object { return a.ref("thinggroup", "groupName", name) }

func newThingGroup(name, parent string, p groupProperties) registry.ThingGroup {
	return registry.ThingGroup{
		Name: name, Parent: parent, Description: *orNew(cmp.Or(p.ThingGroupDescription, p.BillingGroupDescription)),
		Attributes: orNew(p.Attributes).Attributes,
	}
}

// group returns a description of a thing group or billing group: kind begins the names of its members.
func (a *api) group(kind string, g registry.ThingGroup, ancestors ...string) object {
	properties := object{}.optional(kind+"Description", g.Description)
	if len(g.Attributes) > 0 {
		properties["attributePayload"] = object{"attributes": g.Attributes}
	}
	return a.groupCreated(kind)(g).with(object{
		"version": g.Version, kind + "Properties": properties,
		kind + "Metadata": object{"creationDate": epoch(g.Created)}.optional("parentGroupName", g.Parent).
			optional("rootToParentThingGroups", convert(ancestors, a.groupSummary)),
	})
}

// groupCreated returns what shows the name, ARN and id of a group.
func (a *api) groupCreated(kind string) func(registry.ThingGroup) object {
	return func(g registry.ThingGroup) object {
		return a.ref(strings.ToLower(kind), kind+"Name", g.Name).with(object{kind + "Id": g.ID})
	}
}

// updatedGroup is how a request changes a group.
func updatedGroup(name string, p groupProperties, expectedVersion *int64) registry.ThingGroupUpdate {
	return registry.ThingGroupUpdate{
		Name: name, Description: cmp.Or(p.ThingGroupDescription, p.BillingGroupDescription), Attributes: p.Attributes, ExpectedVersion: expectedVersion,
	}
}

func groupVersion(version int64) object { return object{"version": version} }

func (a *api) listThingGroups(parent, prefix string, recursive *bool) (names []string, err error) {
	// The documentation gives no default; the whole tree is our choice.
	groups, err := a.Registry.ListThingGroups(parent, recursive == nil || *recursive)
	for _, g := range groups {
		if strings.HasPrefix(g.Name, prefix) {
			names = append(names, g.Name)
		}
	}
	return names, err
}
