package controlapi

import (
	"slices"
	"strconv"

	"example.com/fleety/device/localcore/registry"
)

func (a *api) createPolicy(q *request, in struct {
	Document string `json:"policyDocument"`
	Tags     tags   `json:"tags"`
}) (any, error) {
	name := q.path("policyName")
	p, err := tagged(a, in.Tags, "policy/"+name, func() (registry.Policy, error) { return a.Registry.CreatePolicy(name, in.Document) })
	if err != nil {
		return nil, err
	}
	return object{
		"policyName": p.Name, "policyArn": a.arn("policy/" + p.Name),
		"policyDocument": p.Document(), "policyVersionId": strconv.Itoa(p.DefaultVersion),
	}, nil
}

func (a *api) getPolicy(q *request) (any, error) {
	p, err := a.Registry.GetPolicy(q.path("policyName"))
	if err != nil {
		return nil, err
	}
	return object{
		"policyName": p.Name, "policyArn": a.arn("policy/" + p.Name),
		"policyDocument": p.Document(), "defaultVersionId": strconv.Itoa(p.DefaultVersion),
		"creationDate": epoch(p.Created), "lastModifiedDate": epoch(p.Modified),
	}.optional("generationId", p.GenerationID), nil
}

func (a *api) deletePolicy(q *request) (any, error) {
	return nil, a.Registry.DeletePolicy(q.path("policyName"))
}

type policySummary struct {
	Name string `json:"policyName"`
	ARN  string `json:"policyArn"`
}

func (a *api) policySummary(name string) policySummary {
	return policySummary{name, a.arn("policy/" + name)}
}

func (a *api) listPolicies(q *request) (any, error) {
	return a.policiesByAge(q, a.Registry.ListPolicies())
}

func (a *api) policiesByAge(q *request, all []registry.Policy) (any, error) {
	return list(q, "policies", all, func(p registry.Policy) string { return ageKey(p.Created, p.Name) },
		func(p registry.Policy) policySummary { return a.policySummary(p.Name) })
}

func (a *api) createPolicyVersion(q *request, in struct {
	Document string `json:"policyDocument"`
}) (any, error) {
	name := q.path("policyName")
	v, err := a.Registry.CreatePolicyVersion(name, in.Document, q.flag("setAsDefault"))
	if err != nil {
		return nil, err
	}
	return object{
		"policyArn": a.arn("policy/" + name), "policyDocument": v.Document,
		"policyVersionId": strconv.Itoa(v.ID), "isDefaultVersion": q.flag("setAsDefault"),
	}, nil
}

// listPolicyVersions lists the newest first, as AWS's example does.
func (a *api) listPolicyVersions(q *request) (any, error) {
	p, err := a.Registry.GetPolicy(q.path("policyName"))
	if err != nil {
		return nil, err
	}
	slices.Reverse(p.Versions)
	return object{"policyVersions": convert(p.Versions, func(v registry.PolicyVersion) object {
		return object{"versionId": strconv.Itoa(v.ID), "isDefaultVersion": v.ID == p.DefaultVersion, "createDate": epoch(v.Created)}
	})}, nil
}

func (a *api) getPolicyVersion(q *request) (any, error) {
	id, err := q.version("policyVersionId")
	if err != nil {
		return nil, err
	}
	p, err := a.Registry.GetPolicy(q.path("policyName"))
	if err != nil {
		return nil, err
	}
	v, ok := p.Version(id)
	if !ok {
		return nil, registry.Reject(registry.CodeNotFound, "Policy %s has no version %d.", p.Name, id)
	}
	return object{
		"policyName": p.Name, "policyArn": a.arn("policy/" + p.Name), "policyDocument": v.Document,
		"policyVersionId": strconv.Itoa(v.ID), "isDefaultVersion": v.ID == p.DefaultVersion,
		"creationDate": epoch(v.Created), "lastModifiedDate": epoch(v.Created),
	}.optional("generationId", p.GenerationID), nil
}

func (a *api) setDefaultPolicyVersion(q *request) (any, error) {
	id, err := q.version("policyVersionId")
	if err != nil {
		return nil, err
	}
	return nil, a.Registry.SetDefaultPolicyVersion(q.path("policyName"), id)
}

func (a *api) deletePolicyVersion(q *request) (any, error) {
	id, err := q.version("policyVersionId")
	if err != nil {
		return nil, err
	}
	return nil, a.Registry.DeletePolicyVersion(q.path("policyName"), id)
}
