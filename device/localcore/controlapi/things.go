package controlapi

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"example.com/fleety/device/localcore/registry"
)

func (a *api) createThing(name, kind, billingGroup string, payload registry.AttributeUpdate) (object, error) {
	t, err := a.Registry.CreateThing(registry.Thing{Name: name, Type: kind, BillingGroup: billingGroup, Attributes: payload.Attributes})
	return a.ref("thing", "thingName", t.Name).with(object{"thingId": t.ID}), err
}

// thing returns what a description and a list have in common.
func (a *api) thing(t registry.Thing) object {
	attributes := map[string]string{}
	maps.Copy(attributes, t.Attributes)
	return a.ref("thing", "thingName", t.Name).with(object{"attributes": attributes, "version": t.Version}).optional("thingTypeName", t.Type)
}

// listThings rejects the combinations that AWS rejects: a type and an attribute,
// in AWS's own words, and a value without an attribute.
func (a *api) listThings(attribute, attributeValue, kind string, prefix bool) ([]registry.Thing, error) {
	switch {
	case kind != "" && attribute != "":
		return nil, invalid("Listing things by the combination of attribute and thing type is not supported")
	case attribute == "" && (attributeValue != "" || prefix):
		return nil, invalid("attributeValue and usePrefixAttributeValue need attributeName")
	}
	return slices.DeleteFunc(a.Registry.ListThings(), func(t registry.Thing) bool {
		value, has := t.Attributes[attribute]
		matches := value == attributeValue || attributeValue == "" || prefix && strings.HasPrefix(value, attributeValue)
		return kind != "" && t.Type != kind || attribute != "" && !(has && matches)
	}), nil
}

// registerThing is RegisterThing over HTTPS. What the registry rejects, a
// missing group for instance, is a ResourceRegistrationFailureException.
func (a *api) registerThing(q *request, body string, parameters map[string]string) (object, error) {
	certificate, arns, err := a.Provisioning.RegisterThing(q.Context(), body, parameters)
	rejection, rejected := errors.AsType[*registry.Error](err)
	switch {
	case rejected && rejection.Code != registry.CodeInvalidRequest && rejection.Status < 500:
		return nil, registry.Reject(registry.CodeRegistrationFailure, "%s: %s", rejection.Code, rejection.Message)
	case err != nil:
		return nil, err
	}
	return object{"resourceArns": arns}.optional("certificatePem", certificate), nil
}

// thingTypeProperties is AWS's ThingTypeProperties.
type thingTypeProperties struct {
	Description          string `json:"thingTypeDescription"`
	SearchableAttributes []string
	MQTT5                struct {
		PropagatingAttributes []registry.PropagatingAttribute
	} `json:"mqtt5Configuration"`
}

func newThingType(name string, p thingTypeProperties) registry.ThingType {
	return registry.ThingType{
		Name: name, Description: p.Description, SearchableAttributes: slices.Sorted(slices.Values(p.SearchableAttributes)), Propagating: p.MQTT5.PropagatingAttributes,
	}
}

// thingType returns what a description and a list have in common.
func (a *api) thingType(t registry.ThingType) object {
	metadata := object{"deprecated": t.Deprecated, "creationDate": epoch(t.Created)}
	if t.Deprecated {
		metadata["deprecationDate"] = epoch(t.DeprecatedAt)
	}
	properties := object{}.optional("thingTypeDescription", t.Description).optional("searchableAttributes", t.SearchableAttributes)
	if len(t.Propagating) > 0 {
		properties["mqtt5Configuration"] = object{"propagatingAttributes": t.Propagating}
	}
	return a.ref("thingtype", "thingTypeName", t.Name).with(object{"thingTypeProperties": properties, "thingTypeMetadata": metadata})
}
