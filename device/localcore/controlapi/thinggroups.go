package controlapi

import "example.com/fleety/device/localcore/registry"

// thingGroupProperties is AWS's ThingGroupProperties; nil leaves a part alone.
type thingGroupProperties struct {
	Description *string           `json:"thingGroupDescription"`
	Attributes  *attributePayload `json:"attributePayload"`
}

type groupName struct {
	Name string `json:"groupName"`
	ARN  string `json:"groupArn"`
}

func (a *api) groupName(name string) groupName { return groupName{name, a.arn("thinggroup/" + name)} }

func (a *api) createThingGroup(q *request, in struct {
	Parent     string               `json:"parentGroupName"`
	Properties thingGroupProperties `json:"thingGroupProperties"`
	Tags       tags                 `json:"tags"`
}) (any, error) {
	n := registry.NewThingGroup{
		Name: q.path("thingGroupName"), Parent: in.Parent, Attributes: in.Properties.Attributes.attributes(),
	}
	if in.Properties.Description != nil {
		n.Description = *in.Properties.Description
	}
	g, err := tagged(a, in.Tags, "thinggroup/"+n.Name, func() (registry.ThingGroup, error) { return a.Registry.CreateThingGroup(n) })
	if err != nil {
		return nil, err
	}
	return object{"thingGroupName": g.Name, "thingGroupArn": a.arn("thinggroup/" + g.Name), "thingGroupId": g.ID}, nil
}

func (a *api) describeThingGroup(q *request) (any, error) {
	g, ancestors, err := a.Registry.DescribeThingGroup(q.path("thingGroupName"))
	if err != nil {
		return nil, err
	}
	properties := object{}.optional("thingGroupDescription", g.Description)
	if len(g.Attributes) > 0 {
		properties["attributePayload"] = object{"attributes": g.Attributes}
	}
	return object{
		"thingGroupName": g.Name, "thingGroupId": g.ID, "thingGroupArn": a.arn("thinggroup/" + g.Name), "version": g.Version,
		"thingGroupProperties": properties,
		"thingGroupMetadata": object{"creationDate": epoch(g.Created)}.optional("parentGroupName", g.Parent).
			optional("rootToParentThingGroups", convert(ancestors, a.groupName)),
	}, nil
}

func (a *api) updateThingGroup(q *request, in struct {
	Properties      thingGroupProperties `json:"thingGroupProperties"`
	ExpectedVersion int64                `json:"expectedVersion"`
}) (any, error) {
	version, err := a.Registry.UpdateThingGroup(registry.ThingGroupUpdate{
		Name: q.path("thingGroupName"), Description: in.Properties.Description,
		Attributes: in.Properties.Attributes.update(), ExpectedVersion: in.ExpectedVersion,
	})
	return object{"version": version}, err
}

func (a *api) deleteThingGroup(q *request) (any, error) {
	return object{}, a.Registry.DeleteThingGroup(q.path("thingGroupName"), q.number("expectedVersion"))
}

func (a *api) listThingGroups(q *request) (any, error) {
	all, err := a.Registry.ListThingGroups(registry.ThingGroupFilter{
		NamePrefix: q.query("namePrefixFilter"),
		Parent:     q.query("parentGroup"),
		// The documentation gives no default; the whole tree is our choice.
		Recursive: q.query("recursive") != "false",
	})
	if err != nil {
		return nil, err
	}
	return list(q, "thingGroups", convert(all, func(g registry.ThingGroup) string { return g.Name }), self, a.groupName)
}

// membership returns which thing and which group a request means, each by name
// or by ARN.
func (a *api) membership(thingName, thingARN, groupName, groupARN, kind string) (thing, group string, err error) {
	if thing, err = a.named(thingName, thingARN, "thing"); err != nil {
		return "", "", err
	}
	group, err = a.named(groupName, groupARN, kind)
	if err == nil && (thing == "" || group == "") {
		err = invalid("a thing and a %s are required, by name or ARN", kind)
	}
	return thing, group, err
}

func (a *api) addThingToThingGroup(_ *request, in struct {
	ThingName string `json:"thingName"`
	ThingARN  string `json:"thingArn"`
	GroupName string `json:"thingGroupName"`
	GroupARN  string `json:"thingGroupArn"`
	Override  bool   `json:"overrideDynamicGroups"` // there are none to override
}) (any, error) {
	thing, group, err := a.membership(in.ThingName, in.ThingARN, in.GroupName, in.GroupARN, "thinggroup")
	if err != nil {
		return nil, err
	}
	return object{}, a.Registry.AddThingToThingGroup(thing, group)
}

func (a *api) removeThingFromThingGroup(_ *request, in struct {
	ThingName string `json:"thingName"`
	ThingARN  string `json:"thingArn"`
	GroupName string `json:"thingGroupName"`
	GroupARN  string `json:"thingGroupArn"`
}) (any, error) {
	thing, group, err := a.membership(in.ThingName, in.ThingARN, in.GroupName, in.GroupARN, "thinggroup")
	if err != nil {
		return nil, err
	}
	return object{}, a.Registry.RemoveThingFromThingGroup(thing, group)
}

func (a *api) updateThingGroupsForThing(_ *request, in struct {
	Thing    string   `json:"thingName"`
	Add      []string `json:"thingGroupsToAdd"`
	Remove   []string `json:"thingGroupsToRemove"`
	Override bool     `json:"overrideDynamicGroups"` // there are none to override
}) (any, error) {
	return object{}, a.Registry.UpdateThingGroupsForThing(in.Thing, in.Add, in.Remove)
}

func (a *api) listThingGroupsForThing(q *request) (any, error) {
	groups, err := a.Registry.ListThingGroupsForThing(q.path("thingName"))
	if err != nil {
		return nil, err
	}
	return list(q, "thingGroups", groups, self, a.groupName)
}

func (a *api) listThingsInThingGroup(q *request) (any, error) {
	things, err := a.Registry.ListThingsInThingGroup(q.path("thingGroupName"), q.flag("recursive"))
	if err != nil {
		return nil, err
	}
	return names(q, "things", things)
}
