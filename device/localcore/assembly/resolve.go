package assembly

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// An Environment is where a stack is deployed to.
type Environment struct{ Partition, Account, Region string }

// A place is where a value stands: the logical id of the resource and the way from there, as in Hook.Properties.Code.S3Key.
type place string

func (p place) field(name string) place { return p + "." + place(name) }
func (p place) index(i int) place       { return place(fmt.Sprintf("%s[%d]", p, i)) }

// A resolver turns the values of a template into plain ones. Its methods end by a panic with an
// error when they cannot; see [resolver.try].
type resolver struct {
	stack *Stack
	env   Environment
	names map[string]string // of resources, by logical id
	open  map[string]bool   // names that are being resolved
}

// A failure is what fail panics with.
type failure struct{ error }

func (r *resolver) fail(at place, format string, args ...any) {
	panic(failure{fmt.Errorf("%s: %s: %w", r.stack.file, at, fmt.Errorf(format, args...))})
}

// try runs resolve and returns the error that it ended with.
func (r *resolver) try(resolve func()) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case failure:
			err = p.error
			clear(r.open)
		default:
			panic(p)
		}
	}()
	resolve()
	return nil
}

// value resolves v and all that is in it.
func (r *resolver) value(at place, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, argument := range v {
			if strings.HasPrefix(name, "Fn::") || name == "Ref" && len(v) == 1 {
				if len(v) > 1 {
					r.fail(at, "%s stands beside other keys", name)
				}
				return r.value(at.field(name), r.call(at.field(name), name, argument))
			}
		}
		return r.object(at, v)
	case []any:
		resolved := make([]any, len(v))
		for i, item := range v {
			resolved[i] = r.value(at.index(i), item)
		}
		return resolved
	case string:
		if strings.Contains(v, "{{resolve:") {
			r.fail(at, "the dynamic reference in %q cannot be resolved without AWS", v)
		}
	}
	return v
}

func (r *resolver) object(at place, object map[string]any) map[string]any {
	resolved := make(map[string]any, len(object))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		resolved[key] = r.value(at.field(key), object[key])
	}
	return resolved
}

// text resolves what must be text in the end. Numbers and booleans are, too.
func (r *resolver) text(at place, v any) string {
	v = r.value(at, v)
	switch v.(type) {
	case string, json.Number, bool:
	default:
		r.fail(at, "must be text")
	}
	return fmt.Sprint(v)
}

// list resolves what must be a list in the end.
func (r *resolver) list(at place, v any) []any {
	list, ok := r.value(at, v).([]any)
	if !ok {
		r.fail(at, "must be a list")
	}
	return list
}

// constant returns a text that no function may give.
func (r *resolver) constant(at place, v any, what string) string {
	text, ok := v.(string)
	if !ok {
		r.fail(at, "must be %s", what)
	}
	return text
}

// arguments returns the two arguments of a function.
func (r *resolver) arguments(at place, v any) []any {
	list, ok := v.([]any)
	if !ok || len(list) != 2 {
		r.fail(at, "must be a list of 2")
	}
	return list
}

// add appends to the text of a function, unless it becomes longer than CloudFormation's limit on a
// whole template.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
func (r *resolver) add(at place, text *strings.Builder, part string) {
	const most = 1 << 20
	if text.Len()+len(part) > most {
		r.fail(at, "gives a text of more than %d bytes", most)
	}
	text.WriteString(part)
}

// call resolves an intrinsic function. at is the place of the function.
func (r *resolver) call(at place, name string, argument any) any {
	switch name {
	case "Ref":
		return r.ref(at, r.constant(at, argument, "a name"))
	case "Fn::GetAtt": // [ID, ATTRIBUTE] or "ID.ATTRIBUTE"
		if text, ok := argument.(string); ok {
			id, attribute, _ := strings.Cut(text, ".")
			return r.attribute(at, id, attribute)
		}
		list := r.arguments(at, argument)
		return r.attribute(at, r.constant(at.index(0), list[0], "a logical id"), r.text(at.index(1), list[1]))
	case "Fn::Join":
		list := r.arguments(at, argument)
		separator := r.constant(at.index(0), list[0], "text")
		var out strings.Builder
		for i, item := range r.list(at.index(1), list[1]) {
			if i > 0 {
				r.add(at, &out, separator)
			}
			r.add(at, &out, r.text(at.index(1).index(i), item))
		}
		return out.String()
	case "Fn::Sub": // TEXT or [TEXT, VARIABLES]
		if text, ok := argument.(string); ok {
			return r.substitute(at, text, nil)
		}
		list := r.arguments(at, argument)
		variables, ok := list[1].(map[string]any)
		if !ok {
			r.fail(at.index(1), "must be an object")
		}
		return r.substitute(at, r.constant(at.index(0), list[0], "text"), variables)
	case "Fn::Select":
		list := r.arguments(at, argument)
		number, items := r.text(at.index(0), list[0]), r.list(at.index(1), list[1])
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= len(items) {
			r.fail(at, "there is no item %q in a list of %d", number, len(items))
		}
		return items[i]
	case "Fn::Split":
		list := r.arguments(at, argument)
		separator := r.constant(at.index(0), list[0], "text")
		if separator == "" {
			r.fail(at.index(0), "must be text")
		}
		var parts []any
		for part := range strings.SplitSeq(r.text(at.index(1), list[1]), separator) {
			parts = append(parts, part)
		}
		return parts
	}
	r.fail(at, "the function %s cannot be resolved without AWS", name)
	return nil
}

// ref resolves the name of a pseudo parameter, a parameter or a resource.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/pseudo-parameter-reference.html
func (r *resolver) ref(at place, id string) any {
	switch id {
	case "AWS::Partition":
		return r.env.Partition
	case "AWS::Region":
		return r.env.Region
	case "AWS::AccountId":
		return r.env.Account
	case "AWS::URLSuffix":
		if strings.HasPrefix(r.env.Region, "cn-") {
			return "amazonaws.com.cn"
		}
		return "amazonaws.com"
	case "AWS::StackName":
		return r.stack.Name
	}
	if p, ok := r.stack.template.Parameters[id]; ok { // it has its default: nobody gives another value
		switch {
		case strings.HasPrefix(p.Type, "AWS::SSM::"):
			r.fail(at, "the value of parameter %s is stored in an AWS account", id)
		case p.Default == nil:
			r.fail(at, "parameter %s has no default", id)
		case p.Type == "CommaDelimitedList", strings.HasPrefix(p.Type, "List<"):
			r.fail(at, "parameter %s is a list, which is not emulated", id)
		}
		return r.text(place(id).field("Default"), p.Default)
	}
	res := r.resource(at, id)
	if _, known := kinds[res.Type]; !known {
		r.fail(at, "what Ref gives for %s, of type %s, is not known here", id, res.Type)
	}
	return r.name(at, id)
}

func (r *resolver) substitute(at place, text string, variables map[string]any) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		if r.add(at, &out, before); !found {
			return out.String()
		}
		name, after, closed := strings.Cut(rest, "}")
		literal, quoted := strings.CutPrefix(name, "!")
		v, own := variables[name]
		switch {
		case !closed:
			r.fail(at, "a ${ has no }")
		case quoted:
			r.add(at, &out, "${"+literal+"}")
		case own:
			r.add(at, &out, r.text(at.field(name), v))
		case strings.Contains(name, "."):
			r.add(at, &out, r.text(at, map[string]any{"Fn::GetAtt": name}))
		default:
			r.add(at, &out, r.text(at, map[string]any{"Ref": name}))
		}
		text = after
	}
}

// A kind is a type of resource whose name and ARN are known before it is deployed. Ref gives the
// name of each of these.
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
	typeTopicRule:            {"RuleName", "Arn", "arn:PARTITION:iot:REGION:ACCOUNT:rule/NAME"},
	typeFunction:             {"FunctionName", "Arn", "arn:PARTITION:lambda:REGION:ACCOUNT:function:NAME"},
	"AWS::IAM::Role":         {"RoleName", "Arn", "arn:PARTITION:iam::ACCOUNT:role/NAME"},
	"AWS::Logs::LogGroup":    {"LogGroupName", "Arn", "arn:PARTITION:logs:REGION:ACCOUNT:log-group:NAME:*"},
	"AWS::DynamoDB::Table":   {"TableName", "Arn", "arn:PARTITION:dynamodb:REGION:ACCOUNT:table/NAME"},
	"AWS::CloudWatch::Alarm": {"AlarmName", "Arn", "arn:PARTITION:cloudwatch:REGION:ACCOUNT:alarm:NAME"},
}

// resource returns a resource of the stack.
func (r *resolver) resource(at place, id string) resource {
	res, ok := r.stack.template.Resources[id]
	if !ok {
		r.fail(at, "the stack has no resource or parameter %q", id)
	}
	if res.Condition != "" {
		r.fail(place(id).field("Condition"), "whether condition %s holds cannot be resolved without AWS", res.Condition)
	}
	return res
}

// idsOf returns the logical ids of the resources of a type, sorted.
func (r *resolver) idsOf(kind string) (ids []string) {
	for _, id := range slices.Sorted(maps.Keys(r.stack.template.Resources)) {
		if r.stack.template.Resources[id].Type == kind {
			r.resource(place(id), id) // which may not have a condition
			ids = append(ids, id)
		}
	}
	return ids
}

// name returns the name of a resource of a known kind. Where the template leaves it to
// CloudFormation it is STACK-ID, without the random end that CloudFormation adds.
func (r *resolver) name(at place, id string) string {
	if name, ok := r.names[id]; ok {
		return name
	}
	if r.open[id] {
		r.fail(at, "the name of %s refers to itself", id)
	}
	r.open[id] = true
	defer delete(r.open, id)
	res := r.stack.template.Resources[id]
	name := r.stack.Name + "-" + id
	if res.Type == typeTopicRule { // whose names have no hyphens
		name = strings.ReplaceAll(r.stack.Name+"_"+id, "-", "_")
	}
	if property := kinds[res.Type].property; res.Properties[property] != nil {
		name = r.text(place(id).field("Properties").field(property), res.Properties[property])
	}
	r.names[id] = name
	return name
}

// attribute returns an attribute of a resource: of those that are known before a deployment, the
// ARN.
func (r *resolver) attribute(at place, id, attribute string) string {
	res := r.resource(at, id)
	kind, known := kinds[res.Type]
	if !known || attribute != kind.attribute {
		r.fail(at, "attribute %q of %s, of type %s, is not known before it is deployed", attribute, id, res.Type)
	}
	return strings.NewReplacer(
		"PARTITION", r.env.Partition, "REGION", r.env.Region, "ACCOUNT", r.env.Account, "NAME", r.name(at, id),
	).Replace(kind.arn)
}
