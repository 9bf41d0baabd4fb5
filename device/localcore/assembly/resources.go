package assembly

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
)

// The types of resources that provisioning consists of.
const (
	typePolicy     = "AWS::IoT::Policy"
	typeAttachment = "AWS::IoT::PolicyPrincipalAttachment"
	typeThingGroup = "AWS::IoT::ThingGroup"
	typeThingType  = "AWS::IoT::ThingType"
	typeTemplate   = "AWS::IoT::ProvisioningTemplate"
	typeFunction   = "AWS::Lambda::Function"
	typePermission = "AWS::Lambda::Permission"
)

// Resources are what AWS IoT Core would get from a stack.
type Resources struct {
	Policies    []Policy
	Attachments []Attachment
	ThingGroups []ThingGroup
	ThingTypes  []ThingType
	Templates   []ProvisioningTemplate
}

// A Policy is an AWS IoT policy.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-iot-policy.html
type Policy struct {
	Name     string          `json:"PolicyName"`
	Document json.RawMessage `json:"PolicyDocument"`
}

// An Attachment gives a policy to a certificate.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-iot-policyprincipalattachment.html
type Attachment struct {
	PolicyName string
	// Principal is the certificate's ARN.
	Principal string
}

// A ThingGroup is a static thing group.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-iot-thinggroup.html
type ThingGroup struct {
	Name       string `json:"ThingGroupName"`
	Parent     string `json:"ParentGroupName"`
	Properties struct {
		Description      string `json:"ThingGroupDescription"`
		AttributePayload struct{ Attributes map[string]string }
	} `json:"ThingGroupProperties"`
}

// A ThingType is a thing type.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-iot-thingtype.html
type ThingType struct {
	Name       string `json:"ThingTypeName"`
	Properties struct {
		Description          string `json:"ThingTypeDescription"`
		SearchableAttributes []string
	} `json:"ThingTypeProperties"`
}

// A ProvisioningTemplate is a fleet provisioning template.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-iot-provisioningtemplate.html
type ProvisioningTemplate struct {
	Name        string `json:"TemplateName"`
	Type        string `json:"TemplateType"`
	Description string
	Enabled     bool
	Body        string `json:"TemplateBody"`
	RoleARN     string `json:"ProvisioningRoleArn"`
	Hook        *Hook  `json:"PreProvisioningHook"`
}

// Resolve returns the stack's resources as they would be in that environment.
// It is an error with its place when one is not known without AWS, or has a property
// that is not known here: it might change what a device may do.
func (s *Stack) Resolve(e Environment) (*Resources, error) {
	r := newResolver(s, e)
	all := new(Resources)
	if err := errors.Join(
		addAll(r, typePolicy, &all.Policies),
		addAll(r, typeAttachment, &all.Attachments),
		addAll(r, typeThingGroup, &all.ThingGroups),
		addAll(r, typeThingType, &all.ThingTypes),
		addAll(r, typeTemplate, &all.Templates),
	); err != nil {
		return nil, err
	}
	if err := r.findHooks(all.Templates); err != nil {
		return nil, err
	}
	return all, nil
}

// addAll adds the deployed resources of a type, all of whose properties must
// be known. CloudFormation names those that nobody else named.
func addAll[T any](r *resolver, kind string, list *[]T) error {
	ids, err := r.deployedOf(kind)
	if err != nil {
		return err
	}
	for _, id := range ids {
		properties := map[string]any{}
		maps.Copy(properties, r.stack.template.Resources[id].Properties)
		delete(properties, "Tags") // for people and bills
		if k, named := kinds[kind]; named {
			if properties[k.property], err = r.name(r.in(id), id); err != nil {
				return err
			}
		}
		var item T
		if err := r.decode(r.in(id).field("Properties"), properties, &item); err != nil {
			return err
		}
		*list = append(*list, item)
	}
	return nil
}

// decode resolves properties and reads them into a struct that has them all.
func (r *resolver) decode(at place, properties map[string]any, into any) error {
	resolved, err := r.object(at, properties)
	if err != nil {
		return err
	}
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(resolved); err != nil {
		return at.wrap(err)
	}
	decoder := json.NewDecoder(&data)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return at.fail("%s", err)
	}
	return nil
}
