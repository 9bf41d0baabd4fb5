package controlapi

import "example.com/fleety/device/localcore/registry"

// thingTypeRequest describes a thing type. Only a creation has tags.
type thingTypeRequest struct {
	Properties struct {
		Description          string   `json:"thingTypeDescription"`
		SearchableAttributes []string `json:"searchableAttributes"`
		MQTT5                struct {
			Propagating []registry.PropagatingAttribute `json:"propagatingAttributes"`
		} `json:"mqtt5Configuration"`
	} `json:"thingTypeProperties"`
}

func (in thingTypeRequest) thingType(q *request) registry.NewThingType {
	return registry.NewThingType{
		Name: q.path("thingTypeName"), Description: in.Properties.Description,
		SearchableAttributes: in.Properties.SearchableAttributes, Propagating: in.Properties.MQTT5.Propagating,
	}
}

func (a *api) createThingType(q *request, in struct {
	thingTypeRequest
	Tags tags `json:"tags"`
}) (any, error) {
	n := in.thingType(q)
	t, err := tagged(a, in.Tags, "thingtype/"+n.Name, func() (registry.ThingType, error) { return a.Registry.CreateThingType(n) })
	if err != nil {
		return nil, err
	}
	return object{"thingTypeName": t.Name, "thingTypeArn": a.arn("thingtype/" + t.Name), "thingTypeId": t.ID}, nil
}

func (a *api) describeThingType(q *request) (any, error) {
	t, err := a.Registry.DescribeThingType(q.path("thingTypeName"))
	if err != nil {
		return nil, err
	}
	out := a.thingType(t)
	out["thingTypeId"] = t.ID
	return out, nil
}

// thingType returns what a description and a list have in common.
func (a *api) thingType(t registry.ThingType) object {
	properties := object{}.optional("thingTypeDescription", t.Description).optional("searchableAttributes", t.SearchableAttributes)
	if len(t.Propagating) > 0 {
		properties["mqtt5Configuration"] = object{"propagatingAttributes": t.Propagating}
	}
	metadata := object{"deprecated": t.Deprecated, "creationDate": epoch(t.Created)}
	if t.Deprecated {
		metadata["deprecationDate"] = epoch(t.DeprecatedAt)
	}
	return object{
		"thingTypeName": t.Name, "thingTypeArn": a.arn("thingtype/" + t.Name),
		"thingTypeProperties": properties, "thingTypeMetadata": metadata,
	}
}

func (a *api) updateThingType(q *request, in thingTypeRequest) (any, error) {
	return object{}, a.Registry.UpdateThingType(in.thingType(q))
}

func (a *api) deprecateThingType(q *request, in struct {
	Undo bool `json:"undoDeprecate"`
}) (any, error) {
	return object{}, a.Registry.DeprecateThingType(q.path("thingTypeName"), in.Undo)
}

func (a *api) deleteThingType(q *request) (any, error) {
	return object{}, a.Registry.DeleteThingType(q.path("thingTypeName"))
}

func (a *api) listThingTypes(q *request) (any, error) {
	return list(q, "thingTypes", a.Registry.ListThingTypes(q.query("thingTypeName")),
		func(t registry.ThingType) string { return t.Name }, a.thingType)
}
