package assembly

import (
	"maps"
	"slices"
	"strings"
)

// An Environment is where a stack is deployed to.
type Environment struct{ Partition, Account, Region string }

// urlSuffix is the domain of the Region's endpoints.
func (e Environment) urlSuffix() string {
	if strings.HasPrefix(e.Region, "cn-") {
		return "amazonaws.com.cn"
	}
	return "amazonaws.com"
}

// A kind is a type of resource whose name and ARN are known before it is
// deployed. Ref gives the name of each of these.
type kind struct {
	property  string // that names the resource
	attribute string // of Fn::GetAtt that gives the ARN
	arn       string
}

var kinds = map[string]kind{
	typePolicy:               {"PolicyName", "Arn", "arn:PARTITION:iot:REGION:ACCOUNT:policy/NAME"},
	typeThingGroup:           {"ThingGroupName", "Arn", "arn:PARTITION:iot:REGION:ACCOUNT:thinggroup/NAME"},
	typeThingType:            {"ThingTypeName", "Arn", "arn:PARTITION:iot:REGION:ACCOUNT:thingtype/NAME"},
	typeTemplate:             {"TemplateName", "TemplateArn", "arn:PARTITION:iot:REGION:ACCOUNT:provisioningtemplate/NAME"},
	typeFunction:             {"FunctionName", "Arn", "arn:PARTITION:lambda:REGION:ACCOUNT:function:NAME"},
	"AWS::IAM::Role":         {"RoleName", "Arn", "arn:PARTITION:iam::ACCOUNT:role/NAME"},
	"AWS::Logs::LogGroup":    {"LogGroupName", "Arn", "arn:PARTITION:logs:REGION:ACCOUNT:log-group:NAME:*"},
	"AWS::DynamoDB::Table":   {"TableName", "Arn", "arn:PARTITION:dynamodb:REGION:ACCOUNT:table/NAME"},
	"AWS::CloudWatch::Alarm": {"AlarmName", "Arn", "arn:PARTITION:cloudwatch:REGION:ACCOUNT:alarm:NAME"},
}

// resource returns a resource that the stack has under its conditions.
func (r *resolver) resource(at place, id string) (resource, error) {
	res, ok := r.stack.template.Resources[id]
	if !ok {
		return res, at.fail("the stack has no resource or parameter %q", id)
	}
	if deployed, err := r.deployed(id, res); err != nil || deployed {
		return res, err
	}
	return res, at.fail("condition %s leaves %s out", res.Condition, id)
}

// deployed reports whether the resource's condition holds.
func (r *resolver) deployed(id string, res resource) (bool, error) {
	if res.Condition == "" {
		return true, nil
	}
	return r.condition(r.in(id).field("Condition"), res.Condition)
}

// deployedOf returns the logical ids of the deployed resources of a type,
// sorted.
func (r *resolver) deployedOf(kind string) (ids []string, err error) {
	for _, id := range slices.Sorted(maps.Keys(r.stack.template.Resources)) {
		res := r.stack.template.Resources[id]
		if res.Type != kind {
			continue
		}
		deployed, err := r.deployed(id, res)
		if err != nil {
			return nil, err
		}
		if deployed {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// name returns the name of a resource of a known kind. Where the template
// leaves it to CloudFormation it is STACK-ID, without the random end that
// CloudFormation adds.
func (r *resolver) name(at place, id string) (string, error) {
	if name, known := r.names[id]; known {
		return name, nil
	}
	res := r.stack.template.Resources[id]
	name := r.stack.Name + "-" + id
	if property := kinds[res.Type].property; res.Properties[property] != nil {
		err := r.once(at, "name of "+id, func() error {
			at := r.in(id).field("Properties").field(property)
			given, err := r.value(at, res.Properties[property])
			if given != (noValue{}) && err == nil {
				name, err = r.text(at, given)
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	r.names[id] = name
	return name, nil
}

// attribute returns an attribute of a resource: of those that are known
// before a deployment, the ARN.
func (r *resolver) attribute(at place, id, attribute string) (string, error) {
	res, err := r.resource(at, id)
	if err != nil {
		return "", err
	}
	kind, known := kinds[res.Type]
	if !known || attribute != kind.attribute {
		return "", at.fail("attribute %q of %s, of type %s, is not known before it is deployed", attribute, id, res.Type)
	}
	name, err := r.name(at, id)
	if err != nil {
		return "", err
	}
	return strings.NewReplacer(
		"PARTITION", r.env.Partition, "REGION", r.env.Region, "ACCOUNT", r.env.Account, "NAME", name,
	).Replace(kind.arn), nil
}
