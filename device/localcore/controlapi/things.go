package controlapi

import (
	"cmp"
	"errors"

	"example.com/fleety/device/localcore/registry"
)

// attributePayload is AWS's AttributePayload.
type attributePayload struct {
	Attributes map[string]string `json:"attributes"`
	Merge      bool              `json:"merge"`
}

// attributes returns the attributes of a new resource.
func (p *attributePayload) attributes() map[string]string {
	return cmp.Or(p, &attributePayload{}).Attributes
}

func (a *api) createThing(q *request, in struct {
	TypeName     string            `json:"thingTypeName"`
	BillingGroup string            `json:"billingGroupName"`
	Attributes   *attributePayload `json:"attributePayload"`
}) (any, error) {
	t, err := a.Registry.CreateThing(registry.NewThing{
		Name: q.path("thingName"), Type: in.TypeName, BillingGroup: in.BillingGroup, Attributes: in.Attributes.attributes(),
	})
	return object{"thingName": t.Name, "thingArn": a.arn("thing/" + t.Name), "thingId": t.ID}, err
}

// thing returns what a description and a list have in common.
func (a *api) thing(t registry.Thing) object {
	attributes := t.Attributes
	if attributes == nil {
		attributes = map[string]string{}
	}
	return object{"thingName": t.Name, "thingArn": a.arn("thing/" + t.Name), "attributes": attributes, "version": t.Version}.
		optional("thingTypeName", t.Type)
}

func (a *api) describeThing(q *request) (any, error) {
	t, err := a.Registry.DescribeThing(q.path("thingName"))
	out := a.thing(t).optional("billingGroupName", t.BillingGroup)
	out["thingId"], out["defaultClientId"] = t.ID, t.Name
	return out, err
}

func (a *api) updateThing(q *request, in struct {
	TypeName        string            `json:"thingTypeName"`
	RemoveType      bool              `json:"removeThingType"`
	Attributes      *attributePayload `json:"attributePayload"`
	ExpectedVersion int64             `json:"expectedVersion"`
}) (any, error) {
	return object{}, a.Registry.UpdateThing(registry.ThingUpdate{
		Name: q.path("thingName"), Type: in.TypeName, RemoveType: in.RemoveType,
		Attributes: (*registry.AttributeUpdate)(in.Attributes), ExpectedVersion: in.ExpectedVersion,
	})
}

// listThings rejects the combinations that AWS rejects: a type and an attribute,
// in AWS's own words, and a value without an attribute.
func (a *api) listThings(q *request) (any, error) {
	f := registry.ThingFilter{
		Type:          q.query("thingTypeName"),
		AttributeName: q.query("attributeName"), AttributeValue: q.query("attributeValue"),
		ValuePrefix: q.flag("usePrefixAttributeValue"),
	}
	switch {
	case f.Type != "" && f.AttributeName != "":
		return nil, invalid("Listing things by the combination of attribute and thing type is not supported")
	case f.AttributeName == "" && (f.AttributeValue != "" || f.ValuePrefix):
		return nil, invalid("attributeValue and usePrefixAttributeValue need attributeName")
	}
	return list(q, "things", a.Registry.ListThings(f), func(t registry.Thing) string { return t.Name }, a.thing)
}

// Limits of the parameters of RegisterThing, in bytes.
const (
	maxParameterName  = 2048
	maxParameterValue = 4096
)

// registerThing is RegisterThing over HTTPS. What the registry rejects, a
// missing group for instance, is a ResourceRegistrationFailureException.
func (a *api) registerThing(q *request, in struct {
	Body       string            `json:"templateBody"`
	Parameters map[string]string `json:"parameters"`
}) (any, error) {
	if in.Body == "" {
		return nil, invalid("a template body is required")
	}
	for name, value := range in.Parameters {
		if len(name) > maxParameterName || len(value) > maxParameterValue {
			return nil, invalid("parameter %q: names have at most %d characters, values %d", clip(name), maxParameterName, maxParameterValue)
		}
	}
	done, err := a.Registrar.RegisterThing(q.Context(), in.Body, in.Parameters)
	rejection, rejected := errors.AsType[*registry.Error](err)
	switch {
	case rejected && rejection.Code != registry.CodeInvalidRequest && rejection.Status < 500:
		return nil, registry.Reject(registry.CodeRegistrationFailure, "%s: %s", rejection.Code, rejection.Message)
	case err != nil:
		return nil, err
	}
	return object{"resourceArns": done.ResourceARNs}.optional("certificatePem", done.CertificatePEM), nil
}

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
	return object{"thingTypeName": t.Name, "thingTypeArn": a.arn("thingtype/" + t.Name), "thingTypeId": t.ID}, err
}

func (a *api) describeThingType(q *request) (any, error) {
	t, err := a.Registry.DescribeThingType(q.path("thingTypeName"))
	out := a.thingType(t)
	out["thingTypeId"] = t.ID
	return out, err
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
