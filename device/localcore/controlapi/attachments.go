package controlapi

import "example.com/fleety/device/localcore/registry"

// Headers that name a principal, and the one that names a policy.
const (
	principalHeader       = "X-Amzn-Principal"
	legacyPrincipalHeader = "X-Amzn-Iot-Principal"
	legacyPolicyHeader    = "X-Amzn-Iot-Policy"
)

type targetRequest struct {
	Target string `json:"target"`
}

func (a *api) attachPolicy(q *request, in targetRequest) (any, error) {
	target, err := a.target(in.Target)
	if err != nil {
		return nil, err
	}
	return nil, a.Registry.AttachPolicy(q.path("policyName"), target)
}

func (a *api) detachPolicy(q *request, in targetRequest) (any, error) {
	target, err := a.target(in.Target)
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
	attached, err := a.Registry.ListAttachedPolicies(target, q.flag("recursive"))
	if err != nil {
		return nil, err
	}
	return list(q, "policies", attached, self, a.policySummary)
}

func (a *api) listTargetsForPolicy(q *request) (any, error) {
	targets, err := a.Registry.ListTargetsForPolicy(q.path("policyName"))
	if err != nil {
		return nil, err
	}
	return names(q, "targets", convert(targets, a.targetARN))
}

// The operations of principal policies are older forms of those above, which
// AWS still offers.

func (a *api) attachPrincipalPolicy(q *request) (any, error) {
	target, err := a.principal(q.Header.Get(legacyPrincipalHeader))
	if err != nil {
		return nil, err
	}
	return nil, a.Registry.AttachPolicy(q.path("policyName"), target)
}

func (a *api) detachPrincipalPolicy(q *request) (any, error) {
	target, err := a.principal(q.Header.Get(legacyPrincipalHeader))
	if err != nil {
		return nil, err
	}
	return nil, a.Registry.DetachPolicy(q.path("policyName"), target)
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
	var principals []registry.Target
	for _, t := range targets {
		if _, ok := t.Certificate(); ok || t.Cognito() {
			principals = append(principals, t)
		}
	}
	return list(q, "principals", principals, func(t registry.Target) string {
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
func attachments[T any](q *request, name string, all []registry.Attachment, key func(registry.Attachment) string, show func(registry.Attachment) T) (any, error) {
	kind := registry.PrincipalType(q.query("thingPrincipalType"))
	if kind != "" && kind != registry.Exclusive && kind != registry.NonExclusive {
		return nil, invalid("thing principal type %q must be %s or %s", clip(string(kind)), registry.Exclusive, registry.NonExclusive)
	}
	var some []registry.Attachment
	for _, at := range all {
		if kind == "" || at.Type == kind {
			some = append(some, at)
		}
	}
	return list(q, name, some, key, show)
}

func thingKey(at registry.Attachment) string       { return at.Thing }
func certificateKey(at registry.Attachment) string { return at.CertificateID }

func (a *api) certificateOf(at registry.Attachment) string { return a.arn("cert/" + at.CertificateID) }

func (a *api) listThingPrincipals(q *request) (any, error) {
	all, err := a.Registry.ListThingPrincipals(q.path("thingName"))
	if err != nil {
		return nil, err
	}
	return attachments(q, "principals", all, certificateKey, a.certificateOf)
}

func (a *api) listThingPrincipalsV2(q *request) (any, error) {
	all, err := a.Registry.ListThingPrincipals(q.path("thingName"))
	if err != nil {
		return nil, err
	}
	return attachments(q, "thingPrincipalObjects", all, certificateKey, func(at registry.Attachment) object {
		return object{"principal": a.certificateOf(at), "thingPrincipalType": at.Type}
	})
}

func (a *api) thingsOfPrincipal(q *request) ([]registry.Attachment, error) {
	id, err := a.certificate(q.Header.Get(principalHeader))
	if err != nil {
		return nil, err
	}
	return a.Registry.ListPrincipalThings(id)
}

func (a *api) listPrincipalThings(q *request) (any, error) {
	all, err := a.thingsOfPrincipal(q)
	if err != nil {
		return nil, err
	}
	return attachments(q, "things", all, thingKey, thingKey)
}

func (a *api) listPrincipalThingsV2(q *request) (any, error) {
	all, err := a.thingsOfPrincipal(q)
	if err != nil {
		return nil, err
	}
	return attachments(q, "principalThingObjects", all, thingKey, func(at registry.Attachment) object {
		return object{"thingName": at.Thing, "thingPrincipalType": at.Type}
	})
}
