package controlapi

import "example.com/fleety/device/localcore/registry"

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
	if err != nil {
		return nil, err
	}
	return object{"billingGroupName": name, "billingGroupArn": a.arn("billinggroup/" + name), "billingGroupId": g.ID}, nil
}

func (a *api) describeBillingGroup(q *request) (any, error) {
	g, err := a.Registry.DescribeBillingGroup(q.path("billingGroupName"))
	if err != nil {
		return nil, err
	}
	return object{
		"billingGroupName": g.Name, "billingGroupArn": a.arn("billinggroup/" + g.Name), "billingGroupId": g.ID, "version": g.Version,
		"billingGroupProperties": object{}.optional("billingGroupDescription", g.Description),
		"billingGroupMetadata":   object{"creationDate": epoch(g.Created)},
	}, nil
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

func (a *api) deleteBillingGroup(q *request) (any, error) {
	return object{}, a.Registry.DeleteBillingGroup(q.path("billingGroupName"), q.number("expectedVersion"))
}

func (a *api) listBillingGroups(q *request) (any, error) {
	return list(q, "billingGroups", a.Registry.ListBillingGroups(q.query("namePrefixFilter")),
		func(g registry.BillingGroup) string { return g.Name },
		func(g registry.BillingGroup) groupName { return groupName{g.Name, a.arn("billinggroup/" + g.Name)} })
}

// billingMembership says which thing and which billing group a request means.
type billingMembership struct {
	ThingName string `json:"thingName"`
	ThingARN  string `json:"thingArn"`
	GroupName string `json:"billingGroupName"`
	GroupARN  string `json:"billingGroupArn"`
}

func (a *api) addThingToBillingGroup(_ *request, in billingMembership) (any, error) {
	thing, group, err := a.membership(in.ThingName, in.ThingARN, in.GroupName, in.GroupARN, "billinggroup")
	if err != nil {
		return nil, err
	}
	return object{}, a.Registry.AddThingToBillingGroup(thing, group)
}

func (a *api) removeThingFromBillingGroup(_ *request, in billingMembership) (any, error) {
	thing, group, err := a.membership(in.ThingName, in.ThingARN, in.GroupName, in.GroupARN, "billinggroup")
	if err != nil {
		return nil, err
	}
	return object{}, a.Registry.RemoveThingFromBillingGroup(thing, group)
}

func (a *api) listThingsInBillingGroup(q *request) (any, error) {
	things, err := a.Registry.ListThingsInBillingGroup(q.path("billingGroupName"))
	if err != nil {
		return nil, err
	}
	return names(q, "things", things)
}
