package controlapi

import (
	"errors"
	"net/http"
	"net/url"
	"slices"

	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/rules"
)

// rulesOf runs an operation of topic rules, if there are any.
func (a *api) rulesOf(run func(*request) (any, error)) func(*request) (any, error) {
	return needs("rules", a.Rules != nil, func(q *request) (any, error) {
		out, err := run(q)
		if e, ok := errors.AsType[*rules.Error](err); ok {
			status := map[string]int{rules.AlreadyExists: http.StatusConflict, rules.Unauthorized: http.StatusUnauthorized}[e.Code]
			if status == 0 {
				status = http.StatusBadRequest
			}
			err = &registry.Error{Code: e.Code + "Exception", Status: status, Message: e.Message}
		}
		return out, err
	})
}

// createTopicRule gets tags in a header, in the form of a query.
func (a *api) createTopicRule(q *request, in rules.Definition) (any, error) {
	query, err := url.ParseQuery(q.Header.Get("X-Amz-Tagging"))
	if err != nil {
		return nil, invalid("the tags cannot be read: %v", err)
	}
	var t tags
	for key, values := range query {
		for _, value := range values {
			t = append(t, tag{key, value})
		}
	}
	name := q.path("ruleName")
	_, err = tagged(a, t, "rule/"+name, func() (any, error) { return nil, a.Rules.CreateTopicRule(name, in) })
	return nil, err
}

func (a *api) replaceTopicRule(q *request, in rules.Definition) (any, error) {
	return nil, a.Rules.ReplaceTopicRule(q.path("ruleName"), in)
}

func (a *api) topicRule(q *request) (any, error) {
	r, err := a.Rules.TopicRule(q.path("ruleName"))
	if err != nil {
		return nil, err
	}
	return object{
		"ruleArn": a.arn("rule/" + r.Name),
		"rule": object{
			"ruleName": r.Name, "sql": r.SQL, "createdAt": epoch(r.Created), "ruleDisabled": r.Disabled,
			"awsIotSqlVersion": r.Version, "actions": convert(r.Actions, func(x rules.Action) rules.Action { return x }),
		}.optional("description", r.Description).optional("errorAction", r.ErrorAction),
	}, nil
}

func (a *api) deleteTopicRule(q *request) (any, error) {
	if err := a.Rules.DeleteTopicRule(q.path("ruleName")); err != nil {
		return nil, err
	}
	return nil, a.Registry.DeleteTags("rule/" + q.path("ruleName"))
}

func (a *api) disableTopicRule(q *request) (any, error) {
	return nil, a.Rules.SetDisabled(q.path("ruleName"), true)
}

func (a *api) enableTopicRule(q *request) (any, error) {
	return nil, a.Rules.SetDisabled(q.path("ruleName"), false)
}

func (a *api) listTopicRules(q *request) (any, error) {
	all := slices.DeleteFunc(a.Rules.TopicRules(), func(r rules.Rule) bool {
		topic := q.query("topic")
		return topic != "" && topic != r.Filter || q.params.Has("ruleDisabled") && q.flag("ruleDisabled") != r.Disabled
	})
	return list(q, "rules", all, func(r rules.Rule) string { return r.Name }, func(r rules.Rule) object {
		return object{
			"ruleArn": a.arn("rule/" + r.Name), "ruleName": r.Name, "createdAt": epoch(r.Created), "ruleDisabled": r.Disabled,
		}.optional("topicPattern", r.Filter)
	})
}
