package registry

import (
	"slices"

	"example.com/fleety/device/awsiot"
)

// CreatePolicy makes a policy; the document becomes version 1.
func (r *Registry) CreatePolicy(name, document string) (Policy, error) {
	return mutate(r, func(tx *transaction) (Policy, error) { return tx.createPolicy(name, document) })
}

// GetPolicy returns the policy with its versions.
func (r *Registry) GetPolicy(name string) (Policy, error) {
	return read(r, func(s *state) (Policy, error) {
		p, err := s.policy(name)
		return p.clone(), err
	})
}

// ListPolicies returns all policies in the order of their names.
func (r *Registry) ListPolicies() []Policy {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := r.committed.policies.all()
	for i := range all {
		all[i] = all[i].clone()
	}
	return all
}

// DeletePolicy deletes a policy that is attached to nothing and has only its
// default version. AWS may require a wait of five minutes after
// detaching; this does not.
func (r *Registry) DeletePolicy(name string) error {
	return r.update(func(tx *transaction) error {
		p, err := tx.policy(name)
		if err != nil {
			return err
		}
		if len(p.Versions) > 1 {
			return Reject(CodeDeleteConflict, "Cannot delete the policy because it has one or more policy versions attached to it (name=%s).", name)
		}
		if targets := tx.policyTargets.rightsOf(name); len(targets) > 0 {
			return Reject(CodeDeleteConflict, "The policy cannot be deleted as the policy is attached to one or more principals (name=%s): %s, of %d.", name, targets[0], len(targets))
		}
		tx.policies.remove(name)
		tx.tags.remove("policy/" + name)
		return nil
	})
}

// CreatePolicyVersion adds a document to a policy, of which it then is the
// default if setDefault says so.
func (r *Registry) CreatePolicyVersion(name, document string, setDefault bool) (PolicyVersion, error) {
	return mutate(r, func(tx *transaction) (PolicyVersion, error) {
		p, err := tx.policy(name)
		if err != nil {
			return PolicyVersion{}, err
		}
		if err := tx.options.checkPolicy(document); err != nil {
			return PolicyVersion{}, err
		}
		if len(p.Versions) >= MaxPolicyVersions {
			return PolicyVersion{}, Reject(CodeVersionsLimitExceeded, "The policy %s already has the maximum number of versions (%d).", name, MaxPolicyVersions)
		}
		v := PolicyVersion{ID: p.NextVersion, Document: document, Created: tx.now}
		p.Versions = append(slices.Clone(p.Versions), v)
		p.NextVersion++
		p.Modified = tx.now
		if setDefault {
			p.DefaultVersion = v.ID
		}
		tx.policies.put(name, p)
		return v, nil
	})
}

// DeletePolicyVersion deletes a version that is not the default one.
func (r *Registry) DeletePolicyVersion(name string, version int) error {
	return r.update(func(tx *transaction) error {
		p, err := tx.policyWith(name, version)
		if err != nil {
			return err
		}
		if version == p.DefaultVersion {
			return invalid("Cannot delete the default version of policy %s.", name)
		}
		p.Versions = slices.DeleteFunc(slices.Clone(p.Versions), func(v PolicyVersion) bool { return v.ID == version })
		p.Modified = tx.now
		tx.policies.put(name, p)
		return nil
	})
}

// SetDefaultPolicyVersion brings a version into effect.
func (r *Registry) SetDefaultPolicyVersion(name string, version int) error {
	return r.update(func(tx *transaction) error {
		p, err := tx.policyWith(name, version)
		if err != nil {
			return err
		}
		p.DefaultVersion, p.Modified = version, tx.now
		tx.policies.put(name, p)
		return nil
	})
}

func (s *state) policy(name string) (Policy, error) {
	return find(s.policies, "policy", "Policy", name)
}

// policyWith returns the policy if it has that version.
func (s *state) policyWith(name string, version int) (Policy, error) {
	p, err := s.policy(name)
	if err != nil {
		return Policy{}, err
	}
	if _, ok := p.Version(version); !ok {
		return Policy{}, Reject(CodeNotFound, "Policy %s has no version %d.", name, version)
	}
	return p, nil
}

func (tx *transaction) createPolicy(name, document string) (Policy, error) {
	if !awsiot.ValidPolicyName(name) {
		return Policy{}, invalid("policy name %q must have %s", clip(name), awsiot.PolicyNameRule)
	}
	if tx.policies.has(name) {
		e := Reject(CodeAlreadyExists, "Policy cannot be created - name already exists (name=%s).", name)
		e.Resource = "policy/" + name
		return Policy{}, e
	}
	if err := tx.options.checkPolicy(document); err != nil {
		return Policy{}, err
	}
	p := Policy{
		Name: name, DefaultVersion: 1, NextVersion: 2, Created: tx.now, Modified: tx.now, GenerationID: newID(),
		Versions: []PolicyVersion{{ID: 1, Document: document, Created: tx.now}},
	}
	tx.policies.put(name, p)
	return p.clone(), nil
}
