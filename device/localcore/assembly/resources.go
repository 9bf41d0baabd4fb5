package assembly

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"example.com/fleety/device/awsiot"
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
	typeTopicRule  = "AWS::IoT::TopicRule"
)

// Resources are what AWS IoT Core would get from a stack.
type Resources struct {
	Policies    []Policy
	Attachments []Attachment
	ThingGroups []ThingGroup
	ThingTypes  []ThingType
	Templates   []ProvisioningTemplate
	Rules       []TopicRule
	Functions   []*Function // those of the stack that its rules invoke
}

// The resources have the properties of CloudFormation's types.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/AWS_IoT.html
type (
	// A Policy is an AWS IoT policy.
	Policy struct {
		Name     string          `json:"PolicyName"`
		Document json.RawMessage `json:"PolicyDocument"`
	}
	// An Attachment gives a policy to a certificate, whose ARN is Principal.
	Attachment struct{ PolicyName, Principal string }
	// A ThingGroup is a static thing group.
	ThingGroup struct {
		Name       string `json:"ThingGroupName"`
		Parent     string `json:"ParentGroupName"`
		Properties struct {
			Description      string `json:"ThingGroupDescription"`
			AttributePayload struct{ Attributes map[string]string }
		} `json:"ThingGroupProperties"`
	}
	// A ThingType is a thing type.
	ThingType struct {
		Name       string `json:"ThingTypeName"`
		Properties struct {
			Description          string `json:"ThingTypeDescription"`
			SearchableAttributes []string
		} `json:"ThingTypeProperties"`
	}
	// A ProvisioningTemplate is a fleet provisioning template.
	ProvisioningTemplate struct {
		Name        string `json:"TemplateName"`
		Type        string `json:"TemplateType"`
		Description string
		Enabled     bool
		Body        string `json:"TemplateBody"`
		RoleARN     string `json:"ProvisioningRoleArn"`
		Hook        *Hook  `json:"PreProvisioningHook"`
	}
	// A Hook is a template's pre-provisioning hook.
	Hook struct {
		PayloadVersion string
		TargetARN      string    `json:"TargetArn"`
		Function       *Function `json:"-"` // that the ARN stands for
	}
	// A TopicRule is a topic rule. Payload has the members that CreateTopicRule takes, in
	// CloudFormation's letter case, which encoding/json passes over.
	TopicRule struct {
		Name    string          `json:"RuleName"`
		Payload json.RawMessage `json:"TopicRulePayload"`
	}
)

// Resolve returns the stack's resources as they would be in that environment. It is an error with
// its place when one is not known without AWS, or has a property that is not known here: it might
// change what a device may do.
func (s *Stack) Resolve(e Environment) (*Resources, error) {
	r := &resolver{stack: s, env: e, names: map[string]string{}, open: map[string]bool{}}
	all := new(Resources)
	err := errors.Join( // the error of one type hides none of another
		r.try(func() {
			if macros := s.template.Transform; macros != nil {
				r.fail("Transform", "what %v makes of the template is not known without AWS", macros)
			}
		}),
		resolveAll(r, typePolicy, &all.Policies),
		resolveAll(r, typeAttachment, &all.Attachments),
		resolveAll(r, typeThingGroup, &all.ThingGroups),
		resolveAll(r, typeThingType, &all.ThingTypes),
		resolveAll(r, typeTemplate, &all.Templates),
		resolveAll(r, typeTopicRule, &all.Rules),
	)
	if err == nil {
		err = r.try(func() {
			for _, id := range r.idsOf(typeTopicRule) {
				all.Functions = append(all.Functions, r.invoked(id)...)
			}
			for i, id := range r.idsOf(typeTemplate) {
				hook, at := all.Templates[i].Hook, place(id).field("Properties").field("PreProvisioningHook").field("TargetArn")
				if hook == nil {
					continue
				}
				if hook.Function = r.functionOf(at, hook.TargetARN); hook.Function == nil {
					r.fail(at, "%s is no function of this stack", hook.TargetARN)
				}
				r.checkPermission(id, hook.Function, "AWS IoT would deny every device")
			}
		})
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// resolveAll adds the resources of a type, all of whose properties must be known, to a
// list. CloudFormation names those that nobody else named.
func resolveAll[T any](r *resolver, kind string, list *[]T) error {
	return r.try(func() {
		for _, id := range r.idsOf(kind) {
			properties := map[string]any{}
			maps.Copy(properties, r.stack.template.Resources[id].Properties)
			delete(properties, "Tags") // for people and bills
			if k, named := kinds[kind]; named {
				properties[k.property] = r.name(place(id), id)
			}
			var item T
			r.decode(place(id).field("Properties"), properties, &item)
			*list = append(*list, item)
		}
	})
}

// decode resolves properties and reads them into a struct that has them all.
func (r *resolver) decode(at place, properties map[string]any, into any) {
	var known any
	resolved := r.object(at, properties)
	if err := json.Unmarshal(awsiot.EncodeJSON(resolved), into); err != nil {
		r.fail(at, "%s", err)
	}
	_ = json.Unmarshal(awsiot.EncodeJSON(into), &known) // what was just written
	r.checkMembers(at, resolved, known)
}

// checkMembers rejects, as CloudFormation does, what is not known letter for letter: encoding/json
// passes over other members, and takes those in another letter case.
func (r *resolver) checkMembers(at place, given, known any) {
	switch given := given.(type) {
	case []any:
		for i, item := range known.([]any) {
			r.checkMembers(at.index(i), given[i], item)
		}
	case map[string]any:
		known := known.(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(given)) {
			if member, ok := known[name]; ok {
				r.checkMembers(at.field(name), given[name], member)
				continue
			}
			for right := range known {
				if strings.EqualFold(right, name) {
					r.fail(at.field(name), "unsupported property; it is spelled %s", right)
				}
			}
			r.fail(at.field(name), "unsupported property: CloudFormation does not know it, or it is not emulated")
		}
	}
}
