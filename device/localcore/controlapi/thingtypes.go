package controlapi

import "example.com/fleety/device/localcore/registry"

type thingTypeProperties struct {
	Description          string   `json:"thingTypeDescription,omitempty"`
	SearchableAttributes []string `json:"searchableAttributes,omitempty"`
}

type thingTypeMetadata struct {
	Deprecated   bool  `json:"deprecated"`
	DeprecatedAt epoch `json:"deprecationDate,omitzero"`
	Created      epoch `json:"creationDate"`
}

type thingTypeDescription struct {
	Name       string              `json:"thingTypeName"`
	ID         string              `json:"thingTypeId,omitempty"`
	ARN        string              `json:"thingTypeArn"`
	Properties thingTypeProperties `json:"thingTypeProperties"`
	Metadata   thingTypeMetadata   `json:"thingTypeMetadata"`
}

// thingTypeOf reads the thing type that a request describes.
func thingTypeOf(q *request) (registry.NewThingType, error) {
	var in struct {
		Properties thingTypeProperties `json:"thingTypeProperties"`
	}
	err := q.decode(&in)
	return registry.NewThingType{
		Name:        q.path("thingTypeName"),
		Description: in.Properties.Description, SearchableAttributes: in.Properties.SearchableAttributes,
	}, err
}

func (a *api) createThingType(q *request) (any, error) {
	n, err := thingTypeOf(q)
	if err != nil {
		return nil, err
	}
	t, err := a.Registry.CreateThingType(n)
	if err != nil {
		return nil, err
	}
	return struct {
		Name string `json:"thingTypeName"`
		ARN  string `json:"thingTypeArn"`
		ID   string `json:"thingTypeId"`
	}{t.Name, a.names.thingType(t.Name), t.ID}, nil
}

func (a *api) describeThingType(q *request) (any, error) {
	t, err := a.Registry.DescribeThingType(q.path("thingTypeName"))
	if err != nil {
		return nil, err
	}
	return a.describe(t), nil
}

func (a *api) describe(t registry.ThingType) thingTypeDescription {
	return thingTypeDescription{
		Name: t.Name, ID: t.ID, ARN: a.names.thingType(t.Name),
		Properties: thingTypeProperties{t.Description, t.SearchableAttributes},
		Metadata:   thingTypeMetadata{t.Deprecated, epoch(t.DeprecatedAt), epoch(t.Created)},
	}
}

func (a *api) updateThingType(q *request) (any, error) {
	n, err := thingTypeOf(q)
	if err != nil {
		return nil, err
	}
	return empty{}, a.Registry.UpdateThingType(n)
}

func (a *api) deprecateThingType(q *request) (any, error) {
	var in struct {
		Undo bool `json:"undoDeprecate"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	return empty{}, a.Registry.DeprecateThingType(q.path("thingTypeName"), in.Undo)
}

func (a *api) deleteThingType(q *request) (any, error) {
	return empty{}, a.Registry.DeleteThingType(q.path("thingTypeName"))
}

func (a *api) listThingTypes(q *request) (any, error) {
	all := a.Registry.ListThingTypes(q.query("thingTypeName"))
	some, next, err := page(q, all, func(t registry.ThingType) string { return t.Name })
	if err != nil {
		return nil, err
	}
	return struct {
		ThingTypes []thingTypeDescription `json:"thingTypes"`
		NextToken  string                 `json:"nextToken,omitempty"`
	}{convert(some, a.describe), next}, nil
}
