package registry

import (
	"cmp"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// A RoleAlias is the name under which devices request the credentials of an IAM role.
type RoleAlias struct {
	Name, RoleARN      string
	CredentialDuration time.Duration
	Created, Modified  time.Time
}

func (a RoleAlias) check() error {
	if arn, err := awsiot.ParseARN(a.RoleARN); err != nil || arn.Service != "iam" || !strings.HasPrefix(arn.Resource, "role/") {
		return invalid("%q is not the ARN of an IAM role", awsiot.Clip(a.RoleARN))
	}
	return nil
}

// CreateRoleAlias makes a role alias. A zero CredentialDuration means an hour;
// the times are set here. The role itself is not looked for.
func (r *Registry) CreateRoleAlias(a RoleAlias) (RoleAlias, error) {
	return mutate(r, func(tx *transaction) (RoleAlias, error) {
		a.CredentialDuration = cmp.Or(a.CredentialDuration, time.Hour)
		a.Created, a.Modified = tx.now, tx.now
		switch err := a.check(); {
		case err != nil:
			return a, err
		case tx.roleAliases.has(a.Name):
			return a, rejectFor("rolealias/"+a.Name, CodeAlreadyExists, "Role alias %s already exists.", a.Name)
		case len(tx.roleAliases.keys()) >= MaxRoleAliases:
			return a, Reject(CodeLimitExceeded, "The account has %d role aliases, at most %d are allowed.", MaxRoleAliases, MaxRoleAliases)
		}
		tx.roleAliases.put(a.Name, a)
		return a, nil
	})
}

// DescribeRoleAlias returns the role alias.
func (r *Registry) DescribeRoleAlias(name string) (RoleAlias, error) {
	return r.state().roleAliases.find(name)
}

// ListRoleAliases returns all role aliases in the order of their names.
func (r *Registry) ListRoleAliases() []RoleAlias { return r.state().roleAliases.all() }

// UpdateRoleAlias replaces what u has of role and duration.
func (r *Registry) UpdateRoleAlias(u RoleAlias) error {
	return edit(r, u.Name, func(tx *transaction, a *RoleAlias) error {
		a.RoleARN = cmp.Or(u.RoleARN, a.RoleARN)
		a.CredentialDuration = cmp.Or(u.CredentialDuration, a.CredentialDuration)
		a.Modified = tx.now
		return a.check()
	})
}

// DeleteRoleAlias deletes a role alias. Credentials that it gave stay valid.
func (r *Registry) DeleteRoleAlias(name string) error {
	return r.update(func(tx *transaction) error { return remove(tx, tx.roleAliases, name) })
}
