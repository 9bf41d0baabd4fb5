package controlapi

import (
	"strconv"

	"example.com/fleety/device/localcore/registry"
)

// documentOf reads the policy document of a request.
func documentOf(q *request) (string, error) {
	var in struct {
		Document string `json:"policyDocument"`
	}
	err := q.decode(&in)
	return in.Document, err
}

func (a *api) createPolicy(q *request) (any, error) {
	document, err := documentOf(q)
	if err != nil {
		return nil, err
	}
	p, err := a.Registry.CreatePolicy(q.path("policyName"), document)
	if err != nil {
		return nil, err
	}
	return struct {
		Name     string `json:"policyName"`
		ARN      string `json:"policyArn"`
		Document string `json:"policyDocument"`
		Version  string `json:"policyVersionId"`
	}{p.Name, a.names.policy(p.Name), p.Document(), strconv.Itoa(p.DefaultVersion)}, nil
}

func (a *api) getPolicy(q *request) (any, error) {
	p, err := a.Registry.GetPolicy(q.path("policyName"))
	if err != nil {
		return nil, err
	}
	return struct {
		Name           string `json:"policyName"`
		ARN            string `json:"policyArn"`
		Document       string `json:"policyDocument"`
		DefaultVersion string `json:"defaultVersionId"`
		Created        epoch  `json:"creationDate"`
		Modified       epoch  `json:"lastModifiedDate"`
	}{p.Name, a.names.policy(p.Name), p.Document(), strconv.Itoa(p.DefaultVersion), epoch(p.Created), epoch(p.Modified)}, nil
}

func (a *api) deletePolicy(q *request) (any, error) {
	return nil, a.Registry.DeletePolicy(q.path("policyName"))
}

type policySummary struct {
	Name string `json:"policyName"`
	ARN  string `json:"policyArn"`
}

func (a *api) policySummary(name string) policySummary {
	return policySummary{name, a.names.policy(name)}
}

type policyList struct {
	Policies   []policySummary `json:"policies"`
	NextMarker string          `json:"nextMarker,omitempty"`
}

func (a *api) listPolicies(q *request) (any, error) {
	some, next, err := pageByAge(q, a.Registry.ListPolicies(), func(p registry.Policy) string { return ageKey(p.Created, p.Name) })
	if err != nil {
		return nil, err
	}
	return policyList{convert(some, func(p registry.Policy) policySummary { return a.policySummary(p.Name) }), next}, nil
}

func (a *api) createPolicyVersion(q *request) (any, error) {
	document, err := documentOf(q)
	if err != nil {
		return nil, err
	}
	name := q.path("policyName")
	v, err := a.Registry.CreatePolicyVersion(name, document, q.flag("setAsDefault"))
	if err != nil {
		return nil, err
	}
	return struct {
		ARN       string `json:"policyArn"`
		Document  string `json:"policyDocument"`
		Version   string `json:"policyVersionId"`
		IsDefault bool   `json:"isDefaultVersion"`
	}{a.names.policy(name), v.Document, strconv.Itoa(v.ID), q.flag("setAsDefault")}, nil
}

type policyVersion struct {
	Version   string `json:"versionId"`
	IsDefault bool   `json:"isDefaultVersion"`
	Created   epoch  `json:"createDate"`
}

func (a *api) listPolicyVersions(q *request) (any, error) {
	p, err := a.Registry.GetPolicy(q.path("policyName"))
	if err != nil {
		return nil, err
	}
	return struct {
		Versions []policyVersion `json:"policyVersions"`
	}{convert(p.Versions, func(v registry.PolicyVersion) policyVersion {
		return policyVersion{strconv.Itoa(v.ID), v.ID == p.DefaultVersion, epoch(v.Created)}
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
	return struct {
		Name      string `json:"policyName"`
		ARN       string `json:"policyArn"`
		Document  string `json:"policyDocument"`
		Version   string `json:"policyVersionId"`
		IsDefault bool   `json:"isDefaultVersion"`
		Created   epoch  `json:"creationDate"`
		Modified  epoch  `json:"lastModifiedDate"`
	}{p.Name, a.names.policy(p.Name), v.Document, strconv.Itoa(v.ID), v.ID == p.DefaultVersion, epoch(v.Created), epoch(v.Created)}, nil
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
