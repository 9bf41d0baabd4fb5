package assembly

import (
	"strconv"
	"strings"
)

// call resolves an intrinsic function. at is the place of the function.
func (r *resolver) call(at place, name string, argument any) (any, error) {
	switch name {
	case "Ref":
		id, ok := argument.(string)
		if !ok {
			return nil, at.fail("must be a name")
		}
		return r.ref(at, id)
	case "Fn::GetAtt":
		return r.getAtt(at, argument)
	case "Fn::Join":
		return r.join(at, argument)
	case "Fn::Sub":
		return r.sub(at, argument)
	case "Fn::Select":
		return r.choose(at, argument)
	case "Fn::Split":
		return r.split(at, argument)
	case "Fn::FindInMap":
		return r.findInMap(at, argument)
	case "Fn::If":
		return r.branch(at, argument)
	}
	return nil, at.fail("the function %s cannot be resolved without AWS", name)
}

// ref resolves the name of a pseudo parameter, a parameter or a resource.
//
// AWS page: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/pseudo-parameter-reference.html
func (r *resolver) ref(at place, id string) (any, error) {
	switch id {
	case "AWS::Partition":
		return r.env.Partition, nil
	case "AWS::Region":
		return r.env.Region, nil
	case "AWS::AccountId":
		return r.env.Account, nil
	case "AWS::URLSuffix":
		return r.env.urlSuffix(), nil
	case "AWS::StackName":
		return r.stack.Name, nil
	case "AWS::NoValue":
		return noValue{}, nil
	}
	if p, ok := r.stack.template.Parameters[id]; ok {
		return r.parameter(at, id, p)
	}
	res, err := r.resource(at, id)
	if err != nil {
		return nil, err
	}
	if _, known := kinds[res.Type]; !known {
		return nil, at.fail("what Ref gives for %s, of type %s, is not known here", id, res.Type)
	}
	return r.name(at, id)
}

// parameter returns a parameter's default: nobody gives another value.
func (r *resolver) parameter(at place, id string, p parameter) (any, error) {
	if strings.HasPrefix(p.Type, "AWS::SSM::") {
		return nil, at.fail("the value of parameter %s is stored in an AWS account", id)
	}
	if p.Default == nil {
		return nil, at.fail("parameter %s has no default", id)
	}
	text, err := r.text(r.in(id).field("Default"), p.Default)
	if err != nil || p.Type != "CommaDelimitedList" && !strings.HasPrefix(p.Type, "List<") {
		return text, err
	}
	var list []any
	for item := range strings.SplitSeq(text, ",") {
		list = append(list, strings.TrimSpace(item))
	}
	return list, nil
}

// getAtt takes [ID, ATTRIBUTE] or "ID.ATTRIBUTE".
func (r *resolver) getAtt(at place, argument any) (any, error) {
	if text, ok := argument.(string); ok {
		id, attribute, _ := strings.Cut(text, ".")
		return r.attribute(at, id, attribute)
	}
	list, err := arguments(at, argument, 2)
	if err != nil {
		return nil, err
	}
	id, ok := list[0].(string)
	if !ok {
		return nil, at.index(0).fail("must be a logical id")
	}
	attribute, err := r.text(at.index(1), list[1])
	if err != nil {
		return nil, err
	}
	return r.attribute(at, id, attribute)
}

func (r *resolver) join(at place, argument any) (any, error) {
	list, err := arguments(at, argument, 2)
	if err != nil {
		return nil, err
	}
	separator, ok := list[0].(string)
	if !ok {
		return nil, at.index(0).fail("must be text")
	}
	parts, err := r.texts(at.index(1), list[1])
	if err != nil {
		return nil, err
	}
	length := len(separator) * len(parts)
	for _, part := range parts {
		length += len(part)
	}
	if length > maxText {
		return nil, at.fail("gives a text of more than %d bytes", maxText)
	}
	return strings.Join(parts, separator), nil
}

// sub takes TEXT or [TEXT, VARIABLES].
func (r *resolver) sub(at place, argument any) (any, error) {
	text, ok := argument.(string)
	variables := map[string]any{}
	if !ok {
		list, err := arguments(at, argument, 2)
		if err != nil {
			return nil, err
		}
		var isText, isObject bool
		text, isText = list[0].(string)
		variables, isObject = list[1].(map[string]any)
		if !isText || !isObject {
			return nil, at.fail("must be a text and an object")
		}
	}
	return r.substitute(at, text, variables)
}

func (r *resolver) substitute(at place, text string, variables map[string]any) (any, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, at.fail("a ${ has no }")
		}
		value, err := r.variable(at, name, variables)
		if err != nil {
			return nil, err
		}
		if b.WriteString(value); b.Len() > maxText {
			return nil, at.fail("gives a text of more than %d bytes", maxText)
		}
		text = after
	}
}

// variable resolves what stands between ${ and } in Fn::Sub.
func (r *resolver) variable(at place, name string, variables map[string]any) (string, error) {
	if literal, ok := strings.CutPrefix(name, "!"); ok {
		return "${" + literal + "}", nil
	}
	if v, ok := variables[name]; ok {
		return r.text(at.field(name), v)
	}
	if strings.Contains(name, ".") {
		return r.text(at, map[string]any{"Fn::GetAtt": name})
	}
	return r.text(at, map[string]any{"Ref": name})
}

func (r *resolver) choose(at place, argument any) (any, error) {
	list, err := arguments(at, argument, 2)
	if err != nil {
		return nil, err
	}
	number, err := r.text(at.index(0), list[0])
	if err != nil {
		return nil, err
	}
	resolved, err := r.value(at.index(1), list[1])
	if err != nil {
		return nil, err
	}
	items, ok := resolved.([]any)
	if !ok {
		return nil, at.index(1).fail("must be a list")
	}
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= len(items) {
		return nil, at.fail("there is no item %q in a list of %d", number, len(items))
	}
	return items[i], nil
}

func (r *resolver) split(at place, argument any) (any, error) {
	list, err := arguments(at, argument, 2)
	if err != nil {
		return nil, err
	}
	separator, ok := list[0].(string)
	if !ok || separator == "" {
		return nil, at.index(0).fail("must be text")
	}
	text, err := r.text(at.index(1), list[1])
	if err != nil {
		return nil, err
	}
	var parts []any
	for part := range strings.SplitSeq(text, separator) {
		parts = append(parts, part)
	}
	return parts, nil
}

func (r *resolver) findInMap(at place, argument any) (any, error) {
	list, err := arguments(at, argument, 3)
	if err != nil {
		return nil, err
	}
	keys, err := r.texts(at, list)
	if err != nil {
		return nil, err
	}
	if len(keys) == len(list) {
		if v, ok := r.stack.template.Mappings[keys[0]][keys[1]][keys[2]]; ok {
			return v, nil
		}
	}
	return nil, at.fail("the mappings hold no %s", strings.Join(keys, "."))
}

func (r *resolver) branch(at place, argument any) (any, error) {
	list, err := arguments(at, argument, 3)
	if err != nil {
		return nil, err
	}
	name, ok := list[0].(string)
	if !ok {
		return nil, at.index(0).fail("must be the name of a condition")
	}
	holds, err := r.condition(at, name)
	if err != nil {
		return nil, err
	}
	if holds {
		return r.value(at.index(1), list[1])
	}
	return r.value(at.index(2), list[2])
}
