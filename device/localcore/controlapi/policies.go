package controlapi

import (
	"cmp"
	"slices"
	"strconv"

	"example.com/fleety/device/localcore/registry"
)

func (a *api) policyName(name string) object { return a.ref("policy", "policyName", name) }

func (a *api) policySummary(p registry.Policy) object { return a.policyName(p.Name) }

func (a *api) policy(p registry.Policy) object {
	return a.policySummary(p).with(object{
		"policyDocument": p.Default().Document, "defaultVersionId": strconv.Itoa(p.DefaultVersion),
		"creationDate": epoch(p.Created), "lastModifiedDate": epoch(p.Modified),
	}).optional("generationId", p.GenerationID)
}

func (a *api) createPolicyVersion(name string, setAsDefault bool, document string) (object, error) {
	v, err := a.Registry.CreatePolicyVersion(name, document, setAsDefault)
	return object{
		"policyArn": a.ARN("policy/" + name), "policyDocument": v.Document,
		"policyVersionId": strconv.Itoa(v.ID), "isDefaultVersion": setAsDefault,
	}, err
}

// policyVersions lists the newest first, as AWS's example does.
func policyVersions(p registry.Policy) object {
	slices.Reverse(p.Versions)
	return object{"policyVersions": convert(p.Versions, func(v registry.Version) object {
		return object{"versionId": strconv.Itoa(v.ID), "isDefaultVersion": v.ID == p.DefaultVersion, "createDate": epoch(v.Created)}
	})}
}

func (a *api) policyVersion(name string, id int) (object, error) {
	p, err := a.Registry.GetPolicy(name)
	v, versionErr := p.Find("Policy "+name, id)
	return a.policySummary(p).with(object{
		"policyDocument": v.Document, "policyVersionId": strconv.Itoa(v.ID), "isDefaultVersion": v.ID == p.DefaultVersion,
		"creationDate": epoch(v.Created), "lastModifiedDate": epoch(v.Created),
	}).optional("generationId", p.GenerationID), cmp.Or(err, versionErr)
}

func (a *api) principalPolicies(principal registry.Target) (all []registry.Policy, err error) {
	attached, err := a.Registry.ListAttachedPolicies(principal, false)
	for _, name := range attached {
		if p, err := a.Registry.GetPolicy(name); err == nil { // else it was deleted just now
			all = append(all, p)
		}
	}
	return all, err
}

// targetAge puts certificates in the order of their creation, and Cognito
// identities, whose age is not known, before them.
func (a *api) targetAge(t registry.Target) string {
	id, _ := t.Certificate()
	c, _ := a.Registry.CertificateByID(id)
	return ageKey(c.Created, string(t))
}

// ofType returns what lists the attachments of the thing or certificate that a parameter names, those of one
// type where the request gives it.
func ofType(parameter string, list func(string) ([]registry.Attachment, error)) func(*request) ([]registry.Attachment, error) {
	return func(q *request) ([]registry.Attachment, error) {
		all, err := list(value[string](q, parameter))
		kind := value[registry.PrincipalType](q, "thingPrincipalType")
		return slices.DeleteFunc(all, func(at registry.Attachment) bool { return kind != "" && at.Type != kind }), err
	}
}

func (a *api) attachedPrincipal(at registry.Attachment) string {
	return a.ARN("cert/" + at.CertificateID)
}
