package controlapi

import (
	"time"

	"example.com/fleety/device/localcore/registry"
)

// roleAliasBody is the body of CreateRoleAlias and UpdateRoleAlias; only the
// former has tags.
type roleAliasBody struct {
	RoleARN  string `json:"roleArn"`
	Duration *int64 `json:"credentialDurationSeconds"`
}

func (b roleAliasBody) alias(name string) (registry.RoleAlias, error) {
	a := registry.RoleAlias{Name: name, RoleARN: b.RoleARN}
	if b.Duration == nil {
		return a, nil
	}
	a.CredentialDuration = time.Duration(*b.Duration) * time.Second
	if *b.Duration < 900 || *b.Duration > 43200 {
		return a, invalid("credentialDurationSeconds is %d, it must be 900 to 43200", *b.Duration)
	}
	return a, nil
}

func (a *api) roleAliasName(name string) object {
	return object{"roleAlias": name, "roleAliasArn": a.arn("rolealias/" + name)}
}

func (a *api) createRoleAlias(q *request, in struct {
	roleAliasBody
	Tags tags `json:"tags"`
}) (any, error) {
	alias, err := in.alias(q.path("roleAlias"))
	if err != nil {
		return nil, err
	}
	_, err = tagged(a, in.Tags, "rolealias/"+alias.Name, func() (registry.RoleAlias, error) { return a.Registry.CreateRoleAlias(alias) })
	return a.roleAliasName(alias.Name), err
}

func (a *api) describeRoleAlias(q *request) (any, error) {
	alias, err := a.Registry.DescribeRoleAlias(q.path("roleAlias"))
	description := a.roleAliasName(alias.Name)
	description["roleArn"], description["owner"] = alias.RoleARN, a.Account
	description["credentialDurationSeconds"] = int64(alias.CredentialDuration.Seconds())
	description["creationDate"], description["lastModifiedDate"] = epoch(alias.Created), epoch(alias.Modified)
	return object{"roleAliasDescription": description}, err
}

func (a *api) updateRoleAlias(q *request, in roleAliasBody) (any, error) {
	alias, err := in.alias(q.path("roleAlias"))
	if err != nil {
		return nil, err
	}
	return a.roleAliasName(alias.Name), a.Registry.UpdateRoleAlias(alias)
}

func (a *api) listRoleAliases(q *request) (any, error) {
	return list(q, "roleAliases", a.Registry.ListRoleAliases(),
		func(alias registry.RoleAlias) string { return ageKey(alias.Created, alias.Name) },
		func(alias registry.RoleAlias) string { return alias.Name })
}
