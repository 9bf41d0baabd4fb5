package registry

import (
	"cmp"
	"slices"
	"time"

	"example.com/fleety/device/awsiot"
)

// A Policy is an IoT policy with its versions, oldest first.
type Policy struct {
	Name              string
	Versions          []PolicyVersion
	DefaultVersion    int
	NextVersion       int
	Created, Modified time.Time
	// GenerationID is a random UUID, new for each creation of the name; empty in
	// records of earlier versions of this program.
	GenerationID string
}

// A PolicyVersion is one document of a policy. Versions count from 1 and are
// never reused.
type PolicyVersion struct {
	ID       int
	Document string
	Created  time.Time
}

func (p Policy) clone() Policy {
	p.Versions = slices.Clone(p.Versions)
	return p
}

// Version returns the version with this id.
func (p Policy) Version(id int) (PolicyVersion, bool) {
	i := slices.IndexFunc(p.Versions, func(v PolicyVersion) bool { return v.ID == id })
	if i < 0 {
		return PolicyVersion{}, false
	}
	return p.Versions[i], true
}

// Document returns the document of the default version, the one in effect.
func (p Policy) Document() string {
	v, _ := p.Version(p.DefaultVersion)
	return v.Document
}

// CreatePolicy makes a policy; the document becomes version 1.
func (r *Registry) CreatePolicy(name, document string) (Policy, error) {
	return mutate(r, func(tx *transaction) (Policy, error) { return tx.createPolicy(name, document) })
}

// GetPolicy returns the policy with its versions.
func (r *Registry) GetPolicy(name string) (Policy, error) {
	return describe(r, r.committed.policies, name)
}

// ListPolicies returns all policies in the order of their names.
func (r *Registry) ListPolicies() []Policy {
	return list(r, r.committed.policies, nil)
}

// DeletePolicy deletes a policy that is attached to nothing and has only its
// default version. AWS may require a wait of five minutes after
// detaching; this does not.
func (r *Registry) DeletePolicy(name string) error {
	return r.update(func(tx *transaction) error {
		p, err := tx.policies.find(name)
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
		p, err := tx.policies.find(name)
		if err := cmp.Or(err, tx.options.checkPolicy(document)); err != nil {
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

// policyWith returns the policy if it has that version.
func (s *state) policyWith(name string, version int) (Policy, error) {
	p, err := s.policies.find(name)
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
		return Policy{}, rejectFor("policy/"+name, CodeAlreadyExists, "Policy cannot be created - name already exists (name=%s).", name)
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
