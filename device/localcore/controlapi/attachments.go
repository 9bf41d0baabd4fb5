package controlapi

import (
	"example.com/fleety/device/localcore/registry"
)

// Headers that name a principal, and the one that names a policy.
const (
	principalHeader       = "X-Amzn-Principal"
	legacyPrincipalHeader = "X-Amzn-Iot-Principal"
	legacyPolicyHeader    = "X-Amzn-Iot-Policy"
)

// target reads the ARN of what a policy is or shall be attached to.
func (a *api) target(arn string) (registry.Target, error) {
	resource, err := a.names.resource(arn)
	return registry.Target(resource), err
}

// targetOf reads the target in a request's body.
func (a *api) targetOf(q *request) (registry.Target, error) {
	var in struct {
		Target string `json:"target"`
	}
	if err := q.decode(&in); err != nil {
		return "", err
	}
	return a.target(in.Target)
}

func (a *api) attachPolicy(q *request) (any, error) {
	target, err := a.targetOf(q)
	if err != nil {
		return nil, err
	}
	return nil, a.Registry.AttachPolicy(q.path("policyName"), target)
}

func (a *api) detachPolicy(q *request) (any, error) {
	target, err := a.targetOf(q)
	if err != nil {
		return nil, err
	}
	return nil, a.Registry.DetachPolicy(q.path("policyName"), target)
}

func (a *api) listAttachedPolicies(q *request) (any, error) {
	target, err := a.target(q.path("target"))
	if err != nil {
		return nil, err
	}
	names, err := a.Registry.ListAttachedPolicies(target, q.flag("recursive"))
	if err != nil {
		return nil, err
	}
	return a.policyPage(q, names)
}

func (a *api) policyPage(q *request, names []string) (any, error) {
	some, next, err := page(q, names, self)
	if err != nil {
		return nil, err
	}
	return policyList{convert(some, a.policySummary), next}, nil
}

func (a *api) listTargetsForPolicy(q *request) (any, error) {
	targets, err := a.Registry.ListTargetsForPolicy(q.path("policyName"))
	if err != nil {
		return nil, err
	}
	some, next, err := page(q, convert(targets, a.names.target), self)
	if err != nil {
		return nil, err
	}
	return struct {
		Targets    []string `json:"targets"`
		NextMarker string   `json:"nextMarker,omitempty"`
	}{some, next}, nil
}

// The operations of principal policies are older forms of those above, which
// AWS still offers.

func (a *api) attachPrincipalPolicy(q *request) (any, error) {
	id, err := a.names.principal(q.Header.Get(legacyPrincipalHeader))
	if err != nil {
		return nil, err
	}
	return nil, a.Registry.AttachPolicy(q.path("policyName"), registry.CertificateTarget(id))
}

func (a *api) detachPrincipalPolicy(q *request) (any, error) {
	id, err := a.names.principal(q.Header.Get(legacyPrincipalHeader))
	if err != nil {
		return nil, err
	}
	return nil, a.Registry.DetachPolicy(q.path("policyName"), registry.CertificateTarget(id))
}

func (a *api) listPrincipalPolicies(q *request) (any, error) {
	id, err := a.names.principal(q.Header.Get(legacyPrincipalHeader))
	if err != nil {
		return nil, err
	}
	names, err := a.Registry.ListAttachedPolicies(registry.CertificateTarget(id), false)
	if err != nil {
		return nil, err
	}
	return a.policyPage(q, names)
}

func (a *api) listPolicyPrincipals(q *request) (any, error) {
	targets, err := a.Registry.ListTargetsForPolicy(q.Header.Get(legacyPolicyHeader))
	if err != nil {
		return nil, err
	}
	arns := []string{}
	for _, t := range targets {
		if _, ok := t.Certificate(); ok {
			arns = append(arns, a.names.target(t))
		}
	}
	some, next, err := page(q, arns, self)
	if err != nil {
		return nil, err
	}
	return struct {
		Principals []string `json:"principals"`
		NextMarker string   `json:"nextMarker,omitempty"`
	}{some, next}, nil
}

func (a *api) attachThingPrincipal(q *request) (any, error) {
	id, err := a.names.principal(q.Header.Get(principalHeader))
	if err != nil {
		return nil, err
	}
	kind := registry.PrincipalType(q.query("thingPrincipalType"))
	return empty{}, a.Registry.AttachThingPrincipal(q.path("thingName"), id, kind)
}

func (a *api) detachThingPrincipal(q *request) (any, error) {
	id, err := a.names.principal(q.Header.Get(principalHeader))
	if err != nil {
		return nil, err
	}
	return empty{}, a.Registry.DetachThingPrincipal(q.path("thingName"), id)
}

// ofType keeps the attachments that the request asks for.
func ofType(q *request, all []registry.Attachment) []registry.Attachment {
	kind := registry.PrincipalType(q.query("thingPrincipalType"))
	var some []registry.Attachment
	for _, at := range all {
		if kind == "" || at.Type == kind {
			some = append(some, at)
		}
	}
	return some
}

func certificateKey(at registry.Attachment) string { return at.CertificateID }
func thingKey(at registry.Attachment) string       { return at.Thing }

func (a *api) listThingPrincipals(q *request) (any, error) {
	all, err := a.Registry.ListThingPrincipals(q.path("thingName"))
	if err != nil {
		return nil, err
	}
	some, next, err := page(q, all, certificateKey)
	if err != nil {
		return nil, err
	}
	return struct {
		Principals []string `json:"principals"`
		NextToken  string   `json:"nextToken,omitempty"`
	}{convert(some, func(at registry.Attachment) string { return a.names.certificate(at.CertificateID) }), next}, nil
}

type thingPrincipal struct {
	Principal string                 `json:"principal"`
	Type      registry.PrincipalType `json:"thingPrincipalType"`
}

func (a *api) listThingPrincipalsV2(q *request) (any, error) {
	all, err := a.Registry.ListThingPrincipals(q.path("thingName"))
	if err != nil {
		return nil, err
	}
	some, next, err := page(q, ofType(q, all), certificateKey)
	if err != nil {
		return nil, err
	}
	return struct {
		Principals []thingPrincipal `json:"thingPrincipalObjects"`
		NextToken  string           `json:"nextToken,omitempty"`
	}{convert(some, func(at registry.Attachment) thingPrincipal {
		return thingPrincipal{a.names.certificate(at.CertificateID), at.Type}
	}), next}, nil
}

func (a *api) listPrincipalThings(q *request) (any, error) {
	all, err := a.thingsOfPrincipal(q)
	if err != nil {
		return nil, err
	}
	return thingPage(q, convert(all, thingKey))
}

func (a *api) thingsOfPrincipal(q *request) ([]registry.Attachment, error) {
	id, err := a.names.principal(q.Header.Get(principalHeader))
	if err != nil {
		return nil, err
	}
	return a.Registry.ListPrincipalThings(id)
}

type principalThing struct {
	Thing string                 `json:"thingName"`
	Type  registry.PrincipalType `json:"thingPrincipalType"`
}

func (a *api) listPrincipalThingsV2(q *request) (any, error) {
	all, err := a.thingsOfPrincipal(q)
	if err != nil {
		return nil, err
	}
	some, next, err := page(q, ofType(q, all), thingKey)
	if err != nil {
		return nil, err
	}
	return struct {
		Things    []principalThing `json:"principalThingObjects"`
		NextToken string           `json:"nextToken,omitempty"`
	}{convert(some, func(at registry.Attachment) principalThing { return principalThing{at.Thing, at.Type} }), next}, nil
}
