package registry

// A PolicyDocument is one policy that holds for a session.
type PolicyDocument struct {
	Name     string
	Document string
}

// ThingFor returns the thing whose variables hold in a session of this
// certificate and MQTT client id: the certificate's exclusive thing, whatever
// the client id; else the thing named as the client id, if it is attached to
// the certificate. ok is false when there is none.
//
// AWS pages: https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html
// and https://docs.aws.amazon.com/iot/latest/developerguide/exclusive-thing.html
func (r *Registry) ThingFor(certificateID, clientID string) (thing Thing, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := r.committed
	name, ok := s.exclusiveThing(certificateID)
	if !ok {
		name, ok = clientID, s.thingCerts.has(clientID, certificateID)
	}
	if !ok {
		return Thing{}, false
	}
	thing, ok = s.things.get(name)
	return thing.clone(), ok
}

// ExclusiveThing returns the name of the thing that the certificate is tied to
// exclusively. ok is false when there is none.
func (r *Registry) ExclusiveThing(certificateID string) (name string, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.committed.exclusiveThing(certificateID)
}

// PoliciesFor returns the policies in effect, by their default versions: those
// of the certificate, and those of the groups, and their ancestors, of the
// thing that is named as the client id and attached to the certificate. Each
// policy comes once. An empty client id leaves the group policies out.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/developerguide/thing-groups.html
func (r *Registry) PoliciesFor(certificateID, clientID string) []PolicyDocument {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := r.committed
	targets := []Target{CertificateTarget(certificateID)}
	if s.thingCerts.has(clientID, certificateID) {
		targets = append(targets, s.groupTargets(clientID)...)
	}
	return s.documents(targets)
}

// EffectivePolicies returns what GetEffectivePolicies lists: the policies of a
// principal and those of a thing's groups and their ancestors, whether or not
// the two are attached. Either may be empty.
func (r *Registry) EffectivePolicies(principal Target, thing string) ([]PolicyDocument, error) {
	return read(r, func(s *state) ([]PolicyDocument, error) {
		var targets []Target
		if principal != "" {
			if err := s.checkTarget(principal); err != nil {
				return nil, err
			}
			targets = append(targets, principal)
		}
		if thing != "" {
			if _, err := s.thing(thing); err != nil {
				return nil, err
			}
			targets = append(targets, s.groupTargets(thing)...)
		}
		return s.documents(targets), nil
	})
}

func (s *state) exclusiveThing(certificateID string) (string, bool) {
	for _, name := range s.thingCerts.leftsOf(certificateID) {
		if kind, _ := s.thingCerts.get(name, certificateID); kind == Exclusive {
			return name, true
		}
	}
	return "", false
}

// groupTargets returns the thing's groups and all their ancestors.
func (s *state) groupTargets(thing string) (targets []Target) {
	for _, group := range s.thingGroups.rightsOf(thing) {
		targets = append(targets, s.lineage(group)...)
	}
	return targets
}

// lineage returns a group and its ancestors as targets of policies.
func (s *state) lineage(group string) []Target {
	targets := []Target{ThingGroupTarget(group)}
	for _, name := range s.ancestors(group) {
		targets = append(targets, ThingGroupTarget(name))
	}
	return targets
}

func (s *state) documents(targets []Target) []PolicyDocument {
	var out []PolicyDocument
	seen := map[string]bool{}
	for _, target := range targets {
		for _, name := range s.policyTargets.leftsOf(string(target)) {
			if seen[name] {
				continue
			}
			seen[name] = true
			p, _ := s.policies.get(name)
			out = append(out, PolicyDocument{name, p.Document()})
		}
	}
	return out
}
