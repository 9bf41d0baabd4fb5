package controlapi

import (
	"maps"
	"net/url"
	"slices"

	"example.com/fleety/device/localcore/rules"
)

// createTopicRule gets tags in a header, in the form of a query.
func (a *api) createTopicRule(name, tagging string, d rules.Definition) error {
	query, err := url.ParseQuery(tagging)
	if err != nil {
		return invalid("the tags cannot be read: %v", err)
	}
	var t tags
	for _, key := range slices.Sorted(maps.Keys(query)) {
		for _, value := range query[key] {
			t = append(t, tag{key, value})
		}
	}
	all, err := t.asMap()
	if err != nil {
		return err
	}
	if err := a.Rules.CreateTopicRule(name, d); err != nil {
		return err
	}
	return a.Registry.TagResource("rule/"+name, all)
}

func (a *api) topicRule(r rules.Rule) object {
	return object{
		"ruleArn": a.ARN("rule/" + r.Name),
		"rule": object{
			"ruleName": r.Name, "sql": r.SQL, "createdAt": epoch(r.Created), "ruleDisabled": r.Disabled,
			"awsIotSqlVersion": r.Version, "actions": convert(r.Actions, self),
		}.optional("description", r.Description).optional("errorAction", r.ErrorAction),
	}
}

func (a *api) topicRules(topic string, disabled *bool) []rules.Rule {
	return slices.DeleteFunc(a.Rules.TopicRules(), func(r rules.Rule) bool {
		return topic != "" && topic != r.Filter || disabled != nil && *disabled != r.Disabled
	})
}

func (a *api) ruleSummary(r rules.Rule) object {
	return object{
		"ruleArn": a.ARN("rule/" + r.Name), "ruleName": r.Name, "createdAt": epoch(r.Created), "ruleDisabled": r.Disabled,
	}.optional("topicPattern", r.Filter)
}
