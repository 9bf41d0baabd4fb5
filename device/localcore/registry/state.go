package registry

import "time"

// state is all that the registry holds. A state may lie over another one and
// then holds only changes; see table.
type state struct {
	things        *table[Thing]
	types         *table[ThingType]
	groups        *table[ThingGroup]
	certificates  *table[Certificate]
	policies      *table[Policy]
	billingGroups *table[BillingGroup]
	tags          *table[map[string]string] // by the resource part of the ARN
	templates     *table[ProvisioningTemplate]
	ownerships    *table[ownership] // by the hex SHA-256 of the token
	claims        *table[claim]     // by certificate id

	thingGroups   *relation[struct{}]      // thing name, group name
	thingCerts    *relation[PrincipalType] // thing name, certificate id
	policyTargets *relation[struct{}]      // policy name, target
}

// An ownership is what is known of an ownership token, but for the token.
type ownership struct {
	CertificateID string
	Principal     string
	Expires       time.Time
}

// A claim marks a certificate made by CreateProvisioningClaim.
type claim struct {
	Template string
	Expires  time.Time
}

// newState returns an empty state that lies over base; base may be nil.
func newState(base *state) *state {
	if base == nil {
		base = &state{}
	}
	return &state{
		things:        newTable(base.things),
		types:         newTable(base.types),
		groups:        newTable(base.groups),
		certificates:  newTable(base.certificates),
		policies:      newTable(base.policies),
		billingGroups: newTable(base.billingGroups),
		tags:          newTable(base.tags),
		templates:     newTable(base.templates),
		ownerships:    newTable(base.ownerships),
		claims:        newTable(base.claims),
		thingGroups:   newRelation(base.thingGroups),
		thingCerts:    newRelation(base.thingCerts),
		policyTargets: newRelation(base.policyTargets),
	}
}

// buckets names the part of the state that each bucket of the store holds. The
// names are part of the format.
func (s *state) buckets() map[string]bucket {
	return map[string]bucket{
		"things":             s.things,
		"thing-types":        s.types,
		"thing-groups":       s.groups,
		"certificates":       s.certificates,
		"policies":           s.policies,
		"billing-groups":     s.billingGroups,
		"tags":               s.tags,
		"templates":          s.templates,
		"ownerships":         s.ownerships,
		"claims":             s.claims,
		"things-in-groups":   s.thingGroups,
		"thing-certificates": s.thingCerts,
		"policy-targets":     s.policyTargets,
	}
}

// empty reports whether the state holds no rows of its own.
func (s *state) empty() bool {
	for _, part := range s.buckets() {
		if part.size() > 0 {
			return false
		}
	}
	return true
}

// merge moves the changes of over, which lies over s, into s.
func (s *state) merge(over *state) {
	changed := over.buckets()
	for name, part := range s.buckets() {
		part.merge(changed[name])
	}
}
