package registry

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// A Policy is an IoT policy with its versions.
type Policy struct {
	Name string
	Versioned
	GenerationID string // a random UUID, new for each creation of the name; empty in records of earlier versions
}

func (p Policy) clone() Policy {
	p.Versions = slices.Clone(p.Versions)
	return p
}

// CreatePolicy makes a policy; the document becomes version 1.
func (r *Registry) CreatePolicy(name, document string) (Policy, error) {
	return mutate(r, func(tx *transaction) (Policy, error) { return tx.createPolicy(name, document) })
}

// GetPolicy returns the policy with its versions.
func (r *Registry) GetPolicy(name string) (Policy, error) { return r.state().policies.find(name) }

// ListPolicies returns all policies in the order of their names.
func (r *Registry) ListPolicies() []Policy { return r.state().policies.all() }

// DeletePolicy deletes a policy that is attached to nothing and has only its default version. AWS
// may require a wait of five minutes after detaching; this does not.
func (r *Registry) DeletePolicy(name string) error {
	return r.update(func(tx *transaction) error {
		p, err := tx.policies.find(name)
		targets := tx.policyTargets.rightsOf(name)
		switch {
		case err != nil:
			return err
		case len(p.Versions) > 1:
			return Reject(CodeDeleteConflict, "Cannot delete the policy because it has one or more policy versions attached to it (name=%s).", name)
		case len(targets) > 0:
			return Reject(CodeDeleteConflict, "The policy cannot be deleted as the policy is attached to one or more principals (name=%s): %s, of %d.", name, targets[0], len(targets))
		}
		return remove(tx, tx.policies, name)
	})
}

// CreatePolicyVersion adds a document to a policy, of which it then is the
// default if setDefault says so.
func (r *Registry) CreatePolicyVersion(name, document string, setDefault bool) (v Version, err error) {
	err = edit(r, name, func(tx *transaction, p *Policy) error {
		v, err = p.add("The policy "+name, Version{Document: document}, setDefault, MaxPolicyVersions, tx.now)
		return cmp.Or(tx.options.checkPolicy(document), err)
	})
	return v, err
}

// DeletePolicyVersion deletes a version that is not the default one.
func (r *Registry) DeletePolicyVersion(name string, version int) error {
	return edit(r, name, func(tx *transaction, p *Policy) error {
		if version == p.DefaultVersion {
			return invalid("Cannot delete the default version of policy %s.", name)
		}
		return p.remove("Policy "+name, version, tx.now)
	})
}

// SetDefaultPolicyVersion brings a version into effect.
func (r *Registry) SetDefaultPolicyVersion(name string, version int) error {
	return edit(r, name, func(tx *transaction, p *Policy) error {
		p.DefaultVersion, p.Modified = version, tx.now
		_, err := p.Find("Policy "+name, version)
		return err
	})
}

func (tx *transaction) createPolicy(name, document string) (Policy, error) {
	p := Policy{Name: name, Versioned: firstVersion(Version{Document: document}, tx.now), GenerationID: awsiot.NewUUID()}
	if err := checkName(awsiot.PolicyNames, "policy name", name); err != nil {
		return p, err
	}
	if tx.policies.has(name) {
		return p, rejectFor("policy/"+name, CodeAlreadyExists, "Policy cannot be created - name already exists (name=%s).", name)
	}
	tx.policies.put(name, p)
	return p, tx.options.checkPolicy(document)
}

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

// A PrincipalType says whether a certificate may belong to several things.
type PrincipalType string

// String returns AWS's name of the type.
func (t PrincipalType) String() string { return string(t) }

// The two kinds of attachment of a certificate to a thing. The empty type
// stands for NonExclusive in requests.
const (
	NonExclusive PrincipalType = "NON_EXCLUSIVE_THING"
	Exclusive    PrincipalType = "EXCLUSIVE_THING"
)

// An Attachment ties a certificate to a thing.
type Attachment struct {
	Thing, CertificateID string
	Type                 PrincipalType
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
		tx.policyTargets.remove(policy, string(target))
		return nil
	})
}

// ListAttachedPolicies returns the names of the policies of a target, sorted. For a
// thing group, recursive adds those of its ancestors.
func (r *Registry) ListAttachedPolicies(target Target, recursive bool) (names []string, err error) {
	s := r.state()
	targets := []Target{target}
	if group, ok := target.ThingGroup(); ok && recursive {
		targets = s.groupTargets(group)
	}
	for _, d := range s.documents(targets) {
		names = append(names, d.Name)
	}
	slices.Sort(names)
	return names, s.checkTarget(target)
}

// ListTargetsForPolicy returns what the policy is attached to.
func (r *Registry) ListTargetsForPolicy(policy string) (targets []Target, err error) {
	s := r.state()
	for _, t := range s.policyTargets.rightsOf(policy) {
		targets = append(targets, Target(t))
	}
	return targets, s.policies.check(policy)
}

// AttachThingPrincipal attaches a certificate to a thing. An exclusive
// attachment ties the certificate to that one thing: it is rejected while
// another thing has the certificate, as are others afterwards.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/exclusive-thing.html
func (r *Registry) AttachThingPrincipal(thing, certificateID string, kind PrincipalType) error {
	return r.update(func(tx *transaction) error { return tx.attachPrincipal(thing, certificateID, kind) })
}

// DetachThingPrincipal detaches a certificate from a thing. It is done when it returns; AWS takes
// some seconds. Detaching one that is not attached changes nothing.
func (r *Registry) DetachThingPrincipal(thing, certificateID string) error {
	return r.update(func(tx *transaction) error {
		tx.thingCerts.remove(thing, certificateID)
		return cmp.Or(tx.things.check(thing), tx.certificates.check(certificateID))
	})
}

// ListThingPrincipals returns the certificates of a thing.
func (r *Registry) ListThingPrincipals(thing string) (out []Attachment, err error) {
	s := r.state()
	for _, id := range s.thingCerts.rightsOf(thing) {
		kind, _ := s.thingCerts.get(thing, id)
		out = append(out, Attachment{thing, id, kind})
	}
	return out, s.things.check(thing)
}

// ListPrincipalThings returns the things of a certificate.
func (r *Registry) ListPrincipalThings(certificateID string) (out []Attachment, err error) {
	s := r.state()
	for _, thing := range s.thingCerts.leftsOf(certificateID) {
		kind, _ := s.thingCerts.get(thing, certificateID)
		out = append(out, Attachment{thing, certificateID, kind})
	}
	return out, s.certificates.check(certificateID)
}

func (s *state) checkTarget(target Target) error {
	if id, ok := target.Certificate(); ok {
		return s.certificates.check(id)
	}
	if name, ok := target.ThingGroup(); ok {
		return s.groups.check(name)
	}
	if target.Cognito() {
		return nil
	}
	return invalid("target %q is no certificate, thing group or Amazon Cognito identity", awsiot.Clip(string(target)))
}

func (tx *transaction) attachPolicy(policy string, target Target) error {
	err := cmp.Or(tx.policies.check(policy), tx.checkTarget(target))
	if err != nil || tx.policyTargets.has(policy, string(target)) {
		return err
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
	kind = cmp.Or(kind, NonExclusive)
	if kind != Exclusive && kind != NonExclusive {
		return invalid("thing principal type %q is neither %s nor %s", awsiot.Clip(string(kind)), Exclusive, NonExclusive)
	}
	if err := cmp.Or(tx.things.check(thing), tx.certificates.check(certificateID)); err != nil {
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
	switch current, ok := tx.thingCerts.get(thing, certificateID); {
	case !ok:
		tx.thingCerts.put(thing, certificateID, kind)
	case current != kind:
		return invalid("The certificate is attached to thing %s already, as %s.", thing, current)
	}
	return nil
}

// A PolicyDocument is one policy that holds for a session.
type PolicyDocument struct {
	Name     string
	Document string
}

// ThingFor returns the thing whose variables hold in a session of this certificate and MQTT client
// id: the certificate's exclusive thing, whatever the client id; else the thing named as the client
// id, if it is attached to the certificate. ok is false when there is none. An empty client id asks for
// the exclusive thing alone.
//
// AWS pages: https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html
// and https://docs.aws.amazon.com/iot/latest/developerguide/exclusive-thing.html
func (r *Registry) ThingFor(certificateID, clientID string) (thing Thing, ok bool) {
	s := r.state()
	name, ok := s.exclusiveThing(certificateID)
	if !ok && s.thingCerts.has(clientID, certificateID) {
		name = clientID
	}
	return s.things.get(name) // none has an empty name
}

// PoliciesFor returns the policies in effect, by their default versions: those of the certificate,
// and those of the groups, and their ancestors, of the thing that is named as the client id and
// attached to the certificate. Each policy comes once. An empty client id leaves the group policies
// out. A provisioning claim has that of Options.ClaimPolicy.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/thing-groups.html
func (r *Registry) PoliciesFor(certificateID, clientID string) []PolicyDocument {
	s := r.state()
	targets := []Target{CertificateTarget(certificateID)}
	if s.thingCerts.has(clientID, certificateID) {
		targets = append(targets, s.groupTargets(s.thingGroups.rightsOf(clientID)...)...)
	}
	documents := s.documents(targets)
	if c, _ := s.certificates.get(certificateID); c.ClaimTemplate != "" && r.options.ClaimPolicy != nil {
		documents = append(documents, PolicyDocument{"provisioning claim for " + c.ClaimTemplate, r.options.ClaimPolicy(c.ClaimTemplate)})
	}
	return documents
}

// EffectivePolicies returns what GetEffectivePolicies lists: the policies of a
// principal and those of a thing's groups and their ancestors, whether or not
// the two are attached. Either may be empty.
func (r *Registry) EffectivePolicies(principal Target, thing string) ([]PolicyDocument, error) {
	s := r.state()
	targets, err := s.groupTargets(s.thingGroups.rightsOf(thing)...), s.things.checkOptional(thing)
	if principal != "" {
		targets, err = append([]Target{principal}, targets...), cmp.Or(s.checkTarget(principal), err)
	}
	return s.documents(targets), err
}

func (s *state) exclusiveThing(certificateID string) (string, bool) {
	for _, name := range s.thingCerts.leftsOf(certificateID) {
		if kind, _ := s.thingCerts.get(name, certificateID); kind == Exclusive {
			return name, true
		}
	}
	return "", false
}

// groupTargets returns the groups and all their ancestors.
func (s *state) groupTargets(groups ...string) (targets []Target) {
	for _, group := range groups {
		for _, name := range s.lineage(group) {
			targets = append(targets, ThingGroupTarget(name))
		}
	}
	return targets
}

// documents returns the policies of the targets, each once.
func (s *state) documents(targets []Target) (out []PolicyDocument) {
	for _, target := range targets {
		for _, name := range s.policyTargets.leftsOf(string(target)) {
			if !slices.ContainsFunc(out, func(d PolicyDocument) bool { return d.Name == name }) {
				p, _ := s.policies.get(name)
				out = append(out, PolicyDocument{name, p.Default().Document})
			}
		}
	}
	return out
}

// A Version is one document of a policy, or one body of a provisioning template.
type Version struct {
	ID       int    // counts from 1 and is never reused
	Document string `json:",omitempty"` // of a policy
	Body     string `json:",omitempty"` // of a template
	Created  time.Time
}

// Versioned is what policies and provisioning templates have of their versions.
type Versioned struct {
	Versions          []Version // oldest first
	DefaultVersion    int       // the one in effect
	NextVersion       int
	Created, Modified time.Time
}

// firstVersion returns the versions of what is created with one.
func firstVersion(v Version, now time.Time) Versioned {
	v.ID, v.Created = 1, now
	return Versioned{[]Version{v}, 1, 2, now, now}
}

// Find returns the version with this id; the rejection without one says that what has none.
func (v Versioned) Find(what string, id int) (Version, error) {
	i := slices.IndexFunc(v.Versions, func(version Version) bool { return version.ID == id })
	if i < 0 {
		return Version{}, Reject(CodeNotFound, "%s has no version %d.", what, id)
	}
	return v.Versions[i], nil
}

// Default returns the version in effect.
func (v Versioned) Default() Version {
	version, _ := v.Find("", v.DefaultVersion)
	return version
}

// add adds the next version, of at most that many.
func (v *Versioned) add(what string, version Version, setDefault bool, most int, now time.Time) (Version, error) {
	if len(v.Versions) >= most {
		return version, Reject(CodeVersionsLimitExceeded, "%s already has the maximum number of versions (%d).", what, most)
	}
	version.ID, version.Created = v.NextVersion, now
	v.Versions = append(v.Versions, version)
	v.NextVersion++
	v.Modified = now
	if setDefault {
		v.DefaultVersion = version.ID
	}
	return version, nil
}

func (v *Versioned) remove(what string, id int, now time.Time) error {
	v.Modified = now
	_, err := v.Find(what, id)
	v.Versions = slices.DeleteFunc(v.Versions, func(version Version) bool { return version.ID == id })
	return err
}
