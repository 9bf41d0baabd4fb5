package controlapi

import (
	"example.com/fleety/device/localcore/registry"
)

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
	return object{"thingGroupName": g.Name, "thingGroupArn": a.arn("thinggroup/" + g.Name), "thingGroupId": g.ID}, err
}

func (a *api) describeThingGroup(q *request) (any, error) {
	g, ancestors, err := a.Registry.DescribeThingGroup(q.path("thingGroupName"))
	properties := object{}.optional("thingGroupDescription", g.Description)
	if len(g.Attributes) > 0 {
		properties["attributePayload"] = object{"attributes": g.Attributes}
	}
	return object{
		"thingGroupName": g.Name, "thingGroupId": g.ID, "thingGroupArn": a.arn("thinggroup/" + g.Name), "version": g.Version,
		"thingGroupProperties": properties,
		"thingGroupMetadata": object{"creationDate": epoch(g.Created)}.optional("parentGroupName", g.Parent).
			optional("rootToParentThingGroups", convert(ancestors, a.groupName)),
	}, err
}

func (a *api) updateThingGroup(q *request, in struct {
	Properties      thingGroupProperties `json:"thingGroupProperties"`
	ExpectedVersion int64                `json:"expectedVersion"`
}) (any, error) {
	version, err := a.Registry.UpdateThingGroup(registry.ThingGroupUpdate{
		Name: q.path("thingGroupName"), Description: in.Properties.Description,
		Attributes: (*registry.AttributeUpdate)(in.Properties.Attributes), ExpectedVersion: in.ExpectedVersion,
	})
	return object{"version": version}, err
}

func (a *api) listThingGroups(q *request) (any, error) {
	f := registry.ThingGroupFilter{
		NamePrefix: q.query("namePrefixFilter"),
		Parent:     q.query("parentGroup"),
		// The documentation gives no default; the whole tree is our choice.
		Recursive: q.query("recursive") != "false",
	}
	return listOf(q, "thingGroups", func(g registry.ThingGroup) string { return g.Name },
		func(g registry.ThingGroup) groupName { return a.groupName(g.Name) })(a.Registry.ListThingGroups(f))
}

// A membership is a request that names a thing and a group, each by name or ARN.
type membership interface {
	// names returns name and ARN of the thing and of the group, whose kind is
	// that of its ARN.
	names() (thing, thingARN, group, groupARN, kind string)
}

type thingAndGroup struct {
	Thing    string `json:"thingName"`
	ThingARN string `json:"thingArn"`
	Group    string `json:"thingGroupName"`
	GroupARN string `json:"thingGroupArn"`
}

func (m thingAndGroup) names() (thing, thingARN, group, groupARN, kind string) {
	return m.Thing, m.ThingARN, m.Group, m.GroupARN, "thinggroup"
}

// An addition may override dynamic groups, of which there are none.
type addition struct {
	thingAndGroup
	Override bool `json:"overrideDynamicGroups"`
}

type thingAndBillingGroup struct {
	Thing    string `json:"thingName"`
	ThingARN string `json:"thingArn"`
	Group    string `json:"billingGroupName"`
	GroupARN string `json:"billingGroupArn"`
}

func (m thingAndBillingGroup) names() (thing, thingARN, group, groupARN, kind string) {
	return m.Thing, m.ThingARN, m.Group, m.GroupARN, "billinggroup"
}

// change returns an operation that adds a thing to a group or removes it.
func change[M membership](a *api, change func(thing, group string) error) func(*request) (any, error) {
	return with(func(_ *request, in M) (any, error) {
		thing, thingARN, group, groupARN, kind := in.names()
		thing, err := a.named(thing, thingARN, "thing")
		if err != nil {
			return nil, err
		}
		if group, err = a.named(group, groupARN, kind); err != nil {
			return nil, err
		}
		if thing == "" || group == "" {
			return nil, invalid("a thing and a %s are required, by name or ARN", kind)
		}
		return object{}, change(thing, group)
	})
}

func (a *api) updateThingGroupsForThing(_ *request, in struct {
	Thing    string   `json:"thingName"`
	Add      []string `json:"thingGroupsToAdd"`
	Remove   []string `json:"thingGroupsToRemove"`
	Override bool     `json:"overrideDynamicGroups"` // there are none to override
}) (any, error) {
	return object{}, a.Registry.UpdateThingGroupsForThing(in.Thing, in.Add, in.Remove)
}

func (a *api) createBillingGroup(q *request, in struct {
	Properties struct {
		Description string `json:"billingGroupDescription"`
	} `json:"billingGroupProperties"`
	Tags tags `json:"tags"`
}) (any, error) {
	name := q.path("billingGroupName")
	g, err := tagged(a, in.Tags, "billinggroup/"+name, func() (registry.BillingGroup, error) {
		return a.Registry.CreateBillingGroup(name, in.Properties.Description)
	})
	return object{"billingGroupName": name, "billingGroupArn": a.arn("billinggroup/" + name), "billingGroupId": g.ID}, err
}

func (a *api) describeBillingGroup(q *request) (any, error) {
	g, err := a.Registry.DescribeBillingGroup(q.path("billingGroupName"))
	return object{
		"billingGroupName": g.Name, "billingGroupArn": a.arn("billinggroup/" + g.Name), "billingGroupId": g.ID, "version": g.Version,
		"billingGroupProperties": object{}.optional("billingGroupDescription", g.Description),
		"billingGroupMetadata":   object{"creationDate": epoch(g.Created)},
	}, err
}

func (a *api) updateBillingGroup(q *request, in struct {
	Properties struct {
		Description *string `json:"billingGroupDescription"`
	} `json:"billingGroupProperties"`
	ExpectedVersion int64 `json:"expectedVersion"`
}) (any, error) {
	version, err := a.Registry.UpdateBillingGroup(q.path("billingGroupName"), in.Properties.Description, in.ExpectedVersion)
	return object{"version": version}, err
}

func (a *api) listBillingGroups(q *request) (any, error) {
	return list(q, "billingGroups", a.Registry.ListBillingGroups(q.query("namePrefixFilter")),
		func(g registry.BillingGroup) string { return g.Name },
		func(g registry.BillingGroup) groupName { return groupName{g.Name, a.arn("billinggroup/" + g.Name)} })
}
