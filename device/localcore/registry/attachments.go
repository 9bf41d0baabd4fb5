package registry

import (
	"regexp"
	"slices"
	"strings"
)

// A Target is what a policy is attached to, as the resource part of its ARN:
// "cert/ID" or "thinggroup/NAME". An Amazon Cognito identity, which AWS IoT does
// not register, is its own target: "REGION:UUID".
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/cog-iot-policies.html
type Target string

var cognitoIdentity = regexp.MustCompile(`^[a-z]{2}[a-z0-9-]+:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Cognito reports whether the target is an Amazon Cognito identity.
func (t Target) Cognito() bool { return cognitoIdentity.MatchString(string(t)) }

const (
	certificatePrefix = "cert/"
	thingGroupPrefix  = "thinggroup/"
)

// CertificateTarget returns the certificate as a target.
func CertificateTarget(id string) Target { return Target(certificatePrefix + id) }

// ThingGroupTarget returns the thing group as a target.
func ThingGroupTarget(name string) Target { return Target(thingGroupPrefix + name) }

// Certificate returns the certificate's id. ok is false for a thing group.
func (t Target) Certificate() (id string, ok bool) {
	return strings.CutPrefix(string(t), certificatePrefix)
}

// ThingGroup returns the group's name. ok is false for a certificate.
func (t Target) ThingGroup() (name string, ok bool) {
	return strings.CutPrefix(string(t), thingGroupPrefix)
}

// AttachPolicy attaches a policy to a certificate or thing group. Attaching it
// again changes nothing.
func (r *Registry) AttachPolicy(policy string, target Target) error {
	return r.update(func(tx *transaction) error { return tx.attachPolicy(policy, target) })
}

// DetachPolicy detaches a policy. Detaching one that is not attached, or does
// not exist, changes nothing.
func (r *Registry) DetachPolicy(policy string, target Target) error {
	return r.update(func(tx *transaction) error {
		if tx.policyTargets.has(policy, string(target)) {
			tx.policyTargets.remove(policy, string(target))
		}
		return nil
	})
}

// ListAttachedPolicies returns the names of the policies of a target, sorted. For a
// thing group, recursive adds those of its ancestors.
func (r *Registry) ListAttachedPolicies(target Target, recursive bool) ([]string, error) {
	return read(r, func(s *state) ([]string, error) {
		if err := s.checkTarget(target); err != nil {
			return nil, err
		}
		targets := []Target{target}
		if group, ok := target.ThingGroup(); ok && recursive {
			targets = s.lineage(group)
		}
		var names []string
		for _, d := range s.documents(targets) {
			names = append(names, d.Name)
		}
		slices.Sort(names)
		return names, nil
	})
}

// ListTargetsForPolicy returns what the policy is attached to.
func (r *Registry) ListTargetsForPolicy(policy string) ([]Target, error) {
	return read(r, func(s *state) ([]Target, error) {
		if _, err := s.policy(policy); err != nil {
			return nil, err
		}
		var targets []Target
		for _, t := range s.policyTargets.rightsOf(policy) {
			targets = append(targets, Target(t))
		}
		return targets, nil
	})
}

// AttachThingPrincipal attaches a certificate to a thing. An exclusive
// attachment ties the certificate to that one thing: it is rejected while
// another thing has the certificate, as are others afterwards.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/exclusive-thing.html
func (r *Registry) AttachThingPrincipal(thing, certificateID string, kind PrincipalType) error {
	return r.update(func(tx *transaction) error { return tx.attachPrincipal(thing, certificateID, kind) })
}

// DetachThingPrincipal detaches a certificate from a thing. It is done when it
// returns; AWS takes some seconds. Detaching one that is not attached changes
// nothing.
func (r *Registry) DetachThingPrincipal(thing, certificateID string) error {
	return r.update(func(tx *transaction) error {
		if _, err := tx.thing(thing); err != nil {
			return err
		}
		if _, err := tx.certificate(certificateID); err != nil {
			return err
		}
		tx.thingCerts.remove(thing, certificateID)
		return nil
	})
}

// ListThingPrincipals returns the certificates of a thing.
func (r *Registry) ListThingPrincipals(thing string) ([]Attachment, error) {
	return read(r, func(s *state) ([]Attachment, error) {
		if _, err := s.thing(thing); err != nil {
			return nil, err
		}
		var out []Attachment
		for _, id := range s.thingCerts.rightsOf(thing) {
			out = append(out, s.attachment(thing, id))
		}
		return out, nil
	})
}

// ListPrincipalThings returns the things of a certificate.
func (r *Registry) ListPrincipalThings(certificateID string) ([]Attachment, error) {
	return read(r, func(s *state) ([]Attachment, error) {
		if _, err := s.certificate(certificateID); err != nil {
			return nil, err
		}
		var out []Attachment
		for _, thing := range s.thingCerts.leftsOf(certificateID) {
			out = append(out, s.attachment(thing, certificateID))
		}
		return out, nil
	})
}

func (s *state) attachment(thing, certificateID string) Attachment {
	kind, _ := s.thingCerts.get(thing, certificateID)
	return Attachment{thing, certificateID, kind}
}

func (s *state) checkTarget(target Target) error {
	if id, ok := target.Certificate(); ok {
		_, err := s.certificate(id)
		return err
	}
	if name, ok := target.ThingGroup(); ok {
		_, err := s.group(name)
		return err
	}
	if target.Cognito() {
		return nil
	}
	return invalid("target %q is no certificate, thing group or Amazon Cognito identity", clip(string(target)))
}

func (tx *transaction) attachPolicy(policy string, target Target) error {
	if _, err := tx.policy(policy); err != nil {
		return err
	}
	if err := tx.checkTarget(target); err != nil {
		return err
	}
	if tx.policyTargets.has(policy, string(target)) {
		return nil
	}
	limit := MaxPoliciesPerPrincipal
	if _, ok := target.ThingGroup(); ok {
		limit = MaxPoliciesPerGroup
	}
	if len(tx.policyTargets.leftsOf(string(target))) >= limit {
		return Reject(CodeLimitExceeded, "%s has %d policies already, which is the limit.", target, limit)
	}
	tx.policyTargets.put(policy, string(target), struct{}{})
	return nil
}

func (tx *transaction) attachPrincipal(thing, certificateID string, kind PrincipalType) error {
	if kind == "" {
		kind = NonExclusive
	}
	if kind != Exclusive && kind != NonExclusive {
		return invalid("thing principal type %q is neither %s nor %s", clip(string(kind)), Exclusive, NonExclusive)
	}
	if _, err := tx.thing(thing); err != nil {
		return err
	}
	if _, err := tx.certificate(certificateID); err != nil {
		return err
	}
	if tied, ok := tx.exclusiveThing(certificateID); ok && tied != thing {
		return invalid("The certificate is attached to thing %s exclusively.", tied)
	}
	for _, other := range tx.thingCerts.leftsOf(certificateID) {
		if kind == Exclusive && other != thing {
			return invalid("The certificate is attached to thing %s already, so that it cannot be attached exclusively.", other)
		}
	}
	if current, ok := tx.thingCerts.get(thing, certificateID); ok && current != kind {
		return invalid("The certificate is attached to thing %s already, as %s.", thing, current)
	}
	tx.thingCerts.put(thing, certificateID, kind)
	return nil
}
