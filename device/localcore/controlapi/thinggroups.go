package controlapi

import "example.com/fleety/device/localcore/registry"

const (
	thingResource      = "thing/"
	thingGroupResource = "thinggroup/"
)

// thingGroupProperties is AWS's ThingGroupProperties; nil leaves a part alone.
type thingGroupProperties struct {
	Description *string           `json:"thingGroupDescription,omitempty"`
	Attributes  *attributePayload `json:"attributePayload,omitempty"`
}

type groupName struct {
	Name string `json:"groupName"`
	ARN  string `json:"groupArn"`
}

func (a *api) groupName(name string) groupName { return groupName{name, a.names.thingGroup(name)} }

func (a *api) createThingGroup(q *request) (any, error) {
	var in struct {
		Parent     string               `json:"parentGroupName"`
		Properties thingGroupProperties `json:"thingGroupProperties"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	n := registry.NewThingGroup{
		Name: q.path("thingGroupName"), Parent: in.Parent, Attributes: in.Properties.Attributes.attributes(),
	}
	if in.Properties.Description != nil {
		n.Description = *in.Properties.Description
	}
	g, err := a.Registry.CreateThingGroup(n)
	if err != nil {
		return nil, err
	}
	return struct {
		Name string `json:"thingGroupName"`
		ARN  string `json:"thingGroupArn"`
		ID   string `json:"thingGroupId"`
	}{g.Name, a.names.thingGroup(g.Name), g.ID}, nil
}

type thingGroupMetadata struct {
	Parent    string      `json:"parentGroupName,omitempty"`
	Ancestors []groupName `json:"rootToParentThingGroups"`
	Created   epoch       `json:"creationDate"`
}

type thingGroupDescription struct {
	Name       string               `json:"thingGroupName"`
	ID         string               `json:"thingGroupId"`
	ARN        string               `json:"thingGroupArn"`
	Version    int64                `json:"version"`
	Properties thingGroupProperties `json:"thingGroupProperties"`
	Metadata   thingGroupMetadata   `json:"thingGroupMetadata"`
}

func (a *api) describeThingGroup(q *request) (any, error) {
	g, ancestors, err := a.Registry.DescribeThingGroup(q.path("thingGroupName"))
	if err != nil {
		return nil, err
	}
	return thingGroupDescription{
		Name: g.Name, ID: g.ID, ARN: a.names.thingGroup(g.Name), Version: g.Version,
		Properties: thingGroupProperties{&g.Description, &attributePayload{Attributes: notNil(g.Attributes)}},
		Metadata:   thingGroupMetadata{g.Parent, convert(ancestors, a.groupName), epoch(g.Created)},
	}, nil
}

func (a *api) updateThingGroup(q *request) (any, error) {
	var in struct {
		Properties      thingGroupProperties `json:"thingGroupProperties"`
		ExpectedVersion int64                `json:"expectedVersion"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	version, err := a.Registry.UpdateThingGroup(registry.ThingGroupUpdate{
		Name: q.path("thingGroupName"), Description: in.Properties.Description,
		Attributes: in.Properties.Attributes.update(), ExpectedVersion: in.ExpectedVersion,
	})
	if err != nil {
		return nil, err
	}
	return struct {
		Version int64 `json:"version"`
	}{version}, nil
}

func (a *api) deleteThingGroup(q *request) (any, error) {
	return empty{}, a.Registry.DeleteThingGroup(q.path("thingGroupName"), q.number("expectedVersion"))
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
	return a.groupPage(q, convert(all, func(g registry.ThingGroup) string { return g.Name }))
}

// groupPage answers with a page of groups, given by their names.
func (a *api) groupPage(q *request, names []string) (any, error) {
	some, next, err := page(q, names, self)
	if err != nil {
		return nil, err
	}
	return struct {
		ThingGroups []groupName `json:"thingGroups"`
		NextToken   string      `json:"nextToken,omitempty"`
	}{convert(some, a.groupName), next}, nil
}

// membership reads which thing and which group a request means, each by name
// or by ARN.
func (a *api) membership(q *request) (thing, group string, err error) {
	var in struct {
		ThingName string `json:"thingName"`
		ThingARN  string `json:"thingArn"`
		GroupName string `json:"thingGroupName"`
		GroupARN  string `json:"thingGroupArn"`
	}
	if err := q.decode(&in); err != nil {
		return "", "", err
	}
	if thing, err = a.names.named(in.ThingName, in.ThingARN, thingResource); err != nil {
		return "", "", err
	}
	group, err = a.names.named(in.GroupName, in.GroupARN, thingGroupResource)
	if err == nil && (thing == "" || group == "") {
		err = invalid("a thing and a thing group are required, by name or ARN")
	}
	return thing, group, err
}

func (a *api) addThingToThingGroup(q *request) (any, error) {
	thing, group, err := a.membership(q)
	if err != nil {
		return nil, err
	}
	return empty{}, a.Registry.AddThingToThingGroup(thing, group)
}

func (a *api) removeThingFromThingGroup(q *request) (any, error) {
	thing, group, err := a.membership(q)
	if err != nil {
		return nil, err
	}
	return empty{}, a.Registry.RemoveThingFromThingGroup(thing, group)
}

func (a *api) updateThingGroupsForThing(q *request) (any, error) {
	var in struct {
		Thing  string   `json:"thingName"`
		Add    []string `json:"thingGroupsToAdd"`
		Remove []string `json:"thingGroupsToRemove"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	return empty{}, a.Registry.UpdateThingGroupsForThing(in.Thing, in.Add, in.Remove)
}

func (a *api) listThingGroupsForThing(q *request) (any, error) {
	names, err := a.Registry.ListThingGroupsForThing(q.path("thingName"))
	if err != nil {
		return nil, err
	}
	return a.groupPage(q, names)
}

func (a *api) listThingsInThingGroup(q *request) (any, error) {
	names, err := a.Registry.ListThingsInThingGroup(q.path("thingGroupName"), q.flag("recursive"))
	if err != nil {
		return nil, err
	}
	return thingPage(q, names)
}

// thingPage answers with a page of names of things.
func thingPage(q *request, names []string) (any, error) {
	some, next, err := page(q, names, self)
	if err != nil {
		return nil, err
	}
	return struct {
		Things    []string `json:"things"`
		NextToken string   `json:"nextToken,omitempty"`
	}{some, next}, nil
}
