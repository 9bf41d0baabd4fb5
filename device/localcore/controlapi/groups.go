package controlapi

import (
	"cmp"

	"example.com/fleety/device/localcore/registry"
)

// thingGroupProperties is AWS's ThingGroupProperties; nil leaves a part alone.
type thingGroupProperties struct {
	Description *string                   `json:"thingGroupDescription"`
	Attributes  *registry.AttributeUpdate `json:"attributePayload"`
}

// orZero returns what p points to, zero without that.
func orZero[T any](p *T) T { return *cmp.Or(p, new(T)) }

// groupSummary is how lists name a group of things.
func (a *api) groupSummary(name string) object { return a.ref("thinggroup", "groupName", name) }

func (a *api) createThingGroup(name, parent string, p thingGroupProperties) (object, error) {
	g, err := a.Registry.CreateThingGroup(registry.ThingGroup{
		Name: name, Parent: parent, Description: orZero(p.Description), Attributes: orZero(p.Attributes).Attributes,
	})
	return a.ref("thinggroup", "thingGroupName", g.Name).with(object{"thingGroupId": g.ID}), err
}

func (a *api) thingGroup(g registry.ThingGroup, ancestors []string) object {
	properties := object{}.optional("thingGroupDescription", g.Description)
	if len(g.Attributes) > 0 {
		properties["attributePayload"] = object{"attributes": g.Attributes}
	}
	return a.ref("thinggroup", "thingGroupName", g.Name).with(object{
		"thingGroupId": g.ID, "version": g.Version, "thingGroupProperties": properties,
		"thingGroupMetadata": object{"creationDate": epoch(g.Created)}.optional("parentGroupName", g.Parent).
			optional("rootToParentThingGroups", convert(ancestors, a.groupSummary)),
	})
}

func (a *api) updateThingGroup(name string, p thingGroupProperties, expectedVersion int64) (object, error) {
	version, err := a.Registry.UpdateThingGroup(registry.ThingGroupUpdate{
		Name: name, Description: p.Description, Attributes: p.Attributes, ExpectedVersion: expectedVersion,
	})
	return object{"version": version}, err
}

func (a *api) listThingGroups(parent, prefix string, recursive *bool) ([]string, error) {
	groups, err := a.Registry.ListThingGroups(registry.ThingGroupFilter{
		NamePrefix: prefix, Parent: parent,
		// The documentation gives no default; the whole tree is our choice.
		Recursive: recursive == nil || *recursive,
	})
	return convert(groups, func(g registry.ThingGroup) string { return g.Name }), err
}

// membership returns what reads a thing and a group of that kind, each by name or ARN.
func (a *api) membership(kind string) func(thing, thingARN, group, groupARN string) (string, string, error) {
	return func(thing, thingARN, group, groupARN string) (string, string, error) {
		thing, err := a.named("thing", thing, thingARN)
		if err != nil {
			return "", "", err
		}
		if group, err = a.named(kind, group, groupARN); err != nil {
			return "", "", err
		}
		if thing == "" || group == "" {
			return "", "", invalid("a thing and a %s are required, by name or ARN", kind)
		}
		return thing, group, nil
	}
}

type billingGroupProperties struct {
	Description *string `json:"billingGroupDescription"`
}

func (a *api) createBillingGroup(name string, p billingGroupProperties) (object, error) {
	g, err := a.Registry.CreateBillingGroup(name, orZero(p.Description))
	return a.ref("billinggroup", "billingGroupName", name).with(object{"billingGroupId": g.ID}), err
}

func (a *api) billingGroup(g registry.BillingGroup) object {
	return a.ref("billinggroup", "billingGroupName", g.Name).with(object{
		"billingGroupId": g.ID, "version": g.Version,
		"billingGroupProperties": object{}.optional("billingGroupDescription", g.Description),
		"billingGroupMetadata":   object{"creationDate": epoch(g.Created)},
	})
}

func (a *api) updateBillingGroup(name string, p billingGroupProperties, expectedVersion int64) (object, error) {
	version, err := a.Registry.UpdateBillingGroup(name, p.Description, expectedVersion)
	return object{"version": version}, err
}

func (a *api) billingGroupSummary(g registry.BillingGroup) object {
	return a.ref("billinggroup", "groupName", g.Name)
}
