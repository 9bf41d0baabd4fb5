package registry

import (
	"cmp"
	"strings"
	"time"

	"example.com/fleety/device/awsiot"
)

// How long the credentials of a role alias can be valid.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateRoleAlias.html
const (
	MinCredentialDuration = 15 * time.Minute
	MaxCredentialDuration = 12 * time.Hour
)

// A RoleAlias is the name under which devices request the credentials of an IAM role.
type RoleAlias struct {
	Name, RoleARN      string
	CredentialDuration time.Duration
	Created, Modified  time.Time
}

func (a RoleAlias) check() error {
	arn, err := awsiot.ParseARN(a.RoleARN)
	switch {
	case !awsiot.RoleAliases.Valid(a.Name):
		return invalid("role alias %q must have %s", awsiot.Clip(a.Name), awsiot.RoleAliases)
	case err != nil || arn.Service != "iam" || !strings.HasPrefix(arn.Resource, "role/") || len(a.RoleARN) > 2048:
		return invalid("%q is not the ARN of an IAM role", awsiot.Clip(a.RoleARN))
	case a.CredentialDuration < MinCredentialDuration || a.CredentialDuration > MaxCredentialDuration:
		return invalid("credentialDurationSeconds is %d, it must be 900 to 43200", int64(a.CredentialDuration.Seconds()))
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
