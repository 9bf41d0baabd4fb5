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
	return object{
		"policyName": p.Name, "policyArn": a.arn("policy/" + p.Name),
		"policyDocument": p.Document(), "policyVersionId": strconv.Itoa(p.DefaultVersion),
	}, err
}

func (a *api) getPolicy(q *request) (any, error) {
	p, err := a.Registry.GetPolicy(q.path("policyName"))
	return object{
		"policyName": p.Name, "policyArn": a.arn("policy/" + p.Name),
		"policyDocument": p.Document(), "defaultVersionId": strconv.Itoa(p.DefaultVersion),
		"creationDate": epoch(p.Created), "lastModifiedDate": epoch(p.Modified),
	}.optional("generationId", p.GenerationID), err
}

type policySummary struct {
	Name string `json:"policyName"`
	ARN  string `json:"policyArn"`
}

func (a *api) policySummary(name string) policySummary {
	return policySummary{name, a.arn("policy/" + name)}
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
	return object{
		"policyArn": a.arn("policy/" + name), "policyDocument": v.Document,
		"policyVersionId": strconv.Itoa(v.ID), "isDefaultVersion": q.flag("setAsDefault"),
	}, err
}

// listPolicyVersions lists the newest first, as AWS's example does.
func (a *api) listPolicyVersions(q *request) (any, error) {
	p, err := a.Registry.GetPolicy(q.path("policyName"))
	slices.Reverse(p.Versions)
	return object{"policyVersions": convert(p.Versions, func(v registry.PolicyVersion) object {
		return object{"versionId": strconv.Itoa(v.ID), "isDefaultVersion": v.ID == p.DefaultVersion, "createDate": epoch(v.Created)}
	})}, err
}

func (a *api) getPolicyVersion(q *request) (any, error) {
	p, err := a.Registry.GetPolicy(q.path("policyName"))
	if err != nil {
		return nil, err
	}
	v, ok := p.Version(q.version())
	if !ok {
		return nil, registry.Reject(registry.CodeNotFound, "Policy %s has no version %d.", p.Name, q.version())
	}
	return object{
		"policyName": p.Name, "policyArn": a.arn("policy/" + p.Name), "policyDocument": v.Document,
		"policyVersionId": strconv.Itoa(v.ID), "isDefaultVersion": v.ID == p.DefaultVersion,
		"creationDate": epoch(v.Created), "lastModifiedDate": epoch(v.Created),
	}.optional("generationId", p.GenerationID), nil
}

// Headers that name a principal, and the one that names a policy.
const (
	principalHeader       = "X-Amzn-Principal"
	legacyPrincipalHeader = "X-Amzn-Iot-Principal"
	legacyPolicyHeader    = "X-Amzn-Iot-Policy"
)

// ofTarget returns an operation that attaches or detaches a policy.
func (a *api) ofTarget(change func(policy string, target registry.Target) error) func(*request) (any, error) {
	return with(func(q *request, in struct {
		Target string `json:"target"`
	}) (any, error) {
		target, err := a.target(in.Target)
		if err != nil {
			return nil, err
		}
		return nil, change(q.path("policyName"), target)
	})
}

// ofPrincipal is ofTarget for the older operations of principal policies, which
// AWS still offers.
func (a *api) ofPrincipal(change func(policy string, target registry.Target) error) func(*request) (any, error) {
	return func(q *request) (any, error) {
		target, err := a.principal(q.Header.Get(legacyPrincipalHeader))
		if err != nil {
			return nil, err
		}
		return nil, change(q.path("policyName"), target)
	}
}

func (a *api) listAttachedPolicies(q *request) (any, error) {
	target, err := a.target(q.path("target"))
	if err != nil {
		return nil, err
	}
	return listOf(q, "policies", self, a.policySummary)(a.Registry.ListAttachedPolicies(target, q.flag("recursive")))
}

func (a *api) listPrincipalPolicies(q *request) (any, error) {
	target, err := a.principal(q.Header.Get(legacyPrincipalHeader))
	if err != nil {
		return nil, err
	}
	attached, err := a.Registry.ListAttachedPolicies(target, false)
	if err != nil {
		return nil, err
	}
	var all []registry.Policy
	for _, name := range attached {
		if p, err := a.Registry.GetPolicy(name); err == nil { // else it was deleted just now
			all = append(all, p)
		}
	}
	return a.policiesByAge(q, all)
}

// listPolicyPrincipals lists the certificates in the order of their creation,
// and then Cognito identities, whose age is not known.
func (a *api) listPolicyPrincipals(q *request) (any, error) {
	targets, err := a.Registry.ListTargetsForPolicy(q.Header.Get(legacyPolicyHeader))
	if err != nil {
		return nil, err
	}
	targets = slices.DeleteFunc(targets, func(t registry.Target) bool { _, group := t.ThingGroup(); return group })
	return list(q, "principals", targets, func(t registry.Target) string {
		id, _ := t.Certificate()
		c, _ := a.Registry.CertificateByID(id)
		return ageKey(c.Created, string(t))
	}, a.targetARN)
}

func (a *api) attachThingPrincipal(q *request) (any, error) {
	id, err := a.certificate(q.Header.Get(principalHeader))
	if err != nil {
		return nil, err
	}
	return object{}, a.Registry.AttachThingPrincipal(q.path("thingName"), id, registry.PrincipalType(q.query("thingPrincipalType")))
}

func (a *api) detachThingPrincipal(q *request) (any, error) {
	id, err := a.certificate(q.Header.Get(principalHeader))
	if err != nil {
		return nil, err
	}
	return object{}, a.Registry.DetachThingPrincipal(q.path("thingName"), id)
}

// attachments lists what show makes of the attachments of the type that the
// request asks for.
func attachments[T any](q *request, name string, key func(registry.Attachment) string, show func(registry.Attachment) T) func([]registry.Attachment, error) (any, error) {
	return func(all []registry.Attachment, err error) (any, error) {
		kind := registry.PrincipalType(q.query("thingPrincipalType"))
		if err == nil && kind != "" && kind != registry.Exclusive && kind != registry.NonExclusive {
			err = invalid("thing principal type %q must be %s or %s", clip(string(kind)), registry.Exclusive, registry.NonExclusive)
		}
		all = slices.DeleteFunc(all, func(at registry.Attachment) bool { return kind != "" && at.Type != kind })
		return listOf(q, name, key, show)(all, err)
	}
}

func thingKey(at registry.Attachment) string       { return at.Thing }
func certificateKey(at registry.Attachment) string { return at.CertificateID }

func (a *api) certificateOf(at registry.Attachment) string { return a.arn("cert/" + at.CertificateID) }

func (a *api) listThingPrincipalsV2(q *request) (any, error) {
	return attachments(q, "thingPrincipalObjects", certificateKey, func(at registry.Attachment) object {
		return object{"principal": a.certificateOf(at), "thingPrincipalType": at.Type}
	})(a.Registry.ListThingPrincipals(q.path("thingName")))
}

func (a *api) thingsOfPrincipal(q *request) ([]registry.Attachment, error) {
	id, err := a.certificate(q.Header.Get(principalHeader))
	if err != nil {
		return nil, err
	}
	return a.Registry.ListPrincipalThings(id)
}

func (a *api) listPrincipalThingsV2(q *request) (any, error) {
	return attachments(q, "principalThingObjects", thingKey, func(at registry.Attachment) object {
		return object{"thingName": at.Thing, "thingPrincipalType": at.Type}
	})(a.thingsOfPrincipal(q))
}
