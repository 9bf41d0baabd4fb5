package controlapi

import "example.com/fleety/device/localcore/registry"

// attributePayload is AWS's AttributePayload.
type attributePayload struct {
	Attributes map[string]string `json:"attributes"`
	Merge      bool              `json:"merge,omitempty"`
}

// update returns the change that a payload asks for, nil for no payload.
func (p *attributePayload) update() *registry.AttributeUpdate {
	if p == nil {
		return nil
	}
	return &registry.AttributeUpdate{Attributes: p.Attributes, Merge: p.Merge}
}

// attributes returns the attributes of a new resource.
func (p *attributePayload) attributes() map[string]string {
	if p == nil {
		return nil
	}
	return p.Attributes
}

type thingCreated struct {
	Name string `json:"thingName"`
	ARN  string `json:"thingArn"`
	ID   string `json:"thingId"`
}

func (a *api) createThing(q *request) (any, error) {
	var in struct {
		TypeName     string            `json:"thingTypeName"`
		BillingGroup string            `json:"billingGroupName"`
		Attributes   *attributePayload `json:"attributePayload"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	t, err := a.Registry.CreateThing(registry.NewThing{
		Name: q.path("thingName"), Type: in.TypeName, BillingGroup: in.BillingGroup, Attributes: in.Attributes.attributes(),
	})
	if err != nil {
		return nil, err
	}
	return thingCreated{t.Name, a.names.thing(t.Name), t.ID}, nil
}

type thingDescription struct {
	Name            string            `json:"thingName"`
	ARN             string            `json:"thingArn"`
	ID              string            `json:"thingId"`
	DefaultClientID string            `json:"defaultClientId"`
	Type            string            `json:"thingTypeName,omitempty"`
	BillingGroup    string            `json:"billingGroupName,omitempty"`
	Attributes      map[string]string `json:"attributes"`
	Version         int64             `json:"version"`
}

func (a *api) describeThing(q *request) (any, error) {
	t, err := a.Registry.DescribeThing(q.path("thingName"))
	if err != nil {
		return nil, err
	}
	return thingDescription{
		Name: t.Name, ARN: a.names.thing(t.Name), ID: t.ID, DefaultClientID: t.Name, Type: t.Type,
		BillingGroup: t.BillingGroup, Attributes: notNil(t.Attributes), Version: t.Version,
	}, nil
}

// notNil makes JSON have an empty object where there are no attributes.
func notNil(attributes map[string]string) map[string]string {
	if attributes == nil {
		return map[string]string{}
	}
	return attributes
}

func (a *api) updateThing(q *request) (any, error) {
	var in struct {
		TypeName        string            `json:"thingTypeName"`
		RemoveType      bool              `json:"removeThingType"`
		Attributes      *attributePayload `json:"attributePayload"`
		ExpectedVersion int64             `json:"expectedVersion"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	return empty{}, a.Registry.UpdateThing(registry.ThingUpdate{
		Name: q.path("thingName"), Type: in.TypeName, RemoveType: in.RemoveType,
		Attributes: in.Attributes.update(), ExpectedVersion: in.ExpectedVersion,
	})
}

// empty is the answer of an operation that has nothing to tell.
type empty struct{}

func (a *api) deleteThing(q *request) (any, error) {
	return empty{}, a.Registry.DeleteThing(q.path("thingName"), q.number("expectedVersion"))
}

type thingSummary struct {
	Name       string            `json:"thingName"`
	ARN        string            `json:"thingArn"`
	Type       string            `json:"thingTypeName,omitempty"`
	Attributes map[string]string `json:"attributes"`
	Version    int64             `json:"version"`
}

func (a *api) listThings(q *request) (any, error) {
	all := a.Registry.ListThings(registry.ThingFilter{
		Type:          q.query("thingTypeName"),
		AttributeName: q.query("attributeName"), AttributeValue: q.query("attributeValue"),
		ValuePrefix: q.flag("usePrefixAttributeValue"),
	})
	some, next, err := page(q, all, func(t registry.Thing) string { return t.Name })
	if err != nil {
		return nil, err
	}
	return struct {
		Things    []thingSummary `json:"things"`
		NextToken string         `json:"nextToken,omitempty"`
	}{
		convert(some, func(t registry.Thing) thingSummary {
			return thingSummary{t.Name, a.names.thing(t.Name), t.Type, notNil(t.Attributes), t.Version}
		}), next,
	}, nil
}
